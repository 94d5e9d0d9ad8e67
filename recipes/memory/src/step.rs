//! The memory of a step, by what it is for and over time.

use burnish_engine::{Checkpointing, MomentType};
use burnish_lora::LoraConfig;
use burnish_lora::attach::{AdaptedLayer, adapted_layers};
use burnish_models::ModelConfig;
use burnish_models::part::{DeclaredTensor, Role, declared_tensors};
use serde::Serialize;

use crate::formulas::{self, F32, Place};

/// What is trained.
#[derive(Debug, Clone, Copy)]
pub enum Trained<'a> {
    /// Adapters on frozen weights.
    Adapters(&'a LoraConfig),
    /// Every weight, in f32.
    All,
}

/// A training step whose memory is computed.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// The model.
    pub model: &'a ModelConfig,
    /// What is trained.
    pub trained: Trained<'a>,
    /// Bytes of the model's weights as they are stored.
    pub weights: u64,
    /// Bytes of an element of the compute type.
    pub element: usize,
    /// Tokens of a micro-batch, padding included.
    pub tokens: usize,
    /// Tokens of the largest pass without gradients before that, such as that of the reference model, or of the rows beside a
    /// micro-batch.
    pub without_gradients: usize,
    /// How blocks are checkpointed; only their inputs are kept then.
    pub checkpointing: Option<Checkpointing>,
    /// How the optimizer stores moments.
    pub moments: MomentType,
    /// Whether a step has several micro-batches.
    pub accumulates: bool,
    /// Whether the adapters' inputs have dropout.
    pub has_dropout: bool,
    /// Where it computes.
    pub place: Place,
    /// Bytes of the program itself on the CPU, where they are known better than by the formula.
    pub process: Option<u64>,
}

impl<'a> Step<'a> {
    /// A step on one token, in 16 bits on a GPU and in f32 on the CPU, without checkpointing and accumulation.
    pub fn new(model: &'a ModelConfig, trained: Trained<'a>, weights: u64, place: Place) -> Self {
        let is_f32 = place == Place::Host || matches!(trained, Trained::All);
        Self {
            model,
            trained,
            weights,
            element: if is_f32 { F32 } else { 2 },
            tokens: 1,
            without_gradients: 0,
            checkpointing: None,
            moments: MomentType::F32,
            accumulates: false,
            has_dropout: false,
            place,
            process: None,
        }
    }

    /// What it takes.
    pub fn memory(&self) -> Memory {
        Counted::of(*self).memory()
    }
}

/// The memory of a step, in bytes: of everything the most that it takes, and what is alive when most of all is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The model's weights, as they are stored.
    pub weights: u64,
    /// Adapters, and matrices that are trained as a whole beside them.
    pub adapters: u64,
    /// Gradients of what is trained.
    pub gradients: u64,
    /// The optimizer's moments.
    pub optimizer: u64,
    /// What is kept of the forward for the backward.
    pub activations: u64,
    /// Logits of the tokens whose loss is computed together.
    pub logits: u64,
    /// What the backward of a block, or an update, takes besides.
    pub workspace: u64,
    /// The program itself, on the CPU.
    pub process: u64,
    /// The moment at which most is alive.
    pub peak: Peak,
}

/// What is alive at the moment when most is, besides weights, adapters and moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Peak {
    /// The moment.
    pub moment: Moment,
    /// Gradients.
    pub gradients: u64,
    /// Activations.
    pub activations: u64,
    /// Logits.
    pub logits: u64,
    /// Scratch.
    pub workspace: u64,
}

impl Peak {
    fn total(&self) -> u64 {
        self.gradients + self.activations + self.logits + self.workspace
    }
}

/// A moment of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// Losses without gradients, before the step's own pass.
    WithoutGradients,
    /// The loss is computed: all activations are kept.
    Loss,
    /// The backward of the last block: all activations are kept.
    BackwardBegins,
    /// The backward of the first block: there are all gradients.
    BackwardEnds,
    /// The optimizer's update.
    Update,
}

impl Memory {
    /// The most that is alive at a time.
    pub fn total(&self) -> u64 {
        self.process + self.weights + self.adapters + self.optimizer + self.peak.total()
    }

    /// The least that a step needs, whatever an implementation does besides: weights, what is trained with gradients and moments, and
    /// activations.
    pub fn least(&self) -> u64 {
        self.weights + self.adapters + self.gradients + self.optimizer + self.activations
    }
}

