//! Writes GGUF files and reads them again.

use anyhow::Result;
use burnish_export::{GgufOptions, GgufType, Mixture, export_gguf};
use burnish_models::{Checkpoint, FloatType, LoadOptions, Pretrained, Quantization};

use super::findings::Findings;
use super::golden::{Golden, one_row};
use super::issues::whom;
use super::model::{compare, last_logits};
use super::target::Target;

/// The types, and the largest root-mean-square error of a matrix as a share of its weights.
const KINDS: [(GgufType, f64); 3] = [
    (GgufType::Float(FloatType::F16), 0.0),
    (GgufType::Quantized(Mixture::Q8_0), 0.01),
    (GgufType::Quantized(Mixture::Q4_0), 0.12),
];

/// Writes the built-in model in several types, reads each file again, and computes with it.
///
/// # Errors
/// When a file can't be written or the device fails.
pub(super) fn check(target: &Target<'_>) -> Result<Findings> {
    let mut findings = Findings::default();
    let pretrained = Pretrained::open(&target.folders.model)?;
    for (kind, allowed) in KINDS {
        let path = target.folders.run.with_file_name(format!("verify-{kind}.gguf"));
        let options = GgufOptions { kind, overwrite: true, ..GgufOptions::default() };
        export_gguf(&pretrained, &*pretrained.checkpoint, &path, &options)?;
        let again = match Pretrained::open(&path) {
            Ok(again) => again,
            Err(error) => {
                damaged(&mut findings, kind, format!("it can't be read again: {error}"));
                continue;
            }
        };
        let problems = differences(&pretrained, &again, allowed)?;
        findings.detail(format!("{kind}, written and read again"), problems.is_empty());
        if problems.is_empty() {
            on_device(target, &again, kind, &mut findings)?;
        } else {
            damaged(&mut findings, kind, problems.join("; "));
        }
    }
    let kinds: Vec<String> = KINDS.iter().map(|(kind, _)| kind.to_string()).collect();
    findings.summary = format!("{}: written, read again, and run", kinds.join(", "));
    Ok(findings)
}

fn damaged(findings: &mut Findings, kind: GgufType, what: String) {
    let means = "GGUF files written here are damaged: llama.cpp and Ollama would load a wrong model";
    findings.fail(format!("GGUF writer, {kind}"), what, means, whom());
}

/// What differs between the model and the file: configuration, tokens, tensors.
fn differences(before: &Pretrained, after: &Pretrained, allowed: f64) -> Result<Vec<String>> {
    let golden = Golden::open()?;
    let mut problems = Vec::new();
    let sizes = |model: &Pretrained| {
        let config = &model.config;
        [config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.head_dim, config.vocab_size]
    };
    if sizes(before) != sizes(after) {
        problems.push(format!("the configuration changed from {:?} to {:?}", sizes(before), sizes(after)));
    }
    let ids = |model: &Pretrained| model.tokenizer.encode(&golden.prompt, false);
    if ids(before)? != ids(after)? {
        problems.push("the tokenizer gives other tokens".to_owned());
    }
    for name in before.checkpoint.names() {
        let expected = before.checkpoint.read_f32(&name)?;
        match after.checkpoint.read_f32(&name) {
            Ok(found) if found.len() == expected.len() => {
                let is_vector = before.checkpoint.shape(&name).is_some_and(|shape| shape.len() < 2);
                let allowed = if is_vector { 0.0 } else { allowed };
                let error = relative_error(&found, &expected);
                if error.is_nan() || error > allowed {
                    problems.push(format!("`{name}` differs by {:.1} % of its size", 100.0 * error));
                }
            }
            Ok(found) => problems.push(format!("`{name}` has {} elements, not {}", found.len(), expected.len())),
            Err(error) => problems.push(error.to_string()),
        }
    }
    Ok(problems)
}

/// Root mean square of the differences, as a share of that of the values.
fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    let sum = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let distance = sum(&mut found.iter().zip(expected).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    (distance / sum(&mut expected.iter().map(|value| f64::from(*value))).max(f64::MIN_POSITIVE)).sqrt()
}

/// Computes with the file's blocks on the device, against its floats on the CPU.
fn on_device(target: &Target<'_>, model: &Pretrained, kind: GgufType, findings: &mut Findings) -> Result<()> {
    let batch = one_row(&Golden::open()?.input_ids);
    let logits = |backend: &str, options: LoadOptions| {
        burnish_backends::enter(backend, |device| last_logits(device, &model.config, &*model.checkpoint, options, &batch))
    };
    let expected = logits("cpu", LoadOptions::frozen(FloatType::F32))?;
    let found = logits(target.backend, LoadOptions::frozen(target.dtype).quantized(Quantization::Auto))?;
    compare(target, findings, format!("logits of the {kind} file"), &found, &expected, target.dtype);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_a_share_of_the_values() {
        assert!(relative_error(&[1.0, -2.0], &[1.0, -2.0]) <= 0.0);
        assert!((relative_error(&[1.1, -2.2], &[1.0, -2.0]) - 0.1).abs() < 1e-6);
        assert!(relative_error(&[f32::NAN], &[1.0]).is_nan());
    }
}
