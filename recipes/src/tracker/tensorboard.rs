//! Event files of TensorBoard: records of TFRecord, each an `Event` of protocol buffers.
//!
//! # Source
//! `tensorboard/compat/proto/event.proto`, `summary/writer/record_writer.py` and `plugins/hparams/plugin_data.proto` of TensorBoard 2.21.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burnish_models::atomic;
use serde_json::Value;

use super::metrics;
use super::protobuf::{Message, Value as Field, field};
use super::{Begun, Writer, seconds};
use crate::train::{Evaluation, StepMetrics};

const PREFIX: &str = "events.out.tfevents.";
/// The end of a session among the hyperparameters.
const END: &str = "_hparams_/session_end_info";

/// The event file of this process. Each process that continues a run has one of its own, beside the earlier ones.
pub(super) struct Events {
    file: File,
}

impl Events {
    /// Starts a file in a folder. Events after step `done` are removed from earlier files.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn open(folder: &Path, run: &Begun<'_>) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let earlier = earlier(folder);
        cut_all(folder, run.done)?;
        // Readers take files in the order of these seconds.
        let begun = earlier.iter().map(|(second, _)| second + 1).max().unwrap_or(0).max(seconds() as u64);
        let path: PathBuf = folder.join(format!("{PREFIX}{begun:010}.burnish.{}.0", std::process::id()));
        let file =
            OpenOptions::new().create_new(true).append(true).open(&path).with_context(|| path.display().to_string())?;
        let mut events = Self { file };
        events.write(&Message::default().text(3, "brain.Event:2"), 0)?;
        if !earlier.is_empty() {
            // START of a session: a reader that has seen later steps of the earlier files drops them.
            events.write(&Message::default().message(7, &Message::default().integer(1, 1)), run.done + 1)?;
        }
        events.summary(&text("args/text_summary", &format!("```toml\n{}```\n", run.toml)), run.done)?;
        let experiment = ["train/loss", "eval/loss"].into_iter().fold(Message::default(), |message, tag| {
            message.message(5, &Message::default().message(1, &Message::default().text(2, tag)))
        });
        let experiment =
            run.config.iter().fold(experiment, |message, (key, _)| message.message(4, &Message::default().text(1, key)));
        events.summary(&hparams("_hparams_/experiment", &Message::default().message(2, &experiment)), run.done)?;
        let start = run.config.iter().fold(Message::default(), |message, (key, value)| {
            message.message(1, &Message::default().text(1, key).message(2, &hparam(value)))
        });
        let start = start.double(5, seconds());
        events.summary(&hparams("_hparams_/session_start_info", &Message::default().message(3, &start)), run.done)?;
        Ok(events)
    }

    fn summary(&mut self, value: &Message, step: usize) -> Result<()> {
        self.write(&Message::default().message(5, &Message::default().message(1, value)), step)
    }

    fn scalars(&mut self, values: &[(String, f64)], step: usize) -> Result<()> {
        let summary = values.iter().fold(Message::default(), |summary, (tag, value)| {
            summary.message(1, &Message::default().text(1, tag).float(2, *value as f32))
        });
        self.write(&Message::default().message(5, &summary), step)
    }

    /// Appends an event at once, so that a killed run loses none.
    fn write(&mut self, event: &Message, step: usize) -> Result<()> {
        let event = [Message::default().double(1, seconds()).integer(2, step as u64).as_bytes(), event.as_bytes()].concat();
        self.file.write_all(&record(&event)).context("can't write the event file")
    }
}

impl Writer for Events {
    fn name(&self) -> &'static str {
        "tensorboard"
    }

    fn step(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.scalars(&metrics::of_step(metrics), metrics.step)
    }

    fn evaluation(&mut self, step: usize, evaluation: &Evaluation) -> Result<()> {
        self.scalars(&metrics::of_evaluation(evaluation), step)
    }

    fn sync(&mut self) -> Result<()> {
        self.file.sync_data().context("can't write the event file")
    }

    fn end(&mut self, step: usize, finished: bool) -> Result<()> {
        let status = if finished { 1 } else { 2 };
        let end = Message::default().integer(1, status).double(2, seconds());
        self.summary(&hparams(END, &Message::default().message(4, &end)), step)?;
        self.sync()
    }
}

/// Removes the events after step `done` from the files of a folder.
///
/// # Errors
/// When a file can't be written.
pub(super) fn cut_all(folder: &Path, done: usize) -> Result<()> {
    earlier(folder).iter().try_for_each(|(_, path)| cut(path, done))
}

/// A folder's event files, with the seconds in their names.
fn earlier(folder: &Path) -> Vec<(u64, PathBuf)> {
    let paths = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let second = |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix(PREFIX)?.split('.').next()?.parse().ok();
    paths.filter_map(|path| Some((second(&path)?, path))).collect()
}

/// Removes from a file what came after step `done`, the end of its session, and the half event that a killed run may leave.
fn cut(path: &Path, done: usize) -> Result<()> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let (mut kept, mut rest) = (Vec::with_capacity(bytes.len()), &bytes[..]);
    while let Some((length, tail)) = rest.split_first_chunk::<8>() {
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let Some(event) = tail.get(4..).and_then(|tail| tail.get(..length)) else { break };
        let record = record(event);
        if !rest.starts_with(&record) {
            break;
        }
        if stays(event, done) {
            kept.extend(&record);
        }
        rest = &rest[record.len()..];
    }
    if kept.len() < bytes.len() {
        atomic::write_bytes(path, &kept)?;
    }
    Ok(())
}

/// A field of a message that is a field.
fn within(message: Option<Field<'_>>, number: u32) -> Option<Field<'_>> {
    match message {
        Some(Field::Bytes(bytes)) => field(bytes, number),
        _ => None,
    }
}

fn stays(event: &[u8], done: usize) -> bool {
    let is_end = within(within(field(event, 5), 1), 1) == Some(Field::Bytes(END.as_bytes()));
    let is_later = matches!(field(event, 2), Some(Field::Integer(step)) if step > done as u64);
    !is_end && !is_later
}

/// A record of TFRecord: length and data, each with its masked checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(crc32c(&length)).to_le_bytes(), data, &masked(crc32c(data)).to_le_bytes()].concat()
}

fn masked(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), reflected.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

/// A value of a summary that a plugin reads.
fn plugin(tag: &str, name: &str, content: &[u8]) -> Message {
    let data = Message::default().text(1, name).bytes(2, content);
    Message::default().text(1, tag).message(9, &Message::default().message(1, &data))
}

fn text(tag: &str, text: &str) -> Message {
    // A tensor of one string.
    let shape = Message::default().message(2, &Message::default().integer(1, 1));
    let tensor = Message::default().integer(1, 7).message(2, &shape).text(8, text);
    plugin(tag, "text", &[]).message(8, &tensor)
}

fn hparams(tag: &str, data: &Message) -> Message {
    plugin(tag, "hparams", data.as_bytes())
}

/// A `google.protobuf.Value`.
fn hparam(value: &Value) -> Message {
    match value {
        Value::Null => Message::default().integer(1, 0),
        Value::Bool(value) => Message::default().integer(4, u64::from(*value)),
        Value::Number(number) => Message::default().double(2, number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Message::default().bytes(3, text.as_bytes()),
        other => Message::default().text(3, &other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_those_of_tensorflow() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        // Written by `RecordWriter` of tensorboard 2.21.0.
        assert_eq!(record(b"abc"), b"\x03\0\0\0\0\0\0\0\xb0\x99I\x0eabcnW\xf1!");
    }
}
