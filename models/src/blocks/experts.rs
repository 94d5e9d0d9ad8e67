//! The feed-forward of experts, of which each token uses a few.

use burn::module::Module;
use burn::tensor::activation::sigmoid;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor, TensorData};
use burnish_kernels::{FusedBackend, Group, GroupRows, grouped_linear, select_rows, swiglu};

use crate::config::{ClampedGate, ExpertsConfig, Shares};
use crate::error::Result;
use crate::linear::{AdapterPass, Linear};
use crate::part::{Part, PartLoader, Role};
use crate::stacked::ExpertStack;

/// The sum of the experts that the router chooses for a token, each times its share, which is a softmax of the router's scores.
#[derive(Module, Debug)]
pub struct Experts<B: Backend> {
    /// The projection to the scores, `[experts, hidden_size]`, in f32.
    pub router: Linear<B>,
    /// The experts.
    pub experts: Vec<Expert<B>>,
    /// The parameters that hold them, to which adapters can be attached.
    pub stacks: Vec<ExpertStack<B>>,
    per_token: usize,
    #[module(skip)]
    shares: Shares,
    #[module(skip)]
    gate: Option<ClampedGate>,
}

/// One gated feed-forward: `down(silu(gate(x)) · up(x))`.
#[derive(Module, Debug)]
pub struct Expert<B: Backend> {
    /// The projection to the gate.
    pub gate: Linear<B>,
    /// The projection that is multiplied by the gate.
    pub up: Linear<B>,
    /// The projection back to the residual stream.
    pub down: Linear<B>,
}

impl<B: FusedBackend> Experts<B> {
    pub(super) fn load(parts: &mut PartLoader<B>, config: &ExpertsConfig) -> Result<Self> {
        let mut expert = |index| -> Result<Expert<B>> {
            Ok(Expert {
                gate: parts.expert(Role::ExpertGate, index)?,
                up: parts.expert(Role::ExpertUp, index)?,
                down: parts.expert(Role::ExpertDown, index)?,
            })
        };
        let experts = (0..config.count).map(&mut expert).collect::<Result<_>>()?;
        let ExpertsConfig { per_token, shares, gate, .. } = *config;
        let stacks = parts.stacked_parameters().into_iter().map(ExpertStack::new).collect();
        Ok(Self { router: parts.router()?, experts, stacks, per_token, shares, gate })
    }

    /// The inner width of all experts of a token.
    pub fn width(&self) -> usize {
        self.per_token * self.experts.first().map_or(0, |expert| expert.down.dims()[1])
    }

    /// The linear layers of all experts.
    pub fn linears(&self) -> impl Iterator<Item = &Linear<B>> {
        self.experts.iter().flat_map(|expert| [&expert.gate, &expert.up, &expert.down])
    }

    /// The update of the residual stream; `x` is the normalised stream, and both are `[rows, hidden_size]`.
    ///
    /// Only the chosen experts are computed: the rows are brought into the order of their experts, which the host must know.
    pub fn forward(&self, x: Tensor<B, 2>, pass: AdapterPass) -> Tensor<B, 2> {
        let ([tokens, hidden], dtype, device) = (x.dims(), x.dtype(), x.device());
        let (chosen, shares) = self.route(x.clone(), pass);
        let order = Order::new(&chosen, self.experts.len(), self.per_token);
        let rows = x.select(0, indices(&order.tokens, &device));
        let product = |x: Tensor<B, 2>, layer: fn(&Expert<B>) -> &Linear<B>| {
            let used = self.experts.iter().zip(&order.counts).filter(|(_, rows)| **rows > 0);
            let group = |(expert, rows): (&Expert<B>, &usize)| Group {
                rows: *rows,
                weight: layer(expert).weight.operand().into_group_weight(),
            };
            let y = grouped_linear(x, used.clone().map(group).collect());
            let biases = used.filter_map(|(expert, rows)| Some((layer(expert).bias.as_ref()?, *rows)));
            let biases = biases.map(|(bias, rows)| bias.val().unsqueeze::<2>().expand([rows, y.dims()[1]]));
            let biases: Vec<Tensor<B, 2>> = biases.collect();
            if biases.is_empty() { y } else { y + Tensor::cat(biases, 0) }
        };
        let counts: GroupRows = order.counts.clone().into();
        let of_first = self.updates(&rows, &[Role::ExpertGate, Role::ExpertUp], &counts, pass);
        let gate = added(product(rows.clone(), |expert| &expert.gate), &of_first, Role::ExpertGate);
        let up = added(product(rows, |expert| &expert.up), &of_first, Role::ExpertUp);
        let inner = match self.gate {
            Some(clamped) => clamped_swiglu(gate, up, clamped),
            None => swiglu(gate, up),
        };
        let of_last = self.updates(&inner, &[Role::ExpertDown], &counts, pass);
        let outputs = added(product(inner, |expert| &expert.down), &of_last, Role::ExpertDown);
        let outputs = select_rows(outputs, indices(&order.places, &device));
        let outputs = outputs.cast(DType::F32).reshape([tokens, self.per_token, hidden]);
        let sum = (outputs * shares.unsqueeze_dim::<3>(2)).sum_dim(1);
        sum.reshape([tokens, hidden]).cast(dtype)
    }