/// The sizes of what a step trains.
struct Counted<'a> {
    step: Step<'a>,
    layers: Vec<AdaptedLayer>,
    /// Trained tensors: elements, and whether they are matrices.
    trained: Vec<(usize, bool)>,
    /// Elements of a trained head; the embedding's, if that is the head.
    head: usize,
    /// Whether the embedding is trained: then every block has a backward.
    trains_embedding: bool,
    /// Elements of frozen weights that a trained copy in f32 replaces.
    replaced: usize,
    /// Elements of the adapters' initial factors, where those are kept.
    factors: usize,
}

impl<'a> Counted<'a> {
    fn of(step: Step<'a>) -> Self {
        let tensors = declared_tensors(step.model);
        let elements = |tensor: &DeclaredTensor| tensor.shape.iter().product::<usize>();
        let is_end = |tensor: &&DeclaredTensor| matches!(tensor.part.role, Role::Embedding | Role::Head);
        let head_role = if step.model.tie_word_embeddings { Role::Embedding } else { Role::Head };
        let of_head = |tensor: &&DeclaredTensor| tensor.part.role == head_role;
        let Trained::Adapters(lora) = step.trained else {
            let trained = tensors.iter().map(|tensor| (elements(tensor), tensor.shape.len() > 1)).collect();
            let head = tensors.iter().filter(of_head).map(elements).sum();
            return Self { step, layers: Vec::new(), trained, head, trains_embedding: true, replaced: 0, factors: 0 };
        };
        let layers = adapted_layers(lora, step.model);
        let mut trained: Vec<(usize, bool)> = Vec::new();
        for layer in &layers {
            let rank = layer.copies * layer.rank;
            trained.extend([(rank * layer.inputs, true), (layer.outputs * rank, true)]);
            trained.extend(lora.dora.then_some((layer.outputs, false)));
        }
        let factors: usize = layers.iter().map(AdaptedLayer::elements).sum();
        let named = |tensor: &&DeclaredTensor| {
            let tied = step.model.tie_word_embeddings && tensor.part.role == Role::Embedding;
            let name = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
            let is_named = |module: &String| name.ends_with(module.as_str()) || (tied && module.ends_with("lm_head"));
            is_end(tensor) && lora.modules_to_save.iter().any(is_named)
        };
        let whole: Vec<&DeclaredTensor> = tensors.iter().filter(named).collect();
        trained.extend(whole.iter().map(|tensor| (elements(tensor), true)));
        Self {
            head: whole.iter().copied().filter(of_head).map(elements).sum(),
            trains_embedding: whole.iter().any(|tensor| tensor.part.role == Role::Embedding),
            replaced: whole.into_iter().map(elements).sum(),
            factors: if lora.init.changes_base() { factors } else { 0 },
            step,
            layers,
            trained,
        }
    }

    fn trained_elements(&self) -> usize {
        self.trained.iter().map(|(elements, _)| elements).sum()
    }

    /// Blocks that keep something for their backward: from the first adapted one on.
    fn kept_blocks(&self) -> usize {
        let blocks = self.step.model.num_hidden_layers;
        if self.trains_embedding {
            return blocks;
        }
        self.layers.iter().filter_map(|layer| layer.block).min().map_or(0, |first| blocks - first.min(blocks))
    }

    /// What adapters keep of a token in a block, in elements: the sum of their ranks, and the inputs of those of experts, which no other
    /// operation keeps.
    fn kept_of_token(&self) -> usize {
        let inputs = |layer: &AdaptedLayer| if layer.copies > 1 { layer.inputs } else { 0 };
        let all: usize = self.layers.iter().map(|layer| layer.used * (layer.rank + inputs(layer))).sum();
        all.div_ceil(self.kept_blocks().max(1))
    }

    /// What adapters of experts keep of a block besides: their factors in the type that is computed in, and `B` in the order of experts.
    fn factors_of_block(&self, element: usize) -> usize {
        let stacks = self.layers.iter().filter(|layer| layer.copies > 1);
        let cast = |layer: &AdaptedLayer| if element < F32 { layer.inputs } else { 0 };
        let all: usize = stacks.map(|layer| layer.copies * layer.rank * (layer.outputs + cast(layer))).sum();
        all.div_ceil(self.kept_blocks().max(1)) * element
    }

