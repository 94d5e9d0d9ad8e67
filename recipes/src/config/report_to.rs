//! Where metrics go beside `metrics.jsonl`.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::value::should_be;

/// A program whose files are written while a run goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracker {
    /// Event files of TensorBoard.
    Tensorboard,
    /// Lines in trackio's inbox, which its dashboard imports.
    Trackio,
    /// A folder of Weights & Biases, to be uploaded by `wandb sync`.
    Wandb,
}

impl Tracker {
    /// All of them, in the order of their names.
    pub(crate) const ALL: [Self; 3] = [Self::Tensorboard, Self::Trackio, Self::Wandb];
    const NAMES: [&str; 3] = ["tensorboard", "trackio", "wandb"];

    /// Its name, which is also that of its folder in the run's.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// The value of `report_to`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct ReportTo(Vec<Tracker>);

impl ReportTo {
    /// The programs, each once.
    pub fn trackers(&self) -> &[Tracker] {
        &self.0
    }

    /// The part of a project's name that one of the programs keeps for files of its own.
    pub(super) fn reserved(&self, project: &str) -> Option<&'static str> {
        if !self.0.contains(&Tracker::Trackio) {
            return None;
        }
        let kept: String = project.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect();
        let ends = RESERVED.into_iter().find(|end| kept.len() > end.len() && kept.ends_with(end));
        if kept.starts_with(REGISTRY) { Some(REGISTRY) } else { ends }
    }
}

/// How names of projects don't start, and don't end, for trackio (`validate_project_name` of 0.43).
const REGISTRY: &str = "registry-";
const RESERVED: [&str; 8] = [
    "_system",
    "_configs",
    "_traces",
    "_artifacts",
    "_artifact_versions",
    "_artifact_aliases",
    "_run_artifact_links",
    "_external_run_artifact_links",
];

impl From<ReportTo> for Value {
    fn from(report_to: ReportTo) -> Self {
        let names: Vec<&str> = report_to.0.iter().map(|tracker| tracker.name()).collect();
        match names.as_slice() {
            [] => "none".into(),
            [one] => (*one).into(),
            several => json!(several),
        }
    }
}

impl TryFrom<Value> for ReportTo {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let words = words(&value);
        let named = |tracker: &Tracker| words.iter().any(|word| word == tracker.name());
        Ok(Self(Tracker::ALL.into_iter().filter(named).collect()))
    }
}

/// Trackers of other programs that are not written.
const OTHERS: [&str; 12] = [
    "swanlab",
    "mlflow",
    "comet_ml",
    "neptune",
    "clearml",
    "dagshub",
    "codecarbon",
    "dvclive",
    "flyte",
    "azure_ml",
    "comet",
    "aim",
];

/// What a value may be.
const EXPECTED: &str = "none, tensorboard, trackio, wandb, or a list of them";

/// The words of a string, which commas separate, or of a list; in lower case.
fn words(value: &Value) -> Vec<String> {
    let texts: Vec<&str> = match value {
        Value::String(text) => text.split(',').collect(),
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    texts.into_iter().map(|text| text.trim().to_lowercase()).filter(|text| !text.is_empty()).collect()
}

/// What `report_to` of any program becomes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// It is one of ours already.
    Own,
    /// This value.
    As(Value),
    /// It names only trackers that are not written: what to tell about them.
    Nothing(String),
}

/// Reads `report_to` as transformers, mlx-lm and LLaMA-Factory write it.
///
/// # Errors
/// When it names something unknown.
pub(super) fn read(value: &Value) -> Result<Read, String> {
    let is_list = value.as_array().is_some_and(|list| list.iter().all(Value::is_string));
    if !(value.is_string() || is_list) {
        return Err(should_be(EXPECTED, value));
    }
    let words = words(value);
    let is_known = |word: &str| Tracker::NAMES.contains(&word) || ["none", "jsonl", "all"].contains(&word);
    if let Some(unknown) = words.iter().find(|word| !is_known(word) && !OTHERS.contains(&word.as_str())) {
        return Err(format!("should be {EXPECTED}, got {}", json!(unknown)));
    }
    if words.iter().any(|word| word == "all") {
        return Ok(Read::As(json!(Tracker::NAMES)));
    }
    let others: Vec<&str> = words.iter().map(String::as_str).filter(|word| OTHERS.contains(word)).collect();
    let own: Vec<&str> = words.iter().map(String::as_str).filter(|word| Tracker::NAMES.contains(word)).collect();
    Ok(match (others.is_empty(), own.is_empty()) {
        (true, _) => Read::Own,
        (false, true) => Read::Nothing(format!(
            "has no effect: {} is not supported; tensorboard, trackio and wandb are",
            others.join(", ")
        )),
        (false, false) => Read::As(json!(own)),
    })
}

/// Two values of one source together, such as `use_wandb` and `use_tensorboard`.
pub(super) fn joined(one: &Value, other: &Value) -> Value {
    let (mut all, more) = (words(one), words(other));
    all.extend(more);
    ReportTo::try_from(json!(all)).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_all_programs_are_read() {
        for (value, expected) in [
            (json!("none"), Read::Own),
            (json!("wandb"), Read::Own),
            (json!("tensorboard, wandb"), Read::Own),
            (json!(["tensorboard", "jsonl"]), Read::Own),
            (json!([]), Read::Own),
            (json!("trackio"), Read::Own),
            (json!("all"), Read::As(json!(["tensorboard", "trackio", "wandb"]))),
            (json!("wandb,swanlab"), Read::As(json!(["wandb"]))),
        ] {
            assert_eq!(read(&value).unwrap(), expected, "{value}");
        }
        assert!(matches!(read(&json!(["mlflow"])).unwrap(), Read::Nothing(why) if why.contains("mlflow is not supported")));
        for (value, words) in [(json!("wandbb"), "got \"wandbb\""), (json!(3), "got 3"), (json!([1]), "a list")] {
            assert!(read(&value).unwrap_err().contains(words), "{value}");
        }
    }

    #[test]
    fn names_that_trackio_keeps_for_itself_are_known() {
        let trackio = ReportTo(vec![Tracker::Trackio]);
        for project in ["", "mine", "my.model", "configs", "_system", "registry"] {
            assert_eq!(trackio.reserved(project), None);
        }
        for (project, part) in [("registry-mine", "registry-"), ("a_configs", "_configs"), ("a_traces.", "_traces")] {
            assert_eq!((trackio.reserved(project), ReportTo::default().reserved(project)), (Some(part), None));
        }
    }

    #[test]
    fn a_value_is_written_as_it_was_meant() {
        for (given, written) in [
            (json!("wandb,none, TensorBoard"), json!(["tensorboard", "wandb"])),
            (json!("trackio"), json!("trackio")),
            (json!(["wandb", "wandb"]), json!("wandb")),
            (json!(""), json!("none")),
        ] {
            let report_to: ReportTo = serde_json::from_value(given).unwrap();
            assert_eq!(serde_json::to_value(&report_to).unwrap(), written);
            assert_eq!(serde_json::from_value::<ReportTo>(written).unwrap(), report_to);
        }
        assert_eq!(joined(&json!("none"), &json!("wandb")), json!("wandb"));
        assert_eq!(joined(&json!("wandb"), &json!(["tensorboard"])), json!(["tensorboard", "wandb"]));
    }
}
