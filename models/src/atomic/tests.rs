use super::*;

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn put(folder: &Path, name: &str, text: &str) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join(name), text).unwrap();
}

fn fill(text: &'static str) -> impl FnOnce(&Path) -> Result<()> {
    move |folder| {
        put(folder, "a", text);
        Ok(())
    }
}

#[test]
fn a_folder_is_replaced_completely_or_not_at_all() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("made/out");
    write_folder(&target, fill("1")).unwrap();
    put(&target, "b", "of the first");
    write_folder(&target, fill("2")).unwrap();
    assert_eq!((names(&target), fs::read_to_string(target.join("a")).unwrap()), (vec!["a".to_owned()], "2".to_owned()));
    let full = |folder: &Path| -> Result<()> {
        put(folder, "a", "half");
        Err(WriteError::io(folder, io::ErrorKind::StorageFull.into()))
    };
    assert!(matches!(write_folder(&target, full), Err(WriteError::Io { .. })));
    assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "2");
    assert_eq!(names(&root.path().join("made")), ["out"]);
}

#[test]
fn a_partly_deleted_folder_is_not_restored() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("out");
    put(&target, "a", "1");
    remove_folder(&target).unwrap();
    assert!(names(root.path()).is_empty());
    assert!(remove_folder(&target).is_err());
    put(&root.path().join(".out.new"), "a", "half deleted");
    recover(&target).unwrap();
    assert!(names(root.path()).is_empty());
}

#[test]
fn a_file_is_replaced_completely_or_not_at_all() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("out.bin");
    write_bytes(&target, b"one").unwrap();
    let half = |file: &mut File| -> Result<()> {
        file.write_all(b"tw").unwrap();
        Err(WriteError::io(Path::new("out.bin"), io::ErrorKind::StorageFull.into()))
    };
    assert!(write_file(&target, half).is_err());
    assert_eq!((fs::read(&target).unwrap(), names(root.path())), (b"one".to_vec(), vec!["out.bin".to_owned()]));
    write_bytes(&target, b"two").unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"two");
}

#[test]
fn a_file_and_a_folder_do_not_replace_each_other() {
    let root = tempfile::tempdir().unwrap();
    let (file, folder) = (root.path().join("file"), root.path().join("folder"));
    fs::write(&file, "text").unwrap();
    put(&folder, "a", "text");
    assert!(matches!(write_folder(&file, fill("1")), Err(WriteError::Occupied { .. })));
    assert!(matches!(write_bytes(&folder, b"1"), Err(WriteError::Occupied { .. })));
    assert_eq!((fs::read_to_string(&file).unwrap(), names(&folder)), ("text".to_owned(), vec!["a".to_owned()]));
    assert_eq!(names(root.path()), ["file", "folder"]);
}

#[test]
fn the_next_write_cleans_up_after_a_crash() {
    let root = tempfile::tempdir().unwrap();
    let (target, new, old) = (root.path().join("out"), root.path().join(".out.new"), root.path().join(".out.old"));
    // A crash before the renames, and one after them.
    put(&new, "half", "");
    write_folder(&target, fill("1")).unwrap();
    put(&old, "replaced", "");
    write_folder(&target, fill("2")).unwrap();
    assert_eq!(names(root.path()), ["out"]);
    // Between them, the old folder is the only complete one: a write that fails restores it.
    fs::rename(&target, &old).unwrap();
    put(&new, "half", "");
    assert!(write_folder(&target, |folder| Err(WriteError::io(folder, io::ErrorKind::StorageFull.into()))).is_err());
    assert_eq!(
        (names(root.path()), fs::read_to_string(target.join("a")).unwrap()),
        (vec!["out".to_owned()], "2".to_owned())
    );
    fs::rename(&target, &old).unwrap();
    recover(&target).unwrap();
    assert_eq!(names(root.path()), ["out"]);
    // A file.
    fs::write(root.path().join(".f.new"), "half").unwrap();
    write_bytes(&root.path().join("f"), b"whole").unwrap();
    assert_eq!(names(root.path()), ["f", "out"]);
}

#[cfg(unix)]
#[test]
fn only_one_writer_at_a_time_is_allowed() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("out");
    let result: Result<()> = write_folder(&target, |folder| {
        assert!(matches!(write_folder(&target, fill("other")), Err(WriteError::Busy { .. })));
        assert!(matches!(recover(&target), Err(WriteError::Busy { .. })));
        put(folder, "a", "mine");
        Ok(())
    });
    result.unwrap();
    assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "mine");
}

#[cfg(unix)]
#[test]
fn a_link_is_kept_and_what_it_leads_to_is_replaced() {
    let root = tempfile::tempdir().unwrap();
    let (link, real) = (root.path().join("link"), root.path().join("real"));
    put(&real, "a", "1");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    write_folder(&link, fill("2")).unwrap();
    assert!(link.is_symlink());
    assert_eq!(fs::read_to_string(real.join("a")).unwrap(), "2");
}

