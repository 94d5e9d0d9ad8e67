//! What the kernels do, counted by the emulator: launches, bytes, operations. No time is measured here.
//!
//! The model is shrunk, unless its own widths are asked for: a CPU executes every GPU thread. Launches depend on sizes only where a
//! kernel's strategy does: few tiles are split along their sums, which takes one launch more. Counts that grow with the sizes are
//! scaled by [`super::predict`].

use std::collections::BTreeMap;

use anyhow::Result;
use burnish_lora::{LoraConfig, attach};
use burnish_metal::emulator::{EmulatorDevice, KernelReport, MetalCpu, take_reports};
use burnish_models::{AdapterPass, FloatType, LoadOptions, ModelConfig};
use serde::Serialize;

use super::action::{Launch, actions};
use super::entry::{Entry, Kernel, entries};
use super::random_model::random_model;
use super::setup::Setup;
use super::shape::{Shape, Widths};
use super::sizes::Sizes;
use super::step::random_batch;
use super::stopwatch::wait;
use burnish_engine::{Training, batch_loss, failure, guard::guarded};

/// Operations of a product of 8×8 matrices.
const MATRIX_FLOPS: f64 = 1024.0;

/// Most tokens of the longer run; tiles of matrices are full at this length.
const MOST_TOKENS: usize = 128;
/// The same at a model's own widths.
const MOST_TOKENS_OF_FULL_WIDTHS: usize = 32;
/// Most tokens in the vocabulary of the models that blocks are counted in.
const BLOCK_VOCABULARY: usize = 1024;

/// Sums over kernels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Kernels launched.
    pub launches: f64,
    /// Bytes read and written, as issued.
    pub bytes: f64,
    /// Bytes read and written, each counted once per launch.
    pub unique_bytes: f64,
    /// Operations of products on matrix units.
    pub matrix_flops: f64,
    /// Other operations on floats.
    pub arithmetic: f64,
    /// Barriers, counted once per threadgroup.
    pub barriers: f64,
}

impl Counters {
    /// Why nothing at all could be counted.
    pub fn is_missing(&self) -> Option<&str> {
        let nothing = self.operations.is_empty() && self.block.is_err();
        self.failed.first().filter(|_| nothing).map(|failed| failed.error.as_str())
    }
}

impl Totals {
    fn of(reports: &BTreeMap<String, KernelReport>) -> Self {
        reports.values().fold(Self::default(), |sum, KernelReport { launches, counters, .. }| Self {
            launches: sum.launches + *launches as f64,
            bytes: sum.bytes + (counters.bytes_read + counters.bytes_written) as f64,
            unique_bytes: sum.unique_bytes + (counters.unique_bytes_read + counters.unique_bytes_written) as f64,
            matrix_flops: sum.matrix_flops + counters.matrix_operations as f64 * MATRIX_FLOPS,
            arithmetic: sum.arithmetic + counters.arithmetic as f64,
            barriers: sum.barriers + counters.barriers as f64,
        })
    }

    /// `self + factor · other`, never below 0.
    #[must_use]
    pub fn plus(self, factor: f64, other: Self) -> Self {
        let add = |a: f64, b: f64| (a + factor * b).max(0.0);
        Self {
            launches: add(self.launches, other.launches),
            bytes: add(self.bytes, other.bytes),
            unique_bytes: add(self.unique_bytes, other.unique_bytes),
            matrix_flops: add(self.matrix_flops, other.matrix_flops),
            arithmetic: add(self.arithmetic, other.arithmetic),
            barriers: add(self.barriers, other.barriers),
        }
    }

    /// All operations.
    pub fn flops(self) -> f64 {
        self.matrix_flops + self.arithmetic
    }
}

/// What one launch of an operation did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OperationCount {
    /// The operation at the sizes that were counted.
    #[serde(flatten)]
    pub entry: Entry,
    /// What its kernels did.
    pub totals: Totals,
    /// What the composed operation does.
    pub composed: Option<Totals>,
}

/// What a transformer block does, forward and backward.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BlockCount {
    /// The difference between a model of two blocks and a model of one.
    pub totals: Totals,
    /// Launches by kernel.
    pub kernels: BTreeMap<String, i64>,
    /// Launches if every operation were composed of burn's, counted operation by operation, where that was counted.
    pub composed_launches: Option<f64>,
}

/// An operation that could not be counted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Uncounted {
    /// Which one.
    pub kernel: Kernel,
    /// Why.
    pub error: String,
}

