//! The quickstart, with a model and a data set built into the program.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use burn_train::Interrupter;
use burnish_backends::dtype;
use burnish_export::{
    ExportReport, FloatType, GgufOptions, HuggingFaceOptions, ModelCard, export_gguf, export_hugging_face,
};
use burnish_lora::{MergedCheckpoint, read_config};
use burnish_models::{GenerateOptions, LoadOptions, Message, Pretrained};
use serde::Serialize;
use serde_json::Value;

use crate::config::TrainConfig;
use crate::generation::Assistant;
use crate::train::{End, Events, PreparedRun, Summary, train};

const MODEL: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../assets/quickstart/model/config.json")),
    ("tokenizer.json", include_bytes!("../assets/quickstart/model/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../assets/quickstart/model/tokenizer_config.json")),
    ("model.safetensors", include_bytes!("../assets/quickstart/model/model.safetensors")),
];
const DATA: &[(&str, &[u8])] = &[
    ("train.jsonl", include_bytes!("../assets/quickstart/data/train.jsonl")),
    ("valid.jsonl", include_bytes!("../assets/quickstart/data/valid.jsonl")),
    ("test.jsonl", include_bytes!("../assets/quickstart/data/test.jsonl")),
];

/// Prompts answered before and after training, as examples.
pub const PROMPTS: [&str; 3] = [
    "Table for 4 at Luigi's on Friday at 7 pm, please.",
    "Can you book Sakura for Sunday, noon? There are 9 of us.",
    "On Wednesday at 10 am we want to be at the Tin Roof, 3 people.",
];

/// The folders of the quickstart.
#[derive(Debug, Clone)]
pub struct Folders {
    /// The base model.
    pub model: PathBuf,
    /// The data set.
    pub data: PathBuf,
    /// The run.
    pub run: PathBuf,
}

/// Writes model and data to disk.
///
/// # Errors
/// When the folder can't be written.
pub fn unpack(root: &Path) -> Result<Folders> {
    let folders = Folders { model: root.join("base"), data: root.join("data"), run: root.join("run") };
    for (folder, files) in [(&folders.model, MODEL), (&folders.data, DATA)] {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        for (name, bytes) in files {
            let path = folder.join(name);
            std::fs::write(&path, bytes).with_context(|| path.display().to_string())?;
        }
    }
    Ok(folders)
}

/// The configuration of the fine-tune.
pub fn config(folders: &Folders, backend: &str, seed: u64) -> TrainConfig {
    TrainConfig {
        model: folders.model.display().to_string(),
        data: folders.data.display().to_string(),
        output_dir: folders.run.display().to_string(),
        backend: backend.to_owned(),
        seed,
        overwrite: true,
        max_seq_length: 128,
        batch_size: 16,
        iters: 250,
        learning_rate: 4e-3,
        warmup: 20.0,
        steps_per_eval: 100,
        save_every: 100,
        steps_per_report: 50,
        samples: 6,
        ..TrainConfig::default()
    }
}

/// A model's score on the held-out bookings.
#[derive(Debug, Clone, Serialize)]
pub struct Score {
    /// Answers that match exactly.
    pub right: usize,
    /// Questions asked.
    pub asked: usize,
    /// Answers to [`PROMPTS`].
    pub answers: Vec<String>,
}

/// Scores a model on the held-out questions and answers the three prompts, in the dtype that the backend prefers.
///
/// # Errors
/// When the model or the questions can't be read.
pub fn score(folders: &Folders, adapter: Option<&Path>, backend: &str) -> Result<Score> {
    let pretrained = Pretrained::open(&folders.model)?;
    let path = folders.data.join("test.jsonl");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let questions = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let dtype = dtype::choose(backend, "auto")?.dtype;
    burnish_backends::enter(backend, |device| {
        let mut assistant = Assistant::load(device, pretrained, adapter, LoadOptions::frozen(dtype))?;
        let options = GenerateOptions { max_tokens: 64, ..GenerateOptions::default() };
        let mut ask = |question: &str| -> Result<String> {
            Ok(assistant.answer(&[Message::new("user", question)], &options, &mut |_| {})?.text)
        };
        let mut right = 0;
        for row in &questions {
            let turn = |index: usize| row["messages"][index]["content"].as_str().unwrap_or_default();
            right += usize::from(ask(turn(0))? == turn(1));
        }
        let answers = PROMPTS.iter().map(|prompt| ask(prompt)).collect::<Result<_>>()?;
        Ok(Score { right, asked: questions.len(), answers })
    })
}

/// The result of the quickstart.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Score before training.
    pub before: Score,
    /// Score after training.
    pub after: Score,
    /// Lowest validation loss.
    pub best_loss: Option<f64>,
    /// Seconds of training.
    pub train_seconds: f64,
    /// The PEFT folder.
    pub adapter: PathBuf,
    /// The merged model, a Hugging Face folder.
    pub merged: ExportReport,
    /// The GGUF file.
    pub gguf: ExportReport,
}

/// Fine-tunes, scores, and writes adapter, merged model and GGUF file; returns `None` if interrupted.
///
/// # Errors
/// When training or writing fails.
pub fn run(
    folders: &Folders,
    config: TrainConfig,
    before: Score,
    events: Arc<Mutex<dyn Events>>,
    interrupter: Interrupter,
) -> Result<Option<Outcome>> {
    let backend = config.backend.clone();
    let started = Instant::now();
    let summary: Summary = train(PreparedRun::new(config)?, events, interrupter)?;
    if summary.end == End::Interrupted {
        return Ok(None);
    }
    let train_seconds = started.elapsed().as_secs_f64();
    let adapter = summary.output.context("the run wrote no adapter")?;
    let after = score(folders, Some(&adapter), &backend)?;
    let pretrained = Pretrained::open(&folders.model)?;
    let weights = MergedCheckpoint::open(&*pretrained.checkpoint, &adapter)?;
    let merged = folders.run.with_file_name("merged");
    let card = ModelCard::of(&pretrained, "transformers", Some((&read_config(&adapter)?, adapter.as_path())));
    let options = HuggingFaceOptions { float: FloatType::F32, card: Some(card), overwrite: true, ..Default::default() };
    let merged = export_hugging_face(&pretrained, &weights, &merged, &options)?;
    let gguf = folders.run.with_file_name("bookings-f16.gguf");
    let gguf = export_gguf(&pretrained, &weights, &gguf, &GgufOptions { overwrite: true, ..GgufOptions::default() })?;
    ensure!(gguf.bytes > 0, "the GGUF is empty");
    Ok(Some(Outcome { before, after, best_loss: summary.state.best_loss, train_seconds, adapter, merged, gguf }))
}