#[test]
fn abandoned_writes_leave_the_old_target() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("out");
    write_folder(&target, fill("1")).unwrap();
    let abandon = || drop(abandon_where(|path| path.starts_with(fs::canonicalize(root.path()).unwrap())));
    let during = |folder: &Path| -> Result<()> {
        put(folder, "a", "half");
        assert_eq!(names(root.path()), [".out.new", "out"]);
        abandon();
        assert_eq!(names(root.path()), ["out"]);
        Err(WriteError::io(folder, io::ErrorKind::Interrupted.into()))
    };
    write_folder(&target, during).unwrap_err();
    abandon();
    assert_eq!((names(root.path()), names(&target)), (vec!["out".to_owned()], vec!["a".to_owned()]));
}

/// Ctrl-C may come at any moment, also while a new version is made or renamed.
#[test]
fn abandoned_writes_leave_all_or_nothing_whenever_they_are_abandoned() {
    let root = tempfile::tempdir().unwrap();
    let place = fs::canonicalize(root.path()).unwrap();
    let expected: Vec<String> = (0..20).map(|index| index.to_string()).collect();
    let writes = |round: usize| {
        let folder = place.join(format!("folder-{round}"));
        let whole = |folder: &Path| -> Result<()> {
            // The folder may be gone.
            expected.iter().for_each(|name| drop(fs::write(folder.join(name), name)));
            Ok(())
        };
        write_folder(&folder, whole).ok();
        let parts: Vec<PathBuf> = (0..20).map(|index| place.join(format!("part-{round}-{index}"))).collect();
        write_files(&parts, |index, file| file.write_all(b"x").map_err(|error| WriteError::io(&parts[index], error))).ok();
    };
    for round in 0..60 {
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| writes(round));
            std::thread::sleep(std::time::Duration::from_micros(round as u64 * 150));
            // As the process that ends: nothing goes on until all has been looked at.
            let ended = abandon_where(|target| target.starts_with(&place));
            let left = names(&place);
            let folder = place.join(format!("folder-{round}"));
            assert!(!folder.exists() || names(&folder).len() == expected.len(), "round {round}: {:?}", names(&folder));
            assert!(!left.iter().any(|name| name.starts_with('.')), "round {round}: {left:?}");
            let parts = left.iter().filter(|name| name.starts_with(&format!("part-{round}-"))).count();
            assert!(parts == 0 || parts == 20, "round {round}: {parts} parts");
            drop(ended);
            writer.join().unwrap();
        });
        fs::read_dir(&place).unwrap().for_each(|entry| drop(remove(&entry.unwrap().path())));
    }
}

#[test]
fn files_that_belong_together_are_replaced_together() {
    let work = tempfile::tempdir().unwrap();
    let targets = ["a", "b", "c"].map(|name| work.path().join(name));
    let write = |text: &str, last: bool| {
        write_files(&targets, |index, file| {
            if index == 2 && !last {
                return Err(WriteError::io(&targets[2], io::ErrorKind::StorageFull.into()));
            }
            file.write_all(format!("{text}{index}").as_bytes()).map_err(|error| WriteError::io(&targets[index], error))
        })
    };
    let read = || targets.each_ref().map(|path| std::fs::read_to_string(path).ok());
    let of = |text: &str| [0, 1, 2].map(|index| Some(format!("{text}{index}")));
    assert!(write("old", false).is_err());
    assert_eq!(read(), [None, None, None]);
    write("old", true).unwrap();
    assert_eq!(read(), of("old"));
    assert!(write("new", false).is_err());
    assert_eq!(read(), of("old"));
    write("new", true).unwrap();
    assert_eq!(read(), of("new"));
    assert_eq!(std::fs::read_dir(work.path()).unwrap().count(), 3);
}

#[test]
#[cfg(target_os = "linux")]
fn many_files_are_not_all_open_at_once() {
    let work = tempfile::tempdir().unwrap();
    let folder = std::fs::canonicalize(work.path()).unwrap();
    let targets: Vec<PathBuf> = (0..300).map(|index| folder.join(format!("part-{index}"))).collect();
    let open = || {
        let all = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        all.filter(|file| std::fs::read_link(file.path()).is_ok_and(|path| path.starts_with(&folder))).count()
    };
    let mut most = 0;
    write_files(&targets, |index, file| {
        most = most.max(open());
        file.write_all(&[index as u8]).map_err(|error| WriteError::io(&targets[index], error))
    })
    .unwrap();
    assert!((1..=2).contains(&most), "{most} were open");
    assert_eq!(std::fs::read(&targets[299]).unwrap(), [43]);
}
