//! burn-train as the driver: its learner, its metrics, its renderer and its interrupter around our loop.
//!
//! burn-train is generic over a backend and needs a module and an optimizer on it. Here both are handles on the CPU backend, which
//! pass every call to the [`Trainer`] that holds the real model and optimizer.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use burn::backend::{Autodiff, Flex};
use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::lr_scheduler::LrScheduler;
use burn::module::{AutodiffModule, Module};
use burn::optim::{GradientsParams, LearningRate, MultiGradientsParams, Optimizer};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn_train::logger::InMemoryMetricLogger;
use burn_train::metric::{Adaptor, LossInput, LossMetric};
use burn_train::renderer::MetricsRenderer;
use burn_train::{
    EventProcessorTraining, InferenceStep, Interrupter, ItemLazy, Learner, LearnerEvent, LearningComponentsMarker,
    SupervisedLearningStrategy, SupervisedTraining, SupervisedTrainingEventProcessor, TrainLoader, TrainOutput, TrainStep,
    TrainingComponents, TrainingItem, TrainingStrategy, ValidLoader,
};
use burnish_engine::{StepItem, Trainer};

use super::plan::{Plan, Steps};
use super::schedule::Schedule;

/// The backend on which burn-train computes its metrics.
type Nominal = Autodiff<Flex>;
type Components = LearningComponentsMarker<Nominal, Schedule, ModelHandle<Nominal>, OptimizerHandle>;

/// A trainer shared by the loop and burn-train's learner, which use it in turn on one thread.
#[derive(Clone)]
pub struct SharedTrainer {
    trainer: Arc<Mutex<Box<dyn Trainer>>>,
    /// Error of the last forward or backward: burn-train's `step` can't return one.
    failure: Arc<Mutex<Option<anyhow::Error>>>,
}

impl SharedTrainer {
    /// Shares a trainer.
    pub fn new(trainer: Box<dyn Trainer>) -> Self {
        Self { trainer: Arc::new(Mutex::new(trainer)), failure: Arc::default() }
    }

    /// The trainer.
    pub fn get(&self) -> MutexGuard<'_, Box<dyn Trainer>> {
        self.trainer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self) -> MutexGuard<'_, Option<anyhow::Error>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SharedTrainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trainer")
    }
}

/// The model, as burn-train's learner sees it.
#[derive(Module, Debug)]
struct ModelHandle<B: Backend> {
    #[module(skip)]
    trainer: SharedTrainer,
    /// burn-train asks a module for its devices, and takes the first.
    device: Tensor<B, 1>,
}

/// The optimizer, as burn-train's learner sees it.
#[derive(Clone)]
struct OptimizerHandle(SharedTrainer);

/// The mean loss of a step.
#[derive(Debug, Clone, Copy)]
struct StepLoss(f64);

impl<B: Backend> Adaptor<LossInput<B>> for StepLoss {
    fn adapt(&self) -> LossInput<B> {
        LossInput::new(Tensor::from_floats([self.0 as f32], &Default::default()))
    }
}

impl ItemLazy for StepLoss {
    type ItemSync = Self;

    fn sync(self) -> Self {
        self
    }
}

impl<B: Backend> TrainStep for ModelHandle<B> {
    type Input = StepItem;
    type Output = StepLoss;

    /// Queues forward and backward. The gradients stay in the trainer, and the loss is not known yet.
    fn step(&self, item: StepItem) -> TrainOutput<StepLoss> {
        let queued = self.trainer.get().forward_backward(&item);
        *self.trainer.failure() = queued.err();
        TrainOutput { grads: GradientsParams::new(), item: StepLoss(f64::NAN) }
    }
}

impl<B: Backend> InferenceStep for ModelHandle<B> {
    type Input = StepItem;
    type Output = StepLoss;

    /// Unused: the loop validates in `TrainingRun::validate`.
    fn step(&self, _item: StepItem) -> StepLoss {
        StepLoss(f64::NAN)
    }
}

impl<M: AutodiffModule<Nominal>> Optimizer<M, Nominal> for OptimizerHandle {
    type Record = ();

    fn step(&mut self, learning_rate: LearningRate, module: M, _grads: GradientsParams) -> M {
        self.0.get().update(learning_rate);
        module
    }

    /// Like `step`: there is only one device.
    fn step_multi(&mut self, learning_rate: LearningRate, module: M, _grads: MultiGradientsParams) -> M {
        self.0.get().update(learning_rate);
        module
    }

    /// Empty: checkpoints save the optimizer's state through the trainer.
    fn to_record(&self) {}

    fn load_record(self, _record: ()) -> Self {
        self
    }
}

