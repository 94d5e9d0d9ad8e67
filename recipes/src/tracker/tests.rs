use std::fs;
use std::path::PathBuf;

use super::datastore::records;
use super::protobuf::{Value as Field, field, fields};
use super::*;

#[derive(Default)]
struct Kept(Vec<String>);

impl Events for Kept {
    fn note(&mut self, line: &str) {
        self.0.push(line.to_owned());
    }

    fn end(&mut self, finished: bool) {
        self.0.push(format!("end {finished}"));
    }
}

fn step(number: usize, loss: f64) -> StepMetrics {
    let line = serde_json::json!({
        "step": number, "loss": loss, "learning_rate": 1e-3, "grad_norm": null, "tokens": 8, "tokens_per_second": 4.0,
        "step_ms": 2.0, "skipped": 0, "rewards/margins": 0.5,
    });
    serde_json::from_value(line).unwrap()
}

fn config(folder: &Path, report_to: &str) -> TrainConfig {
    let report_to = serde_json::from_value(report_to.into()).unwrap();
    TrainConfig { report_to, output_dir: folder.display().to_string(), model: "m".to_owned(), ..TrainConfig::default() }
}

fn opened(config: &TrainConfig, done: usize) -> (Arc<Mutex<dyn Events>>, Arc<Mutex<Kept>>) {
    let kept = Arc::new(Mutex::new(Kept::default()));
    (open(config, done, kept.clone()).unwrap(), kept)
}

/// The steps from `first` on, with one loss; a validation after the last.
fn run(config: &TrainConfig, done: usize, last: usize, loss: f64, ended: Option<bool>) {
    let (events, _) = opened(config, done);
    let mut events = events.lock().unwrap();
    for number in done + 1..=last {
        events.step(&step(number, loss), last);
    }
    events.evaluation(last, &Evaluation { loss, perplexity: None, tokens: 8 }, true);
    events.checkpoint(Path::new("checkpoint"));
    if let Some(finished) = ended {
        events.end(finished);
    }
}

