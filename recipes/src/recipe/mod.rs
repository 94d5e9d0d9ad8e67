//! The recipes, one file each: what is learned, and how the loss is computed.

pub mod cpo;
pub mod dpo;
pub mod kto;
mod logistic;
pub mod orpo;
mod pairs;
pub mod simpo;

use std::sync::Arc;

use anyhow::Result;
use burnish_engine::{Objective, with_hint};

use crate::config::{FineTuneType, LossType, Recipe, TrainConfig};
use crate::data::{Batches, Examples};

/// How a recipe computes the loss of a step from the losses of its tokens. Rows beside those of a batch are laid out as
/// the batches are.
pub fn objective(config: &TrainConfig, batches: &Batches) -> Objective {
    match config.recipe {
        Recipe::Sft => Objective::Tokens,
        Recipe::Dpo => Objective::Judged(Arc::new(dpo::Dpo::new(config))),
        Recipe::Orpo => Objective::Judged(Arc::new(orpo::Orpo::new(config))),
        Recipe::Kto => Objective::Judged(Arc::new(kto::Kto {
            max_seq_length: batches.max_seq_length(),
            granule: batches.granule(),
            ..kto::Kto::new(config)
        })),
        Recipe::Simpo => Objective::Judged(Arc::new(simpo::Simpo::new(config))),
        Recipe::Cpo => Objective::Judged(Arc::new(cpo::Cpo::new(config))),
    }
}

/// The losses that `loss_type` may name, besides `auto`.
pub(crate) fn losses(recipe: Recipe) -> &'static [LossType] {
    match recipe {
        Recipe::Sft | Recipe::Orpo | Recipe::Simpo => &[],
        Recipe::Dpo => dpo::LOSSES,
        Recipe::Kto => kto::LOSSES,
        Recipe::Cpo => cpo::LOSSES,
    }
}

/// A note on the training rows, if they and the configuration don't go well together.
pub fn note(config: &TrainConfig, examples: &Examples) -> Option<String> {
    (config.recipe == Recipe::Kto).then(|| kto::imbalance(config, examples)).flatten()
}

/// Whether prompts are compared with the answers to other prompts of a micro-batch.
pub fn compares_prompts(config: &TrainConfig) -> bool {
    config.recipe == Recipe::Kto && config.loss_type != LossType::ApoZeroUnpaired
}

/// How many passes without gradients a micro-batch has, beside its own: of the reference model, and of mismatched answers by both.
pub fn passes_without_gradients(config: &TrainConfig) -> usize {
    let models = 1 + usize::from(config.recipe.has_reference());
    usize::from(config.recipe.has_reference()) + if compares_prompts(config) { models } else { 0 }
}

/// Checks the training rows against what the recipe learns from them.
///
/// # Errors
/// When prompts are compared, and there is only one.
pub fn check_rows(config: &TrainConfig, examples: &Examples) -> Result<()> {
    if compares_prompts(config) && kto::has_one_prompt(examples.iter()) {
        return Err(nothing_to_compare("there is only one prompt", "add rows with other prompts"));
    }
    Ok(())
}

fn nothing_to_compare(why: &str, way_out: &str) -> anyhow::Error {
    with_hint(
        format!("`recipe` is kto and {why}, but prompts are compared with the answers of other rows of a micro-batch"),
        format!("{way_out}, or loss_type = \"apo_zero_unpaired\", which compares nothing"),
    )
}

/// Checks the configuration against what its recipe supports.
///
/// # Errors
/// When a key has a value that the recipe does not support; the message names the key.
pub fn check(config: &TrainConfig) -> Result<()> {
    check_loss_type(config)?;
    let recipe = config.recipe;
    if recipe == Recipe::Sft {
        return Ok(());
    }
    let name = recipe.name();
    if recipe.has_reference() && config.fine_tune_type == FineTuneType::Full {
        return Err(with_hint(
            format!("`recipe` is {name} and `fine_tune_type` is full: the reference would be a second model in memory"),
            "fine_tune_type = \"lora\" trains adapters, and the model without them is the reference",
        ));
    }
    if config.packing {
        return Err(with_hint(
            format!("`recipe` is {name} and `packing` is on, but a row holds one answer"),
            "remove packing",
        ));
    }
    if !(config.beta > 0.0 && config.beta.is_finite()) {
        return Err(with_hint(format!("`beta` should be a positive number, but is {}", config.beta), "0.1 is usual"));
    }
    let weights = [
        ("rpo_alpha", config.rpo_alpha),
        ("cpo_alpha", config.cpo_alpha),
        ("simpo_gamma", config.simpo_gamma),
        ("desirable_weight", config.desirable_weight),
        ("undesirable_weight", config.undesirable_weight),
    ];
    if let Some((key, value)) = weights.iter().find(|(_, value)| !(*value >= 0.0 && value.is_finite())) {
        return Err(with_hint(format!("`{key}` should be a number, 0 or more, but is {value}"), "0 leaves its part out"));
    }
    check_smoothing(config)?;
    if compares_prompts(config) && config.batch_size < 2 {
        return Err(nothing_to_compare("`batch_size` is 1", "set batch_size to 2 or more"));
    }
    if recipe == Recipe::Kto && config.desirable_weight + config.undesirable_weight <= 0.0 {
        return Err(with_hint(
            "`desirable_weight` and `undesirable_weight` are both 0, so there is nothing to learn",
            "1 is usual for both",
        ));
    }
    Ok(())
}

