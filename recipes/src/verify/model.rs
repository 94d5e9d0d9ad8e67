//! Loads models and compares their logits.

use std::collections::BTreeMap;

use anyhow::Result;
use burn::tensor::DType;
use burnish_engine::{Batch, Device};
use burnish_export::{HuggingFaceOptions, export_hugging_face};
use burnish_kernels::packed::PackedKind;
use burnish_kernels::packed::nf4::BLOCK;
use burnish_models::error::Result as ModelResult;
use burnish_models::{
    Checkpoint, FloatType, GenerateOptions, LoadOptions, Message, ModelConfig, ModelError, Pretrained, Quantization,
};

use super::findings::Findings;
use super::golden::{Golden, close, of_model, one_row};
use super::issues::whom;
use super::target::Target;
use crate::generation::Assistant;

const MEANS: &str = "models compute wrong results on this device, though their operations may be right one by one";

/// Loads the built-in model as floats and in few bits, compares its logits with those of transformers, lets it answer, and writes and
/// reads it again.
///
/// # Errors
/// When the model can't be opened or the device fails.
pub(super) fn check(target: &Target<'_>) -> Result<Findings> {
    let mut findings = Findings::default();
    let golden = Golden::open()?;
    let pretrained = Pretrained::open(&target.folders.model)?;
    let batch = one_row(&golden.input_ids);
    burnish_backends::enter(target.backend, |device| {
        for dtype in target.dtypes() {
            let options = LoadOptions::frozen(dtype);
            let found = last_logits(device, &pretrained.config, &*pretrained.checkpoint, options, &batch)?;
            let part = format!("logits in {dtype}");
            compare(target, &mut findings, part, &found, &golden.last_logits, dtype);
            let mut runner = device.run(&pretrained.config, &*pretrained.checkpoint, options, None)?;
            let loss = (runner.loss(&batch)? / batch.target_tokens as f64) as f32;
            compare(target, &mut findings, format!("loss in {dtype}"), &[loss], &[golden.loss as f32], dtype);
        }
        quantised(target, device, &pretrained, &batch, &mut findings)?;
        let mut assistant = Assistant::load(device, pretrained, None, LoadOptions::frozen(FloatType::F32))?;
        let options = GenerateOptions { max_tokens: 64, ..GenerateOptions::default() };
        let answer = assistant.answer(&[Message::new("user", &golden.prompt)], &options, &mut |_| {})?.text;
        let is_right = answer.trim() == golden.answer.trim();
        findings.detail("answer", is_right);
        if !is_right {
            let what = format!("expected the answer {:?}, got {answer:?}", golden.answer);
            findings.fail("answer in f32", what, "generation is wrong on this device", target.whom_for_kernels());
        }
        Ok(())
    })?;
    round_trip(target, &mut findings)?;
    let names: Vec<&str> = target.dtypes().iter().map(|dtype| dtype.name()).collect();
    findings.summary = format!(
        "logits of the built-in model in {}, nf4 and int8 and its answer equal those of transformers; written and read again",
        names.join(", ")
    );
    Ok(findings)
}

/// The logits after the last token.
///
/// # Errors
/// When the device fails.
pub(super) fn last_logits(
    device: &dyn Device,
    config: &ModelConfig,
    weights: &dyn Checkpoint,
    options: LoadOptions,
    batch: &Batch,
) -> Result<Vec<f32>> {
    let logits = device.run(config, weights, options, None)?.logits(batch)?;
    Ok(logits[logits.len().saturating_sub(config.vocab_size)..].to_vec())
}

/// Compares logits, and notes the result.
pub(super) fn compare(
    target: &Target<'_>,
    findings: &mut Findings,
    part: String,
    found: &[f32],
    expected: &[f32],
    dtype: FloatType,
) {
    let verdict = close(found, expected, of_model(dtype, target.backend));
    findings.details.push(super::findings::Detail {
        name: part.clone(),
        dtype: Some(dtype.name()),
        passed: verdict.is_ok(),
        tolerance_used: verdict.as_ref().ok().copied(),
    });
    if let Err(what) = verdict {
        findings.fail(part, what, MEANS, target.whom_for_kernels());
    }
}

/// Weights in few bits on the device, against the same weights as floats on the CPU.
fn quantised(
    target: &Target<'_>,
    device: &dyn Device,
    pretrained: &Pretrained,
    batch: &Batch,
    findings: &mut Findings,
) -> Result<()> {
    let cpu = burnish_backends::open("cpu")?;
    for (name, quantization, kind) in [
        ("nf4", Quantization::Nf4 { double: false }, PackedKind::Nf4 { block: BLOCK, double: false }),
        ("int8", Quantization::Int8, PackedKind::Affine { bits: 8, group: 64, scales: DType::F16 }),
    ] {
        let options = LoadOptions::frozen(target.dtype).quantized(quantization);
        let found = last_logits(device, &pretrained.config, &*pretrained.checkpoint, options, batch)?;
        let rounded = Rounded::new(&*pretrained.checkpoint, kind)?;
        let options = LoadOptions::frozen(FloatType::F32);
        let expected = last_logits(&*cpu, &pretrained.config, &rounded, options, batch)?;
        compare(target, findings, format!("logits of {name} weights in {}", target.dtype), &found, &expected, target.dtype);
    }
    Ok(())
}

/// Weights of a checkpoint, the projections rounded to what a format can hold.
struct Rounded(BTreeMap<String, (Vec<usize>, Vec<f32>)>);

impl Rounded {
    fn new(base: &dyn Checkpoint, kind: PackedKind) -> Result<Self> {
        let read = |name: String| {
            let shape = base.shape(&name).unwrap_or_default();
            let values = match shape[..] {
                [rows, columns] if name.ends_with("_proj.weight") => {
                    // As the loader does, from the type that the file has.
                    let values = base.read(&name, base.float_type(&name).unwrap_or_default())?;
                    kind.quantize(&name, &values, [rows, columns])?.dequantize()
                }
                _ => base.read_f32(&name)?,
            };
            Ok((name, (shape, values)))
        };
        Ok(Self(base.names().into_iter().map(read).collect::<Result<_>>()?))
    }
}

impl Checkpoint for Rounded {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.get(name).map(|(shape, _)| shape.clone())
    }

    fn read_f32(&self, name: &str) -> ModelResult<Vec<f32>> {
        let missing = || ModelError::Mismatch { problems: vec![format!("{name}: missing")] };
        self.0.get(name).map(|(_, values)| values.clone()).ok_or_else(missing)
    }
}

/// Writes the model as a Hugging Face folder, and reads it again.
fn round_trip(target: &Target<'_>, findings: &mut Findings) -> Result<()> {
    let pretrained = Pretrained::open(&target.folders.model)?;
    let folder = target.folders.run.with_file_name("written");
    let options = HuggingFaceOptions { float: FloatType::F32, overwrite: true, ..Default::default() };
    export_hugging_face(&pretrained, &*pretrained.checkpoint, &folder, &options)?;
    let again = Pretrained::open(&folder)?;
    let mut wrong = Vec::new();
    for name in pretrained.checkpoint.names() {
        let (before, after) = (pretrained.checkpoint.read_f32(&name)?, again.checkpoint.read_f32(&name));
        if !after.is_ok_and(|after| after == before) {
            wrong.push(name);
        }
    }
    findings.detail("written and read again", wrong.is_empty());
    if let Some(first) = wrong.first() {
        let what = format!("{} tensors changed when they were written and read again, first `{first}`", wrong.len());
        findings.fail("Hugging Face folder", what, "exported and merged models are damaged", whom());
    }
    Ok(())
}
