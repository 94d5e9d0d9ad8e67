//! The processes of a run: one that waits, and one a reader.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use burnish_fuzz::attempt::without_numbers;
use burnish_fuzz::fuzz::Limit;
use burnish_fuzz::{Fault, Stats, Target, fuzz};

/// The file with the figures of a child.
const STATS: &str = "stats.json";
/// The folder with its files that show faults.
const FOUND: &str = "found";
/// Faults of one kind that a child keeps the files of.
const KEPT: usize = 3;

/// Fuzzes a reader in a folder, and writes the figures and the files that show faults there.
pub fn child(target: &Target, folder: &Path, seed: u64, time: Duration) -> Result<ExitCode> {
    std::panic::set_hook(Box::new(|_| {}));
    let (stats, found) = (folder.join(STATS), folder.join(FOUND));
    std::fs::create_dir_all(&found)?;
    let mut messages: Vec<String> = Vec::new();
    let keep = |bytes: &[u8], fault: &Fault| {
        // Panics are told apart by their messages.
        let name = match fault {
            Fault::Panic(message) => format!("panic: {}", without_numbers(message)),
            Fault::Allocation(_) | Fault::Slow(_) => fault.name().to_owned(),
        };
        if messages.iter().filter(|known| **known == name).count() < KEPT {
            messages.push(name);
            let path = found.join(format!("{}-{}", fault.name(), messages.len()));
            std::fs::write(&path, bytes).ok();
            std::fs::write(path.with_extension("txt"), format!("{fault:?} of a file of {} bytes", bytes.len())).ok();
        }
    };
    let tell = |figures: &Stats| drop(std::fs::write(&stats, figures.to_json().to_string()));
    let figures = fuzz(target, &folder.join("read"), seed, Limit::Time(time), keep, tell)?;
    std::fs::write(&stats, figures.to_json().to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the readers, `jobs` at once, and prints a line for each.
pub fn parent(targets: &[&Target], jobs: usize, seed: u64, seconds: u64, failures: &Path) -> Result<ExitCode> {
    let (next, faults, errors) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
    println!("{:<16} {:>10} {:>7} {:>9} {:>9} {:>8} {:>7}", "reader", "files", "corpus", "× file", "MiB", "ms", "faults");
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(target) = targets.get(next.fetch_add(1, Ordering::SeqCst)) {
                    match run(target, seed, seconds, failures) {
                        Ok(count) => drop(faults.fetch_add(count, Ordering::SeqCst)),
                        Err(error) => errors.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(error),
                    }
                }
            });
        }
    });
    if let Some(error) = errors.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).pop() {
        return Err(error);
    }
    let count = faults.into_inner();
    println!("{count} faults{}", if count > 0 { format!(", see {}", failures.display()) } else { String::new() });
    Ok(if count > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Runs one reader, again with another seed where its process ended early, and returns the number of faults.
fn run(target: &Target, seed: u64, seconds: u64, failures: &Path) -> Result<usize> {
    let (end, mut all, mut count) = (Instant::now() + Duration::from_secs(seconds), Stats::default(), 0);
    let memory = PathBuf::from("/dev/shm");
    let root = if memory.is_dir() { memory } else { std::env::temp_dir() };
    for turn in 0.. {
        let left = end.saturating_duration_since(Instant::now()).as_secs();
        if left == 0 && turn > 0 || turn == 20 {
            break;
        }
        let folder = tempfile::tempdir_in(&root)?;
        std::fs::create_dir(folder.path().join("read"))?;
        let status = Command::new(std::env::current_exe()?)
            .args(["--target", target.name, "--seed", &(seed + turn).to_string(), "--seconds", &left.max(1).to_string()])
            .arg("--child")
            .arg(folder.path())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("stderr"))?)
            .status()?;
        let stats = std::fs::read(folder.path().join(STATS)).unwrap_or_default();
        all.add(&Stats::from_json(&serde_json::from_slice(&stats).unwrap_or_default()));
        count += keep(target, &folder.path().join(FOUND), failures)?;
        if status.success() {
            break;
        }
        count += 1;
        let said = std::fs::read_to_string(folder.path().join("stderr")).unwrap_or_default();
        let file = folder.path().join("read").join(target.file);
        save(&std::fs::read(&file).unwrap_or_default(), target, "end", failures, &format!("{status}: {said}"))?;
    }
    println!(
        "{:<16} {:>10} {:>7} {:>9.2} {:>9.2} {:>8.1} {count:>7}",
        target.name,
        all.executions,
        all.corpus,
        all.ratio,
        all.peak as f64 / f64::from(1 << 20),
        all.slowest.as_secs_f64() * 1e3
    );
    Ok(count)
}

/// Keeps the files that a child found, and returns how many there are.
fn keep(target: &Target, found: &Path, failures: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir(found).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some() {
            continue;
        }
        count += 1;
        let said = std::fs::read_to_string(path.with_extension("txt")).unwrap_or_default();
        let name = entry.file_name().to_string_lossy().into_owned();
        save(&std::fs::read(&path)?, target, &name, failures, &said)?;
    }
    Ok(count)
}

fn save(bytes: &[u8], target: &Target, name: &str, failures: &Path, said: &str) -> Result<()> {
    std::fs::create_dir_all(failures).with_context(|| failures.display().to_string())?;
    for number in 1.. {
        let path = failures.join(format!("{}-{name}-{number}", target.name));
        if !path.exists() {
            println!("{}: {}: {}", target.name, path.display(), said.trim());
            return std::fs::write(&path, bytes).with_context(|| path.display().to_string());
        }
    }
    Ok(())
}