/// All counts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Counters {
    /// The sizes that were counted.
    pub sizes: Sizes,
    /// What was computed in.
    pub dtype: &'static str,
    /// By operation.
    pub operations: Vec<OperationCount>,
    /// Operations that failed in the emulator.
    pub failed: Vec<Uncounted>,
    /// Attention at half the length, as its work does not grow linearly.
    pub attention_at_half: Vec<OperationCount>,
    /// A block, or why it is not counted.
    pub block: Result<BlockCount, String>,
}

/// Counts the given operations, and a block where all of its operations are among them. `say` receives progress. An operation that
/// fails is listed; the others are counted all the same.
pub fn count(
    shape: &Shape,
    full: &Sizes,
    kernels: &[Kernel],
    dtype: FloatType,
    widths: Widths,
    say: &dyn Fn(&str),
) -> Counters {
    let most = if widths == Widths::Full { MOST_TOKENS_OF_FULL_WIDTHS } else { MOST_TOKENS };
    let length = full.length.clamp(2, most);
    let sizes = full.grouped_as(&shape.counted(widths, 1).config, 1, length);
    let setup = |length: usize| Setup::<MetalCpu> {
        sizes: Sizes { length, ..sizes.clone() },
        dtype: dtype.into(),
        // The tests look for races; here operations are counted.
        device: EmulatorDevice::Quick,
        rotation: 0.0,
    };
    let whole = setup(length);
    let (operations, failed) = each(kernels, |kernel| {
        say(&format!("counting {}", kernel.name()));
        count_kernel(kernel, &whole, widths)
    });
    let attention = kernels.iter().copied().filter(|kernel| *kernel == Kernel::Attention).collect::<Vec<_>>();
    let (attention_at_half, half_failed) = each(&attention, |kernel| count_kernel(kernel, &setup(length / 2), widths));
    let failed: Vec<Uncounted> = failed.into_iter().chain(half_failed).collect();
    let block = if let Some(kernel) = left_out(kernels, &whole) {
        Err(format!("{} is not among the kernels", kernel.name()))
    } else {
        say("counting a block, forward and backward");
        // A block is the difference between two and one; what surrounds them is kept small.
        let vocabulary = sizes.vocabulary.min(BLOCK_VOCABULARY);
        let around = Sizes { vocabulary, ..sizes.clone() };
        let config = |layers| ModelConfig { vocab_size: vocabulary, ..shape.counted(widths, layers).config };
        let all = failed.is_empty().then_some(&operations[..]);
        guarded(|| count_block(&config, &around, dtype, all)).map_err(|error| format!("{error:#}"))
    };
    Counters { sizes, dtype: dtype.name(), operations, failed, attention_at_half, block }
}

/// An operation of a block that is not among the kernels.
fn left_out(kernels: &[Kernel], setup: &Setup<MetalCpu>) -> Option<Kernel> {
    let in_block = |kernel| entries(kernel, &setup.sizes, setup.element()).iter().any(|entry| entry.per_block > 0);
    Kernel::ALL.into_iter().find(|kernel| !kernels.contains(kernel) && in_block(*kernel))
}

/// What was counted of each operation, and which could not be.
fn each<T>(kernels: &[Kernel], mut count: impl FnMut(Kernel) -> Result<Vec<T>>) -> (Vec<T>, Vec<Uncounted>) {
    let (mut counted, mut failed) = (Vec::new(), Vec::new());
    for kernel in kernels.iter().copied() {
        match count(kernel) {
            Ok(found) => counted.extend(found),
            Err(error) => failed.push(Uncounted { kernel, error: failure(format!("{error:#}")) }),
        }
    }
    (counted, failed)
}

fn count_kernel(kernel: Kernel, setup: &Setup<MetalCpu>, widths: Widths) -> Result<Vec<OperationCount>> {
    guarded(|| {
        let entries = entries(kernel, &setup.sizes, setup.element());
        let counted = entries.into_iter().zip(actions(kernel, setup)).map(|(entry, mut action)| {
            let totals = count_launch(setup.device, &mut action.run)?;
            let rival = action.composed.or(action.matmul.map(|matmul| matmul.run));
            let mut rival = rival.filter(|_| widths == Widths::Shrunk);
            let composed = rival.as_mut().map(|launch| count_launch(setup.device, launch)).transpose()?;
            Ok(OperationCount { entry, totals, composed })
        });
        counted.collect()
    })
}

fn count_launch(device: EmulatorDevice, launch: &mut Launch) -> Result<Totals> {
    Ok(Totals::of(&reports_of(device, || {
        launch();
        Ok(())
    })?))
}