fn text(field: Field<'_>) -> String {
    let Field::Bytes(bytes) = field else { panic!() };
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn integer(message: &[u8], number: u32) -> u64 {
    match field(message, number) {
        Some(Field::Integer(value)) => value,
        None => 0,
        other => panic!("{other:?}"),
    }
}

/// The only file below a folder with this extension.
fn only(folder: &Path, extension: &str) -> PathBuf {
    let runs = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    let files = runs.flat_map(|run| fs::read_dir(run).unwrap().flatten().map(|entry| entry.path()).collect::<Vec<_>>());
    let found: Vec<PathBuf> = files.filter(|file| file.extension().is_some_and(|found| found == extension)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

/// The rows of a `.wandb` file: step and values.
fn rows(records: &[Vec<u8>]) -> Vec<(u64, Vec<(String, String)>)> {
    let history = records.iter().filter_map(|record| match field(record, 2) {
        Some(Field::Bytes(history)) => Some(history),
        _ => None,
    });
    let row = |history: &[u8]| {
        let Some(Field::Bytes(step)) = field(history, 2) else { panic!() };
        let items = fields(history).filter_map(|(number, value)| match value {
            Field::Bytes(item) if number == 1 => Some((text(field(item, 2).unwrap()), text(field(item, 16).unwrap()))),
            _ => None,
        });
        (integer(step, 1), items.collect())
    };
    history.map(row).collect()
}

#[test]
fn a_wandb_run_that_is_continued_has_every_step_once() {
    let folder = tempfile::tempdir().unwrap();
    let config = TrainConfig { project_name: "mine".to_owned(), ..config(folder.path(), "wandb") };
    let own = folder.path().join("wandb");
    run(&config, 0, 4, 2.0, Some(false));
    let file = only(&own, "wandb");
    let before = records(&fs::read(&file).unwrap());
    let exits = |records: &[Vec<u8>]| records.iter().filter(|record| field(record, 18).is_some()).count();
    assert_eq!((rows(&before).len(), exits(&before)), (4, 1));
    // A killed run leaves half a record, and the user may have uploaded it.
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 3]).unwrap();
    let synced = PathBuf::from(format!("{}.synced", file.display()));
    fs::write(&synced, "").unwrap();
    run(&config, 2, 5, 1.0, Some(true));
    assert!(!synced.exists());
    let after = records(&fs::read(only(&own, "wandb")).unwrap());
    let rows = rows(&after);
    let value =
        |row: &[(String, String)], key: &str| row.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
    let losses: Vec<(u64, Option<String>)> = rows.iter().map(|(step, row)| (*step, value(row, "train/loss"))).collect();
    let loss = |text: &str| Some(text.to_owned());
    assert_eq!(losses, [(1, loss("2.0")), (2, loss("2.0")), (3, loss("1.0")), (4, loss("1.0")), (5, loss("1.0"))]);
    assert_eq!(value(&rows[4].1, "eval/loss"), loss("1.0"));
    assert_eq!(value(&rows[0].1, "train/grad_norm"), loss("NaN"));
    assert_eq!(value(&rows[0].1, "train/rewards/margins"), loss("0.5"));
    assert_eq!((exits(&after), integer(&after[0], 1)), (1, 1));
    let begun: Vec<&Vec<u8>> = after.iter().filter(|record| field(record, 17).is_some()).collect();
    let Some(Field::Bytes(begun)) = field(begun[0], 17) else { panic!() };
    assert_eq!(text(field(begun, 3).unwrap()), "mine");
    assert!(file.ends_with(format!("run-{}.wandb", text(field(begun, 1).unwrap()))));
    let numbers: Vec<u64> = after.iter().map(|record| integer(record, 1)).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
}

/// The events of a file, in order: step, and number of the field that it carries.
fn events(file: &Path) -> Vec<(u64, u32)> {
    let (bytes, mut found) = (fs::read(file).unwrap(), Vec::new());
    let mut rest = &bytes[..];
    while let Some((length, tail)) = rest.split_first_chunk::<8>() {
        let length = u64::from_le_bytes(*length) as usize;
        let event = &tail[4..4 + length];
        let kind = fields(event).map(|(number, _)| number).find(|number| *number > 2).unwrap();
        found.push((integer(event, 2), kind));
        rest = &tail[length + 8..];
    }
    found
}

#[test]
fn event_files_are_continued_and_what_came_after_the_checkpoint_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "tensorboard");
    let files = || {
        let entries = fs::read_dir(folder.path().join("tensorboard")).unwrap().flatten();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        files.sort();
        files
    };
    run(&config, 0, 4, 2.0, Some(false));
    // Version; text and two of hyperparameters; four steps; a validation; the end.
    let begun = [(0, 3), (0, 5), (0, 5), (0, 5), (1, 5), (2, 5)];
    assert_eq!(events(&files()[0]), [&begun[..], &[(3, 5), (4, 5), (4, 5), (4, 5)]].concat());
    // A killed run leaves half an event.
    let whole = fs::read(&files()[0]).unwrap();
    fs::write(&files()[0], &whole[..whole.len() - 3]).unwrap();
    run(&config, 2, 3, 1.0, Some(true));
    let files = files();
    assert_eq!((files.len(), events(&files[0])), (2, begun.to_vec()));
    // A session starts at step 3; its end is among the hyperparameters.
    assert_eq!(events(&files[1]), [(0, 3), (3, 7), (2, 5), (2, 5), (2, 5), (3, 5), (3, 5), (3, 5)]);
}

#[test]
fn a_tracker_that_a_continued_run_no_longer_has_loses_the_steps_after_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let both = config(folder.path(), "tensorboard,wandb");
    assert_eq!(both.report_to.trackers().len(), 2);
    run(&both, 0, 4, 2.0, Some(false));
    run(&config(folder.path(), "none"), 2, 5, 1.0, Some(true));
    let rows = rows(&records(&fs::read(only(&folder.path().join("wandb"), "wandb")).unwrap()));
    assert_eq!(rows.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [1, 2]);
    let files: Vec<PathBuf> =
        fs::read_dir(folder.path().join("tensorboard")).unwrap().flatten().map(|entry| entry.path()).collect();
    assert_eq!(files.len(), 1);
    assert!(events(&files[0]).iter().all(|(step, _)| *step <= 2));
    // A new run has nothing to cut.
    run(&config(folder.path(), "none"), 0, 1, 1.0, Some(true));
}

/// A file on a full disk.
struct Full;
impl Writer for Full {
    fn name(&self) -> &'static str {
        "full"
    }

    fn step(&mut self, _: &StepMetrics) -> Result<()> {
        anyhow::bail!("no space")
    }

    fn evaluation(&mut self, _: usize, _: &Evaluation) -> Result<()> {
        panic!("it was given up")
    }

    fn sync(&mut self) -> Result<()> {
        Ok(())
    }

    fn end(&mut self, _: usize, _: bool) -> Result<()> {
        Ok(())
    }
}

