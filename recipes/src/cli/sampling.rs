//! How `generate` and `chat` choose tokens.

use anyhow::{Result, bail};
use burnish_models::{GenerateOptions, SamplingOptions};

/// Arguments of sampling.
#[derive(Debug, Clone, clap::Args)]
pub struct SamplingArgs {
    /// Maximum number of tokens to generate
    #[arg(long, value_name = "N", help_heading = "Sampling", default_value_t = 256)]
    max_tokens: usize,
    /// Sampling temperature; 0 always picks the most likely token
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Sampling", default_value_t = 0.0)]
    temperature: f32,
    /// Sample from this many of the most likely tokens; 0 is off
    #[arg(long, value_name = "N", help_heading = "Sampling", default_value_t = 0)]
    top_k: usize,
    /// Sample from the most likely tokens that together reach this probability; 1 is off
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Sampling", default_value_t = 1.0)]
    top_p: f32,
    /// Drop tokens whose probability is below this fraction of the highest; 0 is off
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Sampling", default_value_t = 0.0)]
    min_p: f32,
    /// Penalty on tokens that occurred before; 1 is off
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Sampling", default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Stop before this text; may be given several times
    #[arg(long, value_name = "TEXT", help_heading = "Sampling", allow_hyphen_values = true, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    stop: Vec<String>,
    /// Random seed of sampling
    #[arg(long, value_name = "N", help_heading = "Sampling", default_value_t = 0)]
    seed: u64,
}

impl SamplingArgs {
    /// Checks the ranges, and returns the options.
    ///
    /// # Errors
    /// When a value is out of range; the message names the flag.
    pub fn options(&self) -> Result<GenerateOptions> {
        let within = |name: &str, value: f32, low: f32, high: f32| {
            if !(low..=high).contains(&value) {
                bail!("--{name} should be between {low} and {high}, got {value}");
            }
            Ok(())
        };
        within("temperature", self.temperature, 0.0, 100.0)?;
        if self.top_p <= 0.0 {
            bail!("--top-p should be above 0 and at most 1, got {}", self.top_p);
        }
        within("top-p", self.top_p, 0.0, 1.0)?;
        within("min-p", self.min_p, 0.0, 1.0)?;
        within("repetition-penalty", self.repetition_penalty, 0.01, 100.0)?;
        Ok(GenerateOptions {
            max_tokens: self.max_tokens,
            sampling: SamplingOptions {
                repetition_penalty: self.repetition_penalty,
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                seed: self.seed,
            },
            end_tokens: Vec::new(),
            stop: self.stop.clone(),
        })
    }
}