    /// The updates of the adapters on products with these roles, for rows in the order of their experts.
    fn updates(&self, x: &Tensor<B, 2>, roles: &[Role], rows: &GroupRows, pass: AdapterPass) -> Vec<(Role, Tensor<B, 2>)> {
        let holds = |stack: &&ExpertStack<B>| stack.parameter().parts.iter().any(|part| roles.contains(&part.role));
        let mut updates = Vec::new();
        for stack in self.stacks.iter().filter(holds) {
            let Some(update) = stack.update(x, rows, pass) else { continue };
            let [width, _] = stack.parameter().matrix_dims();
            let part = |(at, part): (usize, &&Part)| (part.role, update.clone().narrow(1, at * width, width));
            updates.extend(stack.parameter().parts.iter().enumerate().map(part));
        }
        updates
    }

    /// The experts of each token, `per_token` of them, and their shares, `[tokens, per_token]` and f32.
    fn route(&self, x: Tensor<B, 2>, pass: AdapterPass) -> (Vec<usize>, Tensor<B, 2>) {
        let device = x.device();
        let scores = self.router.forward(x.cast(DType::F32), pass);
        let [tokens, experts] = scores.dims();
        let scores = if self.shares == Shares::OfChosen { scores } else { softmax(scores) };
        let values: Vec<f32> = scores.to_data().iter::<f32>().collect();
        let chosen: Vec<usize> = values.chunks_exact(experts).flat_map(|row| largest(row, self.per_token)).collect();
        let of_chosen = scores.gather(1, indices(&chosen, &device).reshape([tokens, self.per_token]));
        let shares = match self.shares {
            Shares::OfAll => of_chosen,
            Shares::Normalised => {
                let sum = of_chosen.clone().sum_dim(1);
                of_chosen / sum
            }
            Shares::OfChosen => softmax(of_chosen),
        };
        (chosen, shares)
    }
}

/// A product, plus the update of its adapter if it has one.
fn added<B: FusedBackend>(y: Tensor<B, 2>, updates: &[(Role, Tensor<B, 2>)], role: Role) -> Tensor<B, 2> {
    match updates.iter().find(|(own, _)| *own == role) {
        Some((_, update)) => y + update.clone(),
        None => y,
    }
}

/// The softmax of each row. Backends have one of their own, which rounds differently from what autodiff records; blocks that are
/// computed again must give the same bits.
fn softmax<B: FusedBackend>(scores: Tensor<B, 2>) -> Tensor<B, 2> {
    let largest = scores.clone().detach().max_dim(1);
    let exponentials = (scores - largest).exp();
    let sum = exponentials.clone().sum_dim(1);
    exponentials / sum
}

/// `(u + 1) · g · σ(alpha · g)` of clamped `gate` and `up`, in f32.
fn clamped_swiglu<B: FusedBackend>(gate: Tensor<B, 2>, up: Tensor<B, 2>, clamped: ClampedGate) -> Tensor<B, 2> {
    let ClampedGate { alpha, limit } = clamped;
    let dtype = gate.dtype();
    let gate = gate.cast(DType::F32).clamp_max(limit);
    let up = up.cast(DType::F32).clamp(-limit, limit);
    (up.add_scalar(1.0) * gate.clone() * sigmoid(gate.mul_scalar(alpha))).cast(dtype)
}

/// The positions of the `count` largest values, the largest first; of equal ones the first.
fn largest(values: &[f32], count: usize) -> impl Iterator<Item = usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|one, other| values[*other].total_cmp(&values[*one]));
    order.into_iter().take(count)
}

fn indices<B: FusedBackend>(values: &[usize], device: &B::Device) -> Tensor<B, 1, Int> {
    let values: Vec<i32> = values.iter().map(|value| *value as i32).collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

/// The pairs of a token and one of its experts, in the order of the experts.
#[derive(Debug, PartialEq, Eq)]
struct Order {
    /// How many tokens use each expert.
    counts: Vec<usize>,
    /// The token of each pair.
    tokens: Vec<usize>,
    /// The place of each pair in this order, in the order of the tokens.
    places: Vec<usize>,
}

impl Order {
    fn new(chosen: &[usize], experts: usize, per_token: usize) -> Self {
        let mut counts = vec![0; experts];
        for expert in chosen {
            counts[*expert] += 1;
        }
        let mut next: Vec<usize> = counts
            .iter()
            .scan(0, |start, count| {
                *start += count;
                Some(*start - count)
            })
            .collect();
        let (mut tokens, mut places) = (vec![0; chosen.len()], Vec::with_capacity(chosen.len()));
        for (pair, expert) in chosen.iter().enumerate() {
            let place = next[*expert];
            next[*expert] += 1;
            tokens[place] = pair / per_token;
            places.push(place);
        }
        Self { counts, tokens, places }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_sorted_by_expert_and_found_again() {
        let order = Order::new(&[2, 0, 3, 2, 0, 2], 4, 2);
        assert_eq!(order.counts, [2, 0, 3, 1]);
        assert_eq!(order.tokens, [0, 2, 0, 1, 2, 1]);
        assert_eq!(order.places, [2, 0, 5, 3, 1, 4]);
    }

    #[test]
    fn the_largest_come_first_and_of_equal_ones_the_first() {
        assert_eq!(largest(&[0.1, 0.4, 0.1, 0.4], 3).collect::<Vec<_>>(), [1, 3, 0]);
    }
}