fn check_loss_type(config: &TrainConfig) -> Result<()> {
    let (known, name) = (losses(config.recipe), config.recipe.name());
    if config.loss_type == LossType::Auto || known.contains(&config.loss_type) {
        return Ok(());
    }
    let found = config.loss_type.name();
    let fitting = Recipe::ALL.into_iter().filter(|recipe| losses(*recipe).contains(&config.loss_type));
    let fitting: Vec<&str> = fitting.map(Recipe::name).collect();
    let names: Vec<&str> = known.iter().map(|loss| loss.name()).collect();
    let way_out = if names.is_empty() {
        format!("remove loss_type: {name} has one loss; {found} is a loss of {}", fitting.join(" and "))
    } else {
        format!("expected one of {}", names.join(", "))
    };
    Err(with_hint(format!("`loss_type` is {found}, which `recipe` {name} does not have"), way_out))
}

fn check_smoothing(config: &TrainConfig) -> Result<()> {
    let found = config.label_smoothing;
    if !(0.0..0.5).contains(&found) {
        return Err(with_hint(format!("`label_smoothing` should be at least 0 and below 0.5, but is {found}"), "0 is off"));
    }
    let has_smoothing = match config.recipe {
        Recipe::Sft | Recipe::Orpo | Recipe::Kto => false,
        Recipe::Dpo => matches!(config.loss_type, LossType::Auto | LossType::Robust),
        Recipe::Cpo => matches!(config.loss_type, LossType::Auto | LossType::Sigmoid | LossType::Simpo),
        Recipe::Simpo => true,
    };
    if found > 0.0 && !has_smoothing {
        return Err(with_hint(
            format!("`label_smoothing` is {found}, but the loss of `recipe` {} has none", config.recipe.name()),
            "dpo has it with loss_type robust, cpo with sigmoid and simpo, simpo always; 0 is off",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::hint;

    fn refused(config: TrainConfig) -> String {
        let error = check(&config).unwrap_err();
        format!("{error}; {}", hint(&error).unwrap())
    }

    #[test]
    fn losses_belong_to_recipes() {
        for recipe in Recipe::ALL {
            let of = |loss_type| TrainConfig { recipe, loss_type, ..TrainConfig::default() };
            assert!(check(&of(LossType::Auto)).is_ok() && losses(recipe).iter().all(|loss| check(&of(*loss)).is_ok()));
            let other = if recipe == Recipe::Kto { LossType::Hinge } else { LossType::Kto };
            assert!(refused(of(other)).contains("`loss_type`"));
        }
        let error = refused(TrainConfig { loss_type: LossType::ApoZeroUnpaired, ..TrainConfig::default() });
        assert!(error.contains("sft has one loss") && error.ends_with("a loss of kto"), "{error}");
    }

    #[test]
    fn wrong_values_are_named() {
        let of = |recipe| TrainConfig { recipe, ..TrainConfig::default() };
        for (config, word) in [
            (TrainConfig { packing: true, ..of(Recipe::Orpo) }, "orpo and `packing`"),
            (TrainConfig { fine_tune_type: FineTuneType::Full, ..of(Recipe::Kto) }, "second model"),
            (TrainConfig { beta: 0.0, ..of(Recipe::Simpo) }, "`beta`"),
            (TrainConfig { simpo_gamma: -1.0, ..of(Recipe::Simpo) }, "`simpo_gamma`"),
            (TrainConfig { cpo_alpha: f64::NAN, ..of(Recipe::Cpo) }, "`cpo_alpha`"),
            (TrainConfig { batch_size: 1, ..of(Recipe::Kto) }, "`batch_size`"),
            (TrainConfig { desirable_weight: 0.0, undesirable_weight: 0.0, ..of(Recipe::Kto) }, "are both 0"),
            (TrainConfig { label_smoothing: 0.5, ..of(Recipe::Cpo) }, "below 0.5"),
            (TrainConfig { label_smoothing: 0.1, ..of(Recipe::Orpo) }, "has none"),
            (TrainConfig { label_smoothing: 0.1, loss_type: LossType::Ipo, ..of(Recipe::Dpo) }, "has none"),
        ] {
            let error = refused(config);
            assert!(error.contains(word), "{error}");
        }
        // Without a reference every weight may be trained.
        let full = |recipe| check(&TrainConfig { fine_tune_type: FineTuneType::Full, ..of(recipe) });
        assert!([Recipe::Orpo, Recipe::Simpo, Recipe::Cpo].into_iter().all(|recipe| full(recipe).is_ok()));
    }
}
