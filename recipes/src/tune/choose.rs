//! How a run computes its products.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;
use burnish_engine::guard::guarded;
use burnish_engine::{Device, StepItem, Trainer};
use burnish_kernels::ProductTrial;
use serde::{Deserialize, Serialize};

use super::key::TuningKey;
use super::measure::{TunedClass, measure};
use super::repay::{Effort, of_step};
use super::table::ProductTable;
use crate::config::Tune;

/// Fewest steps of a run that is prepared for measuring: that alone takes two steps.
const FEWEST_STEPS: usize = 50;

/// How a run computes its products, as its checkpoints keep it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChosenProducts {
    /// The device that it was chosen on, and the program.
    pub device: TuningKey,
    /// Candidate, by class.
    pub products: BTreeMap<String, String>,
}

/// What decides about a run's products.
pub struct RunProducts<'a> {
    /// The name of the backend.
    pub backend: &'a str,
    /// The key of the configuration.
    pub tune: Tune,
    /// The steps of the run.
    pub steps: usize,
    /// A step of its largest micro-batch, and how many of them an optimizer step has.
    pub largest: Option<(StepItem, usize)>,
}

/// Chooses how a resumed run computes its products: as its checkpoint did, whatever the file on disk says. Returns a note if that may not
/// give the same bits.
pub fn for_resumed(device: &dyn Device, backend: &str, saved: Option<&ChosenProducts>) -> Option<String> {
    let saved = saved?;
    device.choose_products(&saved.products);
    let here = TuningKey::of(backend);
    (here != saved.device).then(|| {
        format!(
            "the checkpoint's products were chosen for {}, and this is {here}: losses can differ in their last digits from those of a run \
             that was not stopped",
            saved.device
        )
    })
}

/// Chooses how a new run computes its products: as the file of the device says, after measuring what it lacks, if the run repays that.
/// Returns the choice, and what there is to say.
///
/// # Errors
/// When the device fails.
pub fn for_run(
    device: &dyn Device,
    trainer: &mut dyn Trainer,
    run: RunProducts<'_>,
) -> Result<(Option<ChosenProducts>, Option<String>)> {
    let RunProducts { backend, tune, steps, largest } = run;
    if tune == Tune::Never || !device.computes_packed() {
        return Ok((None, None));
    }
    let key = TuningKey::of(backend);
    let table = ProductTable::of(&key);
    let mut products = table.as_ref().map(ProductTable::read).unwrap_or_default();
    let mut line = None;
    let asks = tune == Tune::Always || (steps >= FEWEST_STEPS && key.is_gpu());
    if let Some((item, micro_batches)) = largest.filter(|_| asks) {
        device.choose_products(&products);
        let (mut trials, step_seconds) = noted(device, trainer, &item, micro_batches)?;
        trials.retain(|trial| trial.candidates().len() > 1 && !products.contains_key(trial.class()));
        let effort = Effort::of(backend);
        let (takes, saves) = (effort.seconds(&trials), effort.gain(steps, step_seconds));
        if trials.is_empty() {
            // All of them are kept, or have one candidate.
        } else if tune == Tune::Always || saves > takes {
            let start = Instant::now();
            let classes: Vec<TunedClass> = trials.iter_mut().map(|trial| measure(&mut **trial)).collect();
            drop(trials);
            trainer.trim();
            let new = chosen(&classes);
            let problem = table.and_then(|table| table.add(&new).err());
            line = Some(report(&classes, start.elapsed().as_secs_f64(), problem.as_ref()));
            products.extend(new);
        } else {
            line = Some(format!(
                "products are computed by default: measuring {} classes would take about {takes:.0} s and save about {saves:.0} s; \
                 `tune = \"always\"` or `burnish tune` measures them",
                trials.len()
            ));
        }
    }
    device.choose_products(&products);
    if products.is_empty() {
        return Ok((None, line));
    }
    let kept = || format!("products are computed as measured on this device before, {} classes", products.len());
    let line = line.unwrap_or_else(kept);
    Ok((Some(ChosenProducts { device: key, products }), Some(line)))
}

/// The classes of the products of a step, and the seconds that an optimizer step takes. The step is rehearsed twice: the first time its
/// kernels are compiled.
fn noted(
    device: &dyn Device,
    trainer: &mut dyn Trainer,
    item: &StepItem,
    micro_batches: usize,
) -> Result<(Vec<Box<dyn ProductTrial>>, f64)> {
    trainer.rehearse(item)?;
    device.note_products();
    let start = Instant::now();
    let rehearsed = trainer.rehearse(item);
    let seconds = start.elapsed().as_secs_f64();
    // Also after an error, which ends the notes.
    let trials = guarded(|| Ok(device.product_trials()))?;
    rehearsed?;
    Ok((trials, seconds * micro_batches as f64))
}

/// The name of the chosen candidate of each class that has a right one.
pub fn chosen(classes: &[TunedClass]) -> BTreeMap<String, String> {
    let of = |class: &TunedClass| {
        class.chosen_seconds()?;
        Some((class.class.clone(), class.candidates[class.chosen].name.clone()))
    };
    classes.iter().filter_map(of).collect()
}

fn report(classes: &[TunedClass], seconds: f64, problem: Option<&anyhow::Error>) -> String {
    let [default, chosen] = of_step(classes);
    let gain = if default > 0.0 { 100.0 * (1.0 - chosen / default) } else { 0.0 };
    let kept = problem.map_or_else(String::new, |error| format!("; not kept for later runs: {error:#}"));
    format!(
        "measured {} classes of products in {seconds:.1} s: those of a step take {gain:.0} % less than by default{kept}",
        classes.len()
    )
}

#[cfg(test)]
mod tests {
    use super::super::measure::tests::Planted;
    use super::*;

    #[test]
    fn a_checkpoint_of_another_device_or_version_is_named() {
        let resumed = |saved: Option<&ChosenProducts>| {
            burnish_backends::enter("cpu", |device| Ok(for_resumed(device, "cpu", saved))).unwrap()
        };
        let here = TuningKey::of("cpu");
        let saved = |device: TuningKey| ChosenProducts { device, products: BTreeMap::new() };
        assert!(resumed(None).is_none() && resumed(Some(&saved(here.clone()))).is_none());
        for other in
            [TuningKey { device: "Apple M1".to_owned(), ..here.clone() }, TuningKey { program: "0.0.9".to_owned(), ..here }]
        {
            let note = resumed(Some(&saved(other.clone()))).unwrap();
            assert!(note.contains(&other.to_string()) && note.contains("can differ in their last digits"), "{note}");
        }
    }

    #[test]
    fn classes_without_a_right_candidate_are_not_kept() {
        let fast = measure(&mut Planted::new(&[("default", Some(2.0)), ("fast", Some(1.0))]));
        let wrong = TunedClass { class: "wrong".to_owned(), ..measure(&mut Planted::new(&[("default", None)])) };
        let kept = chosen(&[fast.clone(), wrong]);
        assert_eq!(kept, BTreeMap::from([(fast.class.clone(), "fast".to_owned())]));
        let line = report(&[fast], 1.5, None);
        assert!(line.starts_with("measured 1 classes of products in 1.5 s") && line.contains("50 % less"), "{line}");
    }
}