#[test]
fn without_trackers_nothing_is_written_and_a_file_that_fails_is_given_up_with_a_note() {
    let folder = tempfile::tempdir().unwrap();
    let (events, kept) = opened(&config(folder.path(), "none"), 0);
    events.lock().unwrap().end(true);
    assert_eq!(kept.lock().unwrap().0, ["end true"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    fs::write(folder.path().join("tensorboard"), "a file in the way").unwrap();
    assert!(open(&config(folder.path(), "tensorboard"), 0, kept.clone()).is_err());

    let kept = Arc::new(Mutex::new(Kept::default()));
    let mut trackers = Trackers { writers: vec![Box::new(Full)], events: kept.clone(), step: 0 };
    trackers.step(&step(1, 1.0), 2);
    trackers.step(&step(2, 1.0), 2);
    trackers.evaluation(2, &Evaluation { loss: 1.0, perplexity: None, tokens: 1 }, false);
    assert_eq!(kept.lock().unwrap().0, ["full is not written any further: no space"]);
}

/// A run that is written into a trackio folder, from step `done` on.
fn trackio_run(run: &Path, home: &Path, done: usize, steps: std::ops::RangeInclusive<usize>) -> trackio::Inbox {
    let config = [("rank".to_owned(), 4.into())];
    let begun = Begun { done, config: &config, toml: "", project: "mine", name: "", folder_name: "one" };
    let mut inbox = trackio::Inbox::open(&run.join("trackio"), home, &begun).unwrap();
    for number in steps {
        inbox.step(&step(number, 2.0)).unwrap();
    }
    inbox
}

/// The lines in trackio's inbox, and the files that have them.
fn inbox_of(home: &Path) -> (Vec<serde_json::Value>, Vec<PathBuf>) {
    let runs = fs::read_dir(home.join("inbox")).unwrap().flatten();
    let mut files: Vec<PathBuf> = runs
        .flat_map(|run| fs::read_dir(run.path()).unwrap().flatten().map(|file| file.path()).collect::<Vec<_>>())
        .collect();
    files.sort();
    let lines = files.iter().flat_map(|file| {
        let text = fs::read_to_string(file).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>()
    });
    (lines.collect(), files)
}

#[test]
fn a_trackio_run_that_is_continued_has_the_lines_of_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    let mut inbox = trackio_run(folder.path(), &home, 0, 1..=2);
    assert_eq!(inbox_of(&home).1.len(), 0);
    inbox.sync().unwrap();
    inbox.evaluation(2, &Evaluation { loss: 1.5, perplexity: None, tokens: 8 }).unwrap();
    inbox.step(&step(3, 2.0)).unwrap();
    inbox.sync().unwrap();
    inbox.step(&step(4, 2.0)).unwrap();
    inbox.end(4, false).unwrap();
    drop(inbox);
    let (lines, files) = inbox_of(&home);
    assert_eq!((lines.len(), files.len()), (5, 3));
    let of = |key: &str| lines.iter().map(|line| line[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("step"), [1, 2, 2, 3, 4]);
    assert!(of("project").iter().all(|name| name == "mine") && of("run").iter().all(|name| name == "one"));
    assert!(of("v").iter().all(|version| version == 1) && of("kind").iter().all(|kind| kind == "metric"));
    assert_eq!((&lines[0]["metrics"]["train/loss"], &lines[0]["metrics"]["train/grad_norm"]), (&2.0.into(), &"NaN".into()));
    assert_eq!((&lines[0]["config"]["rank"], &lines[1]["config"]), (&4.into(), &serde_json::Value::Null));
    assert_eq!(lines[2]["metrics"], serde_json::json!({ "eval/loss": 1.5 }));

    // trackio has imported the second file; the run is continued after step 2, as the same run with the same ids of lines.
    fs::remove_file(&files[1]).unwrap();
    let mut inbox = trackio_run(folder.path(), &home, 2, 3..=5);
    assert_eq!(inbox.kept, Some((3, 3)));
    inbox.end(5, true).unwrap();
    let (again, _) = inbox_of(&home);
    assert_eq!(again.iter().map(|line| line["step"].clone()).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!((&again[2]["log_id"], &again[3]["log_id"]), (&lines[3]["log_id"], &lines[4]["log_id"]));
    assert_eq!((&again[2]["run_id"], &again[2]["config"]["rank"]), (&lines[0]["run_id"], &4.into()));
    let ids: std::collections::BTreeSet<String> = again.iter().map(|line| line["log_id"].to_string()).collect();
    assert_eq!(ids.len(), 5);

    // Without trackio, what it has not imported yet is cut.
    trackio::cut(&folder.path().join("trackio"), &home, 3).unwrap();
    assert_eq!(inbox_of(&home).0.iter().map(|line| line["step"].clone()).collect::<Vec<_>>(), [1, 2, 3]);
    // A new run is another one.
    trackio_run(folder.path(), &home, 0, 1..=1).end(1, true).unwrap();
    let (all, _) = inbox_of(&home);
    assert!(all.len() == 4 && all.iter().filter(|line| line["run_id"] == lines[0]["run_id"]).count() == 3);
}
