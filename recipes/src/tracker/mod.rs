//! Files of other programs that show how a run goes: TensorBoard, trackio, Weights & Biases.
//!
//! Each is written while the run goes on. A run that is continued continues them too, without the steps after its checkpoint.

mod datastore;
mod metrics;
mod protobuf;
mod tensorboard;
mod trackio;
mod wandb;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde_json::Value;

use crate::config::{Tracker, TrainConfig};
use crate::train::{Evaluation, Events, StepMetrics};

/// What a tracker is told about a run when it begins.
struct Begun<'a> {
    /// Steps that were taken before.
    done: usize,
    config: &'a [(String, Value)],
    toml: &'a str,
    project: &'a str,
    name: &'a str,
    /// The name of the run's folder.
    folder_name: &'a str,
}

/// Writes the file of a tracker.
trait Writer: Send {
    fn name(&self) -> &'static str;
    fn step(&mut self, metrics: &StepMetrics) -> Result<()>;
    fn evaluation(&mut self, step: usize, evaluation: &Evaluation) -> Result<()>;
    /// Syncs the file to disk, since a checkpoint was written.
    fn sync(&mut self) -> Result<()>;
    fn end(&mut self, step: usize, finished: bool) -> Result<()>;
}

/// Passes the events of a run on, and writes them into the files of trackers.
struct Trackers {
    writers: Vec<Box<dyn Writer>>,
    events: Arc<Mutex<dyn Events>>,
    /// The last step.
    step: usize,
}

/// Opens the files that `report_to` asks for, and returns what receives the events of the run instead of `events`.
///
/// # Errors
/// When a file can't be written.
pub fn open(config: &TrainConfig, done: usize, events: Arc<Mutex<dyn Events>>) -> Result<Arc<Mutex<dyn Events>>> {
    let folder = Path::new(&config.output_dir);
    let toml = config.to_kept_toml();
    let values: Vec<(String, Value)> = match serde_json::to_value(config) {
        Ok(Value::Object(map)) => map.into_iter().collect(),
        _ => Vec::new(),
    };
    let begun = Begun {
        done,
        config: &values,
        toml: &toml,
        project: &config.project_name,
        name: &config.run_name,
        folder_name: &folder.file_name().unwrap_or_default().to_string_lossy(),
    };
    let mut trackers = Trackers { writers: Vec::new(), events, step: done };
    for tracker in Tracker::ALL.iter().filter(|tracker| done > 0 && !config.report_to.trackers().contains(tracker)) {
        // The steps that are taken again are not in the files of a tracker that the run no longer has.
        let own = folder.join(tracker.name());
        match tracker {
            Tracker::Tensorboard => tensorboard::cut_all(&own, done)?,
            Tracker::Trackio => trackio::cut(&own, &trackio::home(), done)?,
            Tracker::Wandb => wandb::cut(&own, done)?,
        }
    }
    for tracker in config.report_to.trackers() {
        let own = folder.join(tracker.name());
        match tracker {
            Tracker::Tensorboard => {
                trackers.writers.push(Box::new(tensorboard::Events::open(&own, &begun)?));
                trackers.note(&format!("to watch the run: tensorboard --logdir {}", own.display()));
            }
            Tracker::Trackio => trackers.add_trackio(&own, &trackio::home(), &begun)?,
            Tracker::Wandb if std::env::var("WANDB_MODE").is_ok_and(|mode| mode == "disabled") => {
                trackers.note("wandb is off, because WANDB_MODE is disabled");
            }
            Tracker::Wandb => {
                let run = wandb::OfflineRun::open(&own, &begun)?;
                trackers.note(&format!("to upload the run when it has ended: wandb sync {}", run.folder.display()));
                trackers.writers.push(Box::new(run));
            }
        }
    }
    if trackers.writers.is_empty() {
        return Ok(trackers.events);
    }
    Ok(Arc::new(Mutex::new(trackers)))
}

impl Trackers {
    /// Adds a run of trackio, and says how to see it.
    fn add_trackio(&mut self, own: &Path, home: &Path, begun: &Begun<'_>) -> Result<()> {
        let inbox = trackio::Inbox::open(own, home, begun)?;
        self.note(&format!("to watch the run: trackio show --project '{}'", inbox.project()));
        for name in ["TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"] {
            if std::env::var(name).is_ok_and(|value| !value.is_empty()) {
                self.note(&format!("{name} has no effect: the run stays in {}; `trackio sync` uploads it", home.display()));
            }
        }
        if let Some((first, last)) = inbox.kept {
            let these = if first == last { format!("step {first}") } else { format!("steps {first} to {last}") };
            self.note(&format!(
                "trackio has imported {these} of the run before it was stopped, and keeps what they had then"
            ));
        }
        self.writers.push(Box::new(inbox));
        Ok(())
    }

    /// Writes to all files. One that fails is given up, since `metrics.jsonl` has the same values.
    fn write(&mut self, mut write: impl FnMut(&mut (dyn Writer + 'static)) -> Result<()>) {
        let mut failures = Vec::new();
        self.writers.retain_mut(|writer| match write(&mut **writer) {
            Ok(()) => true,
            Err(error) => {
                failures.push(format!("{} is not written any further: {error:#}", writer.name()));
                false
            }
        });
        for failure in failures {
            self.note(&failure);
        }
    }

    fn events(&self) -> std::sync::MutexGuard<'_, dyn Events + 'static> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events for Trackers {
    fn step(&mut self, metrics: &StepMetrics, total: usize) {
        self.step = metrics.step;
        self.write(|writer| writer.step(metrics));
        self.events().step(metrics, total);
    }

    fn evaluation(&mut self, step: usize, evaluation: &Evaluation, best: bool) {
        self.write(|writer| writer.evaluation(step, evaluation));
        self.events().evaluation(step, evaluation, best);
    }

    fn checkpoint(&mut self, path: &Path) {
        self.write(Writer::sync);
        self.events().checkpoint(path);
    }

    fn note(&mut self, line: &str) {
        self.events().note(line);
    }

    fn warning(&mut self, line: &str) {
        self.events().warning(line);
    }

    fn end(&mut self, finished: bool) {
        let step = self.step;
        self.write(|writer| writer.end(step, finished));
        self.events().end(finished);
    }
}

/// Seconds since 1970.
fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |passed| passed.as_secs_f64())
}

#[cfg(test)]
mod tests;