impl DataLoaderIterator<StepItem> for Steps {
    fn progress(&self) -> Progress {
        Progress::new(self.taken(), self.total())
    }
}

impl<B: Backend> DataLoader<B, StepItem> for Plan {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<StepItem> + 'a> {
        Box::new(self.steps())
    }

    fn num_items(&self) -> usize {
        self.total
    }

    fn to_device(&self, _device: &B::Device) -> Arc<dyn DataLoader<B, StepItem>> {
        Arc::new(self.clone())
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<B, StepItem>> {
        Arc::new(Self { done: start, total: end.min(self.total), ..self.clone() })
    }
}

impl LrScheduler for Schedule {
    type Record<B: Backend> = usize;

    fn step(&mut self) -> f64 {
        self.next_rate()
    }

    fn to_record<B: Backend>(&self) -> usize {
        self.taken()
    }

    fn load_record<B: Backend>(self, record: usize) -> Self {
        self.after(record)
    }
}

/// The parts of burn-train's learner that the loop uses.
pub struct Driver<'a> {
    learner: Learner<Components>,
    processor: SupervisedTrainingEventProcessor<Components>,
    interrupter: &'a Interrupter,
    epochs: usize,
}

impl Driver<'_> {
    /// Queues forward, backward and update of a step; returns its learning rate.
    ///
    /// # Errors
    /// When the device fails while the objective reads losses.
    pub fn queue(&mut self, item: StepItem) -> Result<f64> {
        self.learner.lr_step();
        let output = self.learner.train_step(item);
        if let Some(error) = self.learner.model().trainer.failure().take() {
            return Err(error);
        }
        self.learner.optimizer_step(output.grads);
        Ok(self.learner.lr_current())
    }

    /// Passes the loss of a step to burn-train's metrics.
    pub fn report(&mut self, loss: f64, step: usize, epoch: usize, total: usize) {
        let progress = Progress::new(step, total);
        let epochs = Progress::new(epoch + 1, self.epochs.max(epoch + 1));
        let item = TrainingItem::new(StepLoss(loss), progress, epochs, Some(step), Some(self.learner.lr_current()));
        self.processor.process_train(LearnerEvent::ProcessedItem(item));
    }

    /// Tells burn-train that an epoch has ended.
    pub fn end_epoch(&mut self, epoch: usize) {
        self.processor.process_train(LearnerEvent::EndEpoch(epoch));
    }

    /// Whether the user asked the run to stop after this step.
    pub fn should_stop(&self) -> bool {
        self.interrupter.should_stop()
    }
}

/// The loop, called once by burn-train.
type Loop = Box<dyn FnOnce(&mut Driver<'_>) + Send>;

struct OurStrategy {
    steps: Mutex<Option<Loop>>,
    epochs: usize,
}

impl SupervisedLearningStrategy<Components> for OurStrategy {
    fn fit(
        &self,
        components: TrainingComponents<Components>,
        learner: Learner<Components>,
        _train: TrainLoader<Components>,
        _valid: ValidLoader<Components>,
        _starting_epoch: usize,
    ) -> (ModelHandle<Nominal>, SupervisedTrainingEventProcessor<Components>) {
        let TrainingComponents { event_processor: processor, interrupter, .. } = components;
        let mut driver = Driver { learner, processor, interrupter: &interrupter, epochs: self.epochs };
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(steps) = steps {
            steps(&mut driver);
        }
        (driver.learner.model(), driver.processor)
    }
}

/// Runs a loop inside burn-train.
pub fn launch(
    trainer: SharedTrainer,
    plan: Plan,
    schedule: Schedule,
    epochs: usize,
    interrupter: Interrupter,
    renderer: impl MetricsRenderer + 'static,
    steps: impl FnOnce(&mut Driver<'_>) + Send + 'static,
) {
    let model = ModelHandle { trainer: trainer.clone(), device: Tensor::zeros([1], &Default::default()) };
    let learner = Learner::<Components>::new(model, OptimizerHandle(trainer), schedule);
    let strategy = OurStrategy { steps: Mutex::new(Some(Box::new(steps))), epochs };
    let plan = Arc::new(plan);
    // burn-train writes nothing into this folder: its logs and its checkpoints are off.
    SupervisedTraining::<Components>::new("", plan.clone(), plan)
        .with_training_strategy(TrainingStrategy::Custom(Arc::new(strategy)))
        .with_application_logger(None)
        .with_metric_logger(InMemoryMetricLogger::default())
        .with_interrupter(interrupter)
        .metric_train_numeric(LossMetric::<Flex>::new())
        .renderer(renderer)
        .launch(learner);
}
