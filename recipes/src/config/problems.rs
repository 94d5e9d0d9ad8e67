//! Checks ranges, and values that exclude each other.

use burnish_lora::{Init, TargetModules};

use super::TrainConfig;
use super::choice::{FineTuneType, QuantizationKind, Recipe};
use crate::data::LengthPolicy;

/// Larger counts are surely mistakes, and products of them could overflow.
const MOST: usize = 1_000_000_000;

impl TrainConfig {
    /// Everything that is wrong with the values, one sentence each.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        self.check_parts(&mut problems);
        self.check_counts(&mut problems);
        self.check_numbers(&mut problems);
        problems
    }

    fn check_parts(&self, problems: &mut Vec<String>) {
        let mut check = |ok: bool, problem: &str| {
            if !ok {
                problems.push(problem.to_owned());
            }
        };
        let full = self.fine_tune_type == FineTuneType::Full;
        check(!self.model.is_empty() || self.model_config.is_some(), "`model` is missing");
        check(
            self.model.is_empty() || self.model_config.is_none(),
            "`model` and `model_config` exclude each other: one fine-tunes, the other trains from scratch",
        );
        check(!self.data.is_empty(), "`data` is missing");
        check(
            self.length_policy != LengthPolicy::Split || self.recipe == Recipe::Sft,
            "`length_policy = \"split\"` needs `recipe = \"sft\"`: a part of an answer can't be compared; use truncate or drop",
        );
        check(!self.output_dir.is_empty(), "`output_dir` is empty");
        if let Some(part) = self.report_to.reserved(&self.project_name) {
            check(false, &format!("`project_name`: trackio keeps names with `{part}` for its own files; choose another"));
        }
        check(
            full || self.model_config.is_none(),
            "training from scratch (`model_config`) needs `fine_tune_type = \"full\"`",
        );
        check(
            !full || !self.storage().packs_floats(),
            "`fine_tune_type = \"full\"` trains every weight as a float: expected `quantization = \"none\"`; \
             `fine_tune_type = \"lora\"` trains adapters on quantised weights",
        );
        check(!full || !self.quantize_embedding, "`quantize_embedding` needs `fine_tune_type = \"lora\"`");
        check(!full || self.adapter.is_none(), "`adapter` needs `fine_tune_type = \"lora\"`");
        check(!full || !self.has_lora_plus(), "`lora_plus_ratio` needs `fine_tune_type = \"lora\"`");
        let parameters = self.target_parameters.list();
        let no_target = match &self.target_modules {
            TargetModules::One(name) => name.is_empty(),
            TargetModules::Named(names) => names.iter().any(String::is_empty) || (names.is_empty() && parameters.is_empty()),
        };
        check(!no_target, "`target_modules` is empty");
        check(!parameters.iter().any(String::is_empty), "`target_parameters` has an empty name");
        check(!full || parameters.is_empty(), "`target_parameters` needs `fine_tune_type = \"lora\"`");
        check(
            parameters.is_empty() || self.dropout.abs() <= 0.0,
            "`target_parameters` needs `dropout = 0`: PEFT has no dropout for adapters of parameters",
        );
        check(
            parameters.is_empty() || !self.dora,
            "`target_parameters` needs `dora = false`: PEFT has no DoRA for parameters",
        );
        let packs = !matches!(self.quantization, QuantizationKind::None | QuantizationKind::Auto);
        check(
            !(packs && self.lora().init.changes_base()),
            "`init` takes its factors out of the base weights, which needs `quantization = \"none\"`",
        );
        check(
            packs || self.lora().init != Init::Loftq,
            "`init = \"loftq\"` makes up for quantisation, which needs `quantization = \"nf4\"`",
        );
        let has_modules = !self.modules_to_save.list().is_empty();
        check(!full || !has_modules, "`modules_to_save` needs `fine_tune_type = \"lora\"`: a full run trains every matrix");
        check(
            !has_modules || !self.recipe.has_reference(),
            &format!(
                "`modules_to_save` with `{}` is not supported: its reference would need a second embedding and head",
                self.recipe.name()
            ),
        );
        check(
            self.early_stopping == 0 || self.steps_per_eval > 0,
            "`early_stopping` needs a validation loss, but `steps_per_eval` is 0",
        );
    }

    /// Whether the factors of adapters have different learning rates.
    fn has_lora_plus(&self) -> bool {
        (self.lora_plus_ratio - 1.0).abs() > 0.0
    }

    fn check_counts(&self, problems: &mut Vec<String>) {
        let counts = [
            ("max_seq_length", self.max_seq_length, 2),
            ("rank", self.rank, 1),
            ("num_layers", self.num_layers, 0),
            ("batch_size", self.batch_size, 1),
            ("grad_accumulation_steps", self.grad_accumulation_steps, 1),
            ("epochs", self.epochs, 0),
            ("iters", self.iters, 0),
            ("save_every", self.save_every, 0),
            ("save_total_limit", self.save_total_limit, 0),
            ("steps_per_report", self.steps_per_report, 0),
            ("steps_per_eval", self.steps_per_eval, 0),
            ("val_batches", self.val_batches, 0),
            ("early_stopping", self.early_stopping, 0),
            ("samples", self.samples, 0),
        ];
        for (name, value, least) in counts {
            if value < least {
                problems.push(format!("`{name}` should be at least {least}, got {value}"));
            } else if value > MOST {
                problems.push(format!("`{name}` should be at most {MOST}, got {value}"));
            }
        }
        if self.epochs == 0 && self.iters == 0 {
            problems.push("`epochs` and `iters` are both 0, so there is nothing to train".to_owned());
        }
        if i64::try_from(self.seed).is_err() {
            problems.push(format!("`seed` should be at most {}, got {}", i64::MAX, self.seed));
        }
    }

    fn check_numbers(&self, problems: &mut Vec<String>) {
        let mut check = |name: &str, value: f64, ok: bool, expected: &str| {
            if !(ok && value.is_finite()) {
                problems.push(format!("`{name}` should be {expected}, got {value}"));
            }
        };
        for (name, value) in [("dropout", self.dropout), ("beta1", self.beta1), ("beta2", self.beta2)] {
            check(name, value, (0.0..1.0).contains(&value), "at least 0 and below 1");
        }
        let positive = [
            ("alpha", self.alpha),
            ("learning_rate", self.learning_rate),
            ("lora_plus_ratio", self.lora_plus_ratio),
            ("epsilon", self.epsilon),
        ];
        for (name, value) in positive {
            check(name, value, value > 0.0, "positive");
        }
        for (name, value) in [("weight_decay", self.weight_decay), ("max_grad_norm", self.max_grad_norm)] {
            check(name, value, value >= 0.0, "0 or more");
        }
        let steps = self.warmup < 1.0 || (self.warmup.fract() == 0.0 && self.warmup <= MOST as f64);
        check(
            "warmup",
            self.warmup,
            self.warmup >= 0.0 && steps,
            "a share of all steps below 1, or a whole number of steps",
        );
    }
}
