//! A real model from the hub.

use anyhow::{Context, Result};
use burnish_export::{GgufOptions, GgufType, Mixture, export_gguf};
use burnish_models::{FloatType, LoadOptions, Pretrained, Quantization};

use super::findings::Findings;
use super::golden::one_row;
use super::issues::whom;
use super::model::{compare, last_logits};
use super::target::Target;

/// The model that is downloaded, 270 MB, unless another is named.
pub const MODEL: &str = "HuggingFaceTB/SmolLM2-135M-Instruct";

const TEXT: &str = "The capital of France is Paris, and the capital of Italy is Rome. The capital of Spain is";

/// The largest mean loss of [`TEXT`] for a model that has learned a language.
const FLUENT: f64 = 4.0;

/// Downloads a model, computes with it as floats and in few bits, and writes it as a GGUF file.
///
/// # Errors
/// When the device fails, or the file can't be written.
pub(super) fn check(target: &Target<'_>, id: &str, findings: &mut Findings) -> Result<()> {
    let pretrained = match Pretrained::open(id) {
        Ok(pretrained) => pretrained,
        Err(error) => {
            findings.fail(
                format!("download of {id}"),
                error.to_string(),
                "models can't be fetched by their names here; folders and files still open",
                "check the network and HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE; --skip-downloads leaves this out",
            );
            return Ok(());
        }
    };
    let ids = pretrained.tokenizer.encode_prompt(TEXT)?;
    let batch = one_row(&ids);
    let options = |backend: &str| {
        let (dtype, quantization) = match backend {
            "cpu-reference" => (FloatType::F32, Quantization::None),
            _ => (target.dtype, Quantization::Auto),
        };
        LoadOptions::frozen(dtype).quantized(quantization)
    };
    let computed = |name: &'static str, model: &Pretrained| {
        let backend = if name == "cpu-reference" { "cpu" } else { name };
        burnish_backends::enter(backend, |device| {
            let options = options(name);
            let logits = last_logits(device, &model.config, &*model.checkpoint, options, &batch)?;
            let loss = device.run(&model.config, &*model.checkpoint, options, None)?.loss(&batch)?;
            Ok((logits, loss / batch.target_tokens as f64))
        })
    };
    let (found, loss) = computed(target.backend, &pretrained)?;
    let (expected, _) = computed("cpu-reference", &pretrained)?;
    compare(target, findings, format!("logits of {id}"), &found, &expected, target.dtype);
    let is_fluent = loss <= FLUENT;
    findings.detail(format!("loss of a sentence by {id}: {loss:.3}"), is_fluent);
    if !is_fluent {
        let what = format!("a plain English sentence has the loss {loss:.3}, more than {FLUENT}");
        findings.fail(
            format!("loss of {id}"),
            what,
            "the model is read wrongly, or computes nonsense",
            target.whom_for_kernels(),
        );
    }
    let path = target.folders.run.with_file_name("verify-real.gguf");
    let kind = GgufType::Quantized(Mixture::Q4KM);
    let options = GgufOptions { kind, overwrite: true, requantize: true, ..GgufOptions::default() };
    export_gguf(&pretrained, &*pretrained.checkpoint, &path, &options)?;
    let again = Pretrained::open(&path).context("the GGUF file that was written can't be read")?;
    let (_, quantised) = computed(target.backend, &again)?;
    let passed = (quantised - loss).abs() <= 0.5;
    findings.detail(format!("loss of the same sentence as {kind}: {quantised:.3}"), passed);
    if !passed {
        let what = format!("the loss of a sentence is {loss:.3}, and {quantised:.3} as {kind}");
        findings.fail(format!("GGUF of {id}"), what, "GGUF files written here are damaged", whom());
    }
    Ok(())
}