    fn memory(&self) -> Memory {
        let Step { model, element, tokens, checkpointing, place, .. } = self.step;
        let trains_all = matches!(self.step.trained, Trained::All);
        let trained = self.trained_elements() * F32;
        let adapters = if trains_all { 0 } else { trained + self.factors * F32 };
        let blocks = self.kept_blocks();
        let of_block = if checkpointing.is_some() {
            formulas::input_of_token(model, element)
        } else {
            formulas::attention_of_token(model, element, trains_all)
                + formulas::feed_forward_of_token(model, element, trains_all)
                + formulas::adapters_of_token(self.kept_of_token(), element)
        };
        let of_factors = self.factors_of_block(element);
        let block = tokens * of_block + if checkpointing.is_some() { 0 } else { of_factors };
        let again = if checkpointing.is_some() {
            tokens * formulas::again_of_token(model, element, self.kept_of_token()) + of_factors
        } else {
            0
        };
        let activations = blocks * block + again + tokens * formulas::ends_of_token(model, element, trains_all);
        let logits = formulas::logits(model, element, tokens, place);
        // Tokens of a feed-forward: all, or those of a slice.
        let rows = checkpointing.map_or(tokens, |checkpointing| formulas::slice_tokens(model, checkpointing, tokens));
        let mut backward = match checkpointing {
            Some(_) => rows * formulas::slice_of_token(model, element, place),
            None => rows * formulas::backward_of_token(model, element, place),
        };
        if self.step.has_dropout {
            backward += rows * model.intermediate_size * element;
        }
        let head = self.head * F32;
        // What a matrix gets as embedding and as head is added, so both exist at the end.
        let twice = if model.tie_word_embeddings { head * formulas::copies_of_tied(place) } else { 0 };
        let sums = if self.step.accumulates { trained } else { 0 };
        let update = formulas::update(self.trained.iter().map(|(elements, _)| *elements));
        let others = self.step.without_gradients;
        let passing = others * formulas::forward_of_token(model, element);
        let losses = if others == 0 { 0 } else { formulas::logits(model, element, others, place) };
        let moment = |moment, gradients: usize, activations: usize, logits: usize, workspace: usize| {
            // Gradients of whole matrices are large enough to go back to the system.
            let freed = if trains_all { update } else { trained - head + update };
            let freed = if moment == Moment::Update { 0 } else { freed };
            let unused = formulas::unused(gradients + activations + logits + workspace, freed, place);
            Peak {
                moment,
                gradients: gradients as u64,
                activations: activations as u64,
                logits: logits as u64,
                workspace: (workspace + unused) as u64,
            }
        };
        let parts = formulas::copies_of_head(model, element, tokens, place);
        let stream = tokens * model.hidden_size * element;
        let moments = [
            moment(Moment::Loss, sums, activations - again, logits, 0),
            // The gradient of a trained head is the first of the backward.
            moment(Moment::BackwardBegins, sums + parts * head, activations - again, logits, 0),
            moment(Moment::BackwardBegins, sums + head, activations, 0, backward),
            moment(Moment::BackwardEnds, sums + trained, block + again, 0, backward),
            // That of the embedding is the last, when the first block has none left to compute.
            moment(Moment::BackwardEnds, sums + trained + twice, stream, 0, 0),
            moment(Moment::Update, trained, 0, 0, update),
            moment(Moment::WithoutGradients, sums, passing, losses, 0),
        ];
        let [first, others @ ..] = moments;
        let peak = others.into_iter().fold(first, |most, next| if next.total() > most.total() { next } else { most });
        let optimizer =
            self.trained.iter().map(|(elements, is_matrix)| formulas::moments(*elements, *is_matrix, self.step.moments));
        Memory {
            weights: self.step.weights.saturating_sub((self.replaced * element) as u64),
            adapters: adapters as u64,
            gradients: (sums + trained) as u64,
            optimizer: optimizer.sum::<usize>() as u64,
            activations: activations as u64,
            logits: logits as u64,
            workspace: peak.workspace.max(backward.max(update) as u64),
            process: match (self.step.process, place) {
                (Some(process), Place::Host) => process.max(formulas::process(model, place) as u64),
                _ => formulas::process(model, place) as u64,
            },
            peak,
        }
    }
}

#[cfg(test)]
mod tests;
