//! A page about runs: one HTML file that needs nothing beside it.

pub mod answers;
pub mod chart;
pub mod figures;
pub mod record;
pub mod scale;
pub mod settings;

use anyhow::Result;
use minijinja::{Environment, Value, context};
use serde::Serialize;
use serde_json::{Value as Json, json};
use toml::Table;

use crate::train::RunFacts;
use figures::Figure;
use record::RunRecord;
use settings::Known;

/// Marks a file that may be replaced by a newer page.
pub const MARK: &str = "<meta name=\"generator\" content=\"burnish report\">";

/// The most samples of a run on the page.
const SAMPLES: usize = 50;

/// A run, as the template takes it.
#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    colour: usize,
    figures: Vec<Figure>,
    facts: Option<&'a RunFacts>,
    model: Option<String>,
    data: Option<String>,
    method: String,
    samples: Vec<&'a crate::train::Sample>,
    samples_left_out: usize,
    right_before: usize,
    right_after: usize,
    results: &'a [String],
    checkpoints: &'a [usize],
    notes: &'a [String],
}

/// The page about these runs; `known` and `defaults` are the keys of the configuration and their defaults.
///
/// # Errors
/// When the template fails, which is a fault of this program.
pub fn html(runs: &[RunRecord], known: &[Known<'_>], defaults: &Table) -> Result<String> {
    let mut environment = Environment::new();
    environment.add_filter("count", scale::count);
    environment.add_template("page.html", include_str!("page.html"))?;
    let shown: Vec<Shown<'_>> = runs.iter().enumerate().map(|(colour, run)| of(run, colour)).collect();
    let settings = settings::settings(runs, known, defaults);
    let page = environment.get_template("page.html")?.render(context! {
        runs => value(json!(shown)),
        charts => value(json!(figures::charts(runs))),
        prompts => value(json!(answers::side_by_side(runs, SAMPLES))),
        settings => value(json!(settings)),
        version => env!("CARGO_PKG_VERSION"),
    })?;
    Ok(page)
}

/// A value as templates take it.
fn value(json: Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(truth) => Value::from(truth),
        Json::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(whole), _) => Value::from(whole),
            (None, float) => Value::from(float.unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text),
        Json::Array(list) => list.into_iter().map(value).collect(),
        Json::Object(map) => Value::from_pairs(map.into_iter().map(|(key, item)| (key, value(item)))),
    }
}

fn of(run: &RunRecord, colour: usize) -> Shown<'_> {
    let last = |key: &str| run.setting(key).map(|path| last_part(&path));
    let right = |of: fn(&crate::train::Sample) -> bool| run.samples.iter().filter(|sample| of(sample)).count();
    Shown {
        name: &run.name,
        colour,
        figures: figures::figures(run),
        facts: run.facts.as_ref(),
        model: last("model").filter(|model| !model.is_empty()).or_else(|| last("model_config")),
        data: run
            .setting("data")
            .map(|data| data.split(',').map(|part| last_part(part.trim())).collect::<Vec<_>>().join(", ")),
        method: method(run),
        samples: run.samples.iter().take(SAMPLES).collect(),
        samples_left_out: run.samples.len().saturating_sub(SAMPLES),
        right_before: right(|sample| sample.right_before),
        right_after: right(|sample| sample.right_after),
        results: &run.results,
        checkpoints: &run.checkpoints,
        notes: &run.notes,
    }
}

/// The name of a file or folder, or the id of a repository, which has its owner.
fn last_part(path: &str) -> String {
    let is_path = path.starts_with(['/', '.', '~']) || path.matches('/').count() > 1;
    let name = std::path::Path::new(path).file_name().filter(|_| is_path);
    name.map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// What was trained, in a few words.
fn method(run: &RunRecord) -> String {
    let text = |key: &str| run.setting(key).unwrap_or_default();
    let is_on = |key: &str| text(key) == "true";
    let what = match text("fine_tune_type").as_str() {
        "full" => "every weight".to_owned(),
        _ if is_on("dora") => format!("DoRA of rank {}", text("rank")),
        _ if is_on("rslora") => format!("rsLoRA of rank {}", text("rank")),
        _ => format!("LoRA of rank {}", text("rank")),
    };
    format!("{}, {what}, {} on {}", text("recipe"), text("dtype"), text("backend"))
}