/// Reports of the kernels that some work launched.
fn reports_of(device: EmulatorDevice, work: impl FnOnce() -> Result<()>) -> Result<BTreeMap<String, KernelReport>> {
    wait::<MetalCpu>(&device)?;
    take_reports();
    work()?;
    wait::<MetalCpu>(&device)?;
    Ok(take_reports())
}

/// Counts a block, and the same block composed of burn's operations where the counts of all of them are given.
fn count_block(
    config: &dyn Fn(usize) -> ModelConfig,
    sizes: &Sizes,
    dtype: FloatType,
    operations: Option<&[OperationCount]>,
) -> Result<BlockCount> {
    let one = count_model(&config(1), sizes, dtype)?;
    let two = count_model(&config(2), sizes, dtype)?;
    let totals = Totals::of(&two).plus(-1.0, Totals::of(&one));
    let launches =
        |reports: &BTreeMap<String, KernelReport>, name: &str| reports.get(name).map_or(0, |report| report.launches as i64);
    let names = one.keys().chain(two.keys());
    let kernels =
        names.map(|name| (name.clone(), launches(&two, name) - launches(&one, name))).filter(|(_, more)| *more != 0);
    let more =
        |count: &OperationCount| Some(count.entry.per_block as f64 * (count.composed?.launches - count.totals.launches));
    let saved = |operations: &[OperationCount]| {
        operations.iter().filter(|count| count.entry.per_block > 0).map(more).sum::<Option<f64>>()
    };
    let composed_launches = operations.and_then(saved).map(|saved| totals.launches + saved);
    Ok(BlockCount { totals, kernels: kernels.collect(), composed_launches })
}

/// Forward and backward of a model.
fn count_model(config: &ModelConfig, sizes: &Sizes, dtype: FloatType) -> Result<BTreeMap<String, KernelReport>> {
    let device = EmulatorDevice::Quick;
    let mut model = random_model::<Training<MetalCpu>>(config, LoadOptions::frozen(dtype), &device)?;
    attach(&mut model, &LoraConfig { rank: sizes.rank, ..LoraConfig::default() }, 1, &device)?;
    let batch = random_batch(sizes);
    reports_of(device, || {
        drop(batch_loss(&model, &batch, AdapterPass::Current, &device).backward());
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_never_fall_below_zero() {
        let totals = |launches, unique_bytes| Totals { launches, unique_bytes, ..Totals::default() };
        assert_eq!(totals(5.0, 10.0).plus(-2.0, totals(1.0, 7.0)), totals(3.0, 0.0));
    }

    #[test]
    fn an_operation_that_fails_leaves_the_others() {
        let kernels = [Kernel::RmsNorm, Kernel::LinearCrossEntropy, Kernel::Adamw];
        let (counted, failed) = each(&kernels, |kernel| match kernel {
            Kernel::LinearCrossEntropy => Err(anyhow::anyhow!("no memory")),
            other => Ok(vec![other]),
        });
        assert_eq!(counted, [Kernel::RmsNorm, Kernel::Adamw]);
        assert_eq!(
            failed,
            [Uncounted { kernel: Kernel::LinearCrossEntropy, error: "the device failed: no memory".to_owned() }]
        );
    }

    // One test: the first caller takes the reports of a device.
    #[test]
    fn operations_are_counted_and_a_block_with_all_of_its_own() {
        let _alone = crate::counting::COUNTING.lock();
        let shape = Shape::open("llama-3.2-1b").unwrap();
        let full = Sizes::new(&shape.config, 1, 16, 4);
        let kernels = [Kernel::RmsNorm, Kernel::Linear];
        let counters = count(&shape, &full, &kernels, FloatType::F32, Widths::Shrunk, &|_| ());
        assert!(counters.failed.is_empty(), "{:?}", counters.failed);
        for count in &counters.operations {
            let Totals { launches, unique_bytes, .. } = count.totals;
            assert!(launches >= 1.0 && unique_bytes >= 0.9 * count.entry.work.bytes, "{count:?}");
            assert!(count.totals.flops() >= 0.9 * count.entry.work.flops, "{count:?}");
        }
        assert_eq!(counters.block, Err("swiglu is not among the kernels".to_owned()));

        let kernels = [Kernel::RmsNorm, Kernel::Swiglu, Kernel::Rotary, Kernel::Attention, Kernel::LoraLinear];
        let block = count(&shape, &full, &kernels, FloatType::F32, Widths::Shrunk, &|_| ()).block.unwrap();
        assert!(block.totals.launches > 10.0 && block.totals.flops() > 0.0, "{block:?}");
        assert!(block.composed_launches.unwrap() > 3.0 * block.totals.launches, "{block:?}");
    }
}
