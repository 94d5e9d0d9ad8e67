//! The fused operations, each with inputs.

use burnish_engine::{KernelCase, Layer, Matrix, Operation, Update, numbers};
use burnish_kernels::glu::Activation;
use burnish_kernels::packed::{Affine, GgmlType, GgufBlocks, Nf4, PackError, Packed};
use burnish_kernels::{AdamWStep, AttentionOptions, Dropout, DropoutKey, TokenDraw};

/// The sizes that operations are computed at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Tokens.
    pub rows: usize,
    /// Features of a token, a multiple of 4 heads of an even number.
    pub features: usize,
    /// Features of a product.
    pub outputs: usize,
}

/// Columns of packed weights: two blocks of the K-quants.
const PACKED_COLUMNS: usize = 512;

const RANK: usize = 8;

const DROPOUT: Dropout =
    Dropout { probability: 0.3, first: 0, key: DropoutKey { seed: 11, step: 2, micro_batch: 1, layer: 5 } };

const STEP: AdamWStep = AdamWStep {
    learning_rate: 0.1,
    beta1: 0.9,
    beta2: 0.99,
    epsilon: 1e-8,
    weight_decay: 0.01,
    step: 1,
    gradient_factor: 1.0,
    max_norm: 3.0,
};

const DRAW: TokenDraw = TokenDraw { temperature: 0.8, seed: 11, number: 5 };

/// A source of inputs, each with numbers of its own.
struct Inputs(u32);

impl Inputs {
    fn of(&mut self, name: &'static str, dims: [usize; 2], scale: f32) -> Matrix {
        self.0 += 1;
        let values = numbers(dims[0] * dims[1], self.0, scale);
        Matrix { name, dims, values, is_f32: false, has_gradient: true }
    }

    fn frozen(&mut self, name: &'static str, dims: [usize; 2], scale: f32) -> Matrix {
        Matrix { has_gradient: false, ..self.of(name, dims, scale) }
    }

    /// Of an adapter: f32, with a gradient.
    fn factor(&mut self, name: &'static str, dims: [usize; 2]) -> Matrix {
        Matrix { is_f32: true, ..self.of(name, dims, inverse_root(dims[1])) }
    }

    /// Of an optimizer: f32, without a gradient.
    fn state(&mut self, name: &'static str, dims: [usize; 2], scale: f32) -> Matrix {
        Matrix { is_f32: true, ..self.frozen(name, dims, scale) }
    }

    fn case(&mut self, name: impl Into<String>, layer: Layer, inputs: Vec<Matrix>) -> KernelCase {
        self.with(name, layer, inputs, Vec::new())
    }

    fn with(&mut self, name: impl Into<String>, layer: Layer, inputs: Vec<Matrix>, indices: Vec<i32>) -> KernelCase {
        self.0 += 10;
        KernelCase { name: name.into(), operation: Operation::Layer(layer), inputs, indices, seed: self.0 * 100 }
    }
}

/// For products of about size 1.
fn inverse_root(columns: usize) -> f32 {
    1.0 / (columns as f32).sqrt()
}

/// The operations of models, at these sizes.
pub(super) fn layers(sizes: Sizes) -> Vec<KernelCase> {
    let mut inputs = Inputs(sizes.rows as u32 * 1000);
    let mut cases = element_wise(&mut inputs, sizes);
    cases.extend(attentions(&mut inputs, sizes));
    cases.extend(products(&mut inputs, sizes));
    cases.extend(of_generation(&mut inputs, sizes));
    cases.extend(of_experts(&mut inputs, sizes));
    cases
}

fn element_wise(from: &mut Inputs, Sizes { rows, features, .. }: Sizes) -> Vec<KernelCase> {
    let (tokens, vector) = ([rows, features], [1, features]);
    let positions: Vec<i32> = (0..rows as i32).rev().filter(|row| row % 3 != 1).collect();
    let norm = |from: &mut Inputs, more: &[(&'static str, [usize; 2])]| {
        let others: Vec<_> = more.iter().map(|(name, dims)| from.of(name, *dims, 1.0)).collect();
        [vec![from.of("x", tokens, 1.0)], others].concat()
    };
    let weight = ("weight", vector);
    let (rms, add) = (norm(from, &[weight]), norm(from, &[("residual", tokens), weight]));
    let (fork, layer) = (norm(from, &[weight]), norm(from, &[weight, ("bias", vector)]));
    let heads = [4, 2];
    let dim = features / heads[0];
    // Of a partial rotation: the last elements of a head are not rotated.
    let half = (dim / 2).max(2) / 2;
    let (mut cos, mut sin) = (from.state("cos", [rows, half], 1.0), from.state("sin", [rows, half], 1.0));
    let angles = cos.values.clone();
    cos.values = angles.iter().map(|angle| angle.cos()).collect();
    sin.values = angles.iter().map(|angle| angle.sin()).collect();
    let rotary = vec![from.of("query", tokens, 1.0), from.of("key", [rows, heads[1] * dim], 1.0), cos, sin];
    let gates = |from: &mut Inputs| vec![from.of("gate", tokens, 1.0), from.of("up", tokens, 1.0)];
    let (silu, gelu) = (gates(from), gates(from));
    let (dropped, selected) = (vec![from.of("x", tokens, 1.0)], vec![from.of("x", tokens, 1.0)]);
    vec![
        from.case("rms_norm", Layer::RmsNorm, rms),
        from.case("add_rms_norm", Layer::AddRmsNorm, add),
        from.case("fork_rms_norm", Layer::ForkRmsNorm, fork),
        from.case("layer_norm", Layer::LayerNorm, layer),
        from.case("rotary", Layer::Rotary { heads }, rotary),
        from.case("swiglu", Layer::Glu(Activation::Silu), silu),
        from.case("geglu", Layer::Glu(Activation::GeluTanh), gelu),
        from.case("dropout", Layer::Dropout(DROPOUT), dropped),
        from.with("select_rows", Layer::SelectRows, selected, positions),
    ]
}

fn attentions(from: &mut Inputs, Sizes { rows, features, .. }: Sizes) -> Vec<KernelCase> {
    let heads = [4, 2];
    let dim = features / heads[0];
    let options = AttentionOptions { scale: f64::from(inverse_root(dim)), sliding_window: None, softcap: None };
    let special = AttentionOptions { sliding_window: Some(rows / 3 + 1), softcap: Some(2.0), ..options };
    let segments: Vec<i32> = (0..rows).map(|token| 1 + i32::from(token >= rows / 3)).collect();
    let all = |from: &mut Inputs, queries: usize| {
        let width = [rows, heads[1] * dim];
        vec![from.of("query", [queries, features], 1.0), from.of("key", width, 1.0), from.of("value", width, 1.0)]
    };
    let (packed, windowed, one) = (all(from, rows), all(from, rows), all(from, 1));
    let sinks = from.state("sinks", [1, heads[0]], 1.0);
    let with_sinks = [all(from, rows), vec![sinks]].concat();
    // The cache of generation has no gradients.
    let one = one.into_iter().map(|input| Matrix { has_gradient: false, ..input }).collect();
    vec![
        from.with("attention", Layer::Attention { heads, options }, packed, segments.clone()),
        from.with("sink_attention", Layer::SinkAttention { heads, options }, with_sinks, segments),
        from.case("attention_window_softcap", Layer::Attention { heads, options: special }, windowed),
        from.case("attention_decode", Layer::Attention { heads, options }, one),
    ]
}

fn products(from: &mut Inputs, Sizes { rows, features, outputs }: Sizes) -> Vec<KernelCase> {
    let small = inverse_root(features);
    let linear = |from: &mut Inputs, rows: usize| {
        vec![from.of("x", [rows, features], 1.0), from.of("weight", [outputs, features], small)]
    };
    let (many, few) = (linear(from, rows), linear(from, 2));
    let lora = |from: &mut Inputs| {
        let (x, weight) = (from.of("x", [rows, features], 1.0), from.frozen("weight", [outputs, features], small));
        vec![x, weight, from.factor("lora_a", [RANK, features]), from.factor("lora_b", [outputs, RANK])]
    };
    let (plain, dropped) = (lora(from), lora(from));
    let labels: Vec<i32> = (0..rows).map(|row| (row * 7 % outputs) as i32).collect();
    let head =
        |from: &mut Inputs| vec![from.of("hidden", [rows, features], 1.0), from.of("weight", [outputs, features], small)];
    let (loss, capped) = (head(from), head(from));
    let scale = 0.5;
    vec![
        from.case("linear", Layer::Linear, many),
        from.case("linear_few_rows", Layer::Linear, few),
        from.case("lora_linear", Layer::LoraLinear { scale, dropout: None }, plain),
        from.case("lora_linear_dropout", Layer::LoraLinear { scale, dropout: Some(DROPOUT) }, dropped),
        from.with("linear_cross_entropy", Layer::CrossEntropy { cap: None }, loss, labels.clone()),
        from.with("capped_linear_cross_entropy", Layer::CrossEntropy { cap: Some(3.0) }, capped, labels),
    ]
}

/// What only generation computes: few rows, without gradients.
fn of_generation(from: &mut Inputs, Sizes { rows, features, outputs }: Sizes) -> Vec<KernelCase> {
    let small = inverse_root(features);
    let few = |from: &mut Inputs, weights: usize| {
        let x = from.frozen("x", [2, features], 1.0);
        let weights = (0..weights).map(|_| from.frozen("weight", [outputs, features], small));
        std::iter::once(x).chain(weights.collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    let (linears, silu, gelu) = (few(from, 3), few(from, 2), few(from, 2));
    let heads = [4, 2];
    let dim = features / heads[0];
    let (start, capacity, width) = (3, rows + 5, heads[1] * dim);
    let matrices = |from: &mut Inputs, all: &[(&'static str, [usize; 2])]| {
        all.iter().map(|(name, dims)| from.frozen(name, *dims, 1.0)).collect::<Vec<_>>()
    };
    let (buffer, new) = ([capacity, width], [rows, width]);
    let append = matrices(from, &[("keys", buffer), ("values", buffer), ("key", new), ("value", new)]);
    let half = dim / 2;
    let mut rotated = matrices(from, &[("query", [rows, features]), ("key", new), ("value", new)]);
    for (name, of) in [("cos", f32::cos as fn(f32) -> f32), ("sin", f32::sin)] {
        let mut table = from.state(name, [rows, half], 1.0);
        table.values.iter_mut().for_each(|value| *value = of(*value));
        rotated.push(table);
    }
    rotated.extend(matrices(from, &[("keys", buffer), ("values", buffer)]));
    let prefix = matrices(from, &[("buffer", buffer)]);
    let hidden = vec![from.frozen("x", [rows, features], 1.0), from.state("lora_a", [RANK, features], small)];
    let [likely, sampled] = [(); 2].map(|()| vec![from.frozen("logits", [2, outputs], 3.0)]);
    vec![
        from.case("linears", Layer::Linears, linears),
        from.case("swiglu_linear", Layer::GluLinear(Activation::Silu), silu),
        from.case("geglu_linear", Layer::GluLinear(Activation::GeluTanh), gelu),
        from.case("append", Layer::Append { heads: heads[1], start }, append),
        from.case("append_rotated", Layer::AppendRotated { heads, start }, rotated),
        from.case("prefix", Layer::Prefix(rows), prefix),
        // Of generation it is not, but of a checkpointed block, without gradients too.
        from.case("lora_hidden", Layer::LoraHidden { scale: 0.5, dropout: Some(DROPOUT) }, hidden),
        from.case("most_likely_tokens", Layer::SampleTokens(TokenDraw::default()), likely),
        from.case("sampled_tokens", Layer::SampleTokens(DRAW), sampled),
    ]
}

/// What a mixture of experts computes: a group without rows, and groups of several sizes.
fn of_experts(from: &mut Inputs, Sizes { rows, features, outputs }: Sizes) -> Vec<KernelCase> {
    let first = rows / 3;
    let groups = [first, 0, rows - first];
    let mut inputs = vec![from.of("x", [rows, features], 1.0)];
    inputs.extend(groups.map(|_| from.frozen("weight", [outputs, features], inverse_root(features))));
    let small = inverse_root(features);
    let stacked = vec![from.of("x", [rows, features], 1.0), from.of("weight", [groups.len() * outputs, features], small)];
    vec![
        from.case("grouped_linear", Layer::GroupedLinear(groups.map(|rows| (rows, None)).into()), inputs),
        from.case("stacked_linear", Layer::StackedLinear(groups.into()), stacked),
    ]
}

/// A matrix in each format that devices compute with.
fn formats(dims: [usize; 2], seed: u32) -> Result<Vec<(String, Packed)>, PackError> {
    use GgmlType::{Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    let values = numbers(dims[0] * dims[1], seed, inverse_root(dims[1]));
    let mut all = vec![
        ("nf4".to_owned(), Packed::Nf4(Nf4::quantize("weight", &values, dims, false)?)),
        ("nf4_double".to_owned(), Packed::Nf4(Nf4::quantize("weight", &values, dims, true)?)),
        ("int4".to_owned(), Packed::Affine(Affine::quantize("weight", &values, dims, 4, 64)?)),
        ("int8".to_owned(), Packed::Affine(Affine::quantize("weight", &values, dims, 8, 64)?)),
    ];
    for kind in [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K, Q6K] {
        let packed = Packed::Gguf(GgufBlocks::quantize("weight", &values, dims, kind)?);
        all.push((kind.name().to_ascii_lowercase(), packed));
    }
    Ok(all)
}

/// Formats whose adapters and losses are computed too, if not all are.
const FEW: [&str; 3] = ["nf4", "int8", "q4_k"];

/// The operations on packed weights.
///
/// # Errors
/// When a matrix can't be packed.
pub(super) fn packed(all: bool) -> Result<Vec<KernelCase>, PackError> {
    let (rows, outputs, columns) = (23, 40, PACKED_COLUMNS);
    let mut from = Inputs(500_000);
    let mut cases = Vec::new();
    let others = formats([outputs, columns], 78)?;
    for ((name, weight), (_, other)) in formats([outputs, columns], 77)?.into_iter().zip(others) {
        for (rows, few) in [(rows, ""), (2, "_few_rows")] {
            let x = vec![from.of("x", [rows, columns], 1.0)];
            cases.push(from.case(format!("packed_linear{few}/{name}"), Layer::PackedLinear(weight.clone()), x));
        }
        let x = vec![from.of("x", [rows, columns], 1.0), from.frozen("weight", [outputs, columns], inverse_root(columns))];
        let groups = vec![(7, Some(weight.clone())), (5, None), (rows - 12, Some(weight.clone()))];
        cases.push(from.case(format!("grouped_linear/{name}"), Layer::GroupedLinear(groups), x));
        let picked = vec![3, 36, 0, 3, 17];
        cases.push(from.with(format!("packed_rows/{name}"), Layer::PackedRows(weight.clone()), Vec::new(), picked));
        if !all && !FEW.contains(&name.as_str()) {
            continue;
        }
        let generated = |from: &mut Inputs| vec![from.frozen("x", [2, columns], 1.0)];
        let (linears, glu) = (generated(&mut from), generated(&mut from));
        let weights = [weight.clone(), other];
        let layer = Layer::PackedLinears(weights.clone().into());
        cases.push(from.case(format!("packed_linears/{name}"), layer, linears));
        let layer = Layer::PackedGluLinear { weights, activation: Activation::Silu };
        cases.push(from.case(format!("packed_swiglu_linear/{name}"), layer, glu));
        for (dropout, suffix) in [(None, ""), (Some(DROPOUT), "_dropout")] {
            let inputs = vec![
                from.of("x", [rows, columns], 1.0),
                from.factor("lora_a", [RANK, columns]),
                from.factor("lora_b", [outputs, RANK]),
            ];
            let layer = Layer::PackedLoraLinear { weight: weight.clone(), scale: 0.5, dropout };
            cases.push(from.case(format!("packed_lora_linear{suffix}/{name}"), layer, inputs));
        }
        let labels: Vec<i32> = (0..rows).map(|row| (row * 7 % outputs) as i32).collect();
        for (cap, prefix) in [(None, ""), (Some(3.0), "_capped")] {
            let hidden = vec![from.of("hidden", [rows, columns], 1.0)];
            let layer = Layer::PackedCrossEntropy { weight: weight.clone(), cap };
            cases.push(from.with(format!("packed{prefix}_linear_cross_entropy/{name}"), layer, hidden, labels.clone()));
        }
    }
    Ok(cases)
}

/// The operations of the optimizer.
pub(super) fn updates() -> Vec<KernelCase> {
    let mut from = Inputs(900_000);
    let dims = [19, 37];
    let squares = |gradients: &[&Matrix]| {
        let sum = gradients.iter().flat_map(|gradient| &gradient.values).map(|value| value * value).sum();
        Matrix { name: "squares", dims: [1, 1], values: vec![sum], is_f32: true, has_gradient: false }
    };
    let (parameter, gradient) = (from.state("parameter", dims, 0.01), from.state("gradient", dims, 0.5));
    let (first, mut second) = (from.state("first", dims, 0.2), from.state("second", dims, 0.2));
    second.values.iter_mut().for_each(|value| *value = value.abs());
    let norm = squares(&[&gradient]);
    let adamw = vec![parameter, gradient, first, second, norm];
    let (parameter, gradients) =
        (from.state("parameter", dims, 0.01), ["first gradient", "second gradient"].map(|name| from.state(name, dims, 0.5)));
    let norm = squares(&[&gradients[0]]);
    let [one, two] = gradients;
    let adamw8bit = vec![parameter, one, two, norm];
    let many = |from: &mut Inputs| {
        let shapes = [[3, 23], [1, 1], [16, 300], [7, 64], [2, 128]];
        shapes.into_iter().map(|dims| from.state("x", dims, 1.0)).collect::<Vec<_>>()
    };
    let (packed, unpacked, squared) = (many(&mut from), many(&mut from), many(&mut from));
    let case = |name: &str, update: Update, inputs: Vec<Matrix>| KernelCase {
        name: name.to_owned(),
        operation: Operation::Update(update),
        inputs,
        indices: Vec::new(),
        seed: 1,
    };
    vec![
        case("adamw", Update::AdamW(AdamWStep { step: 3, ..STEP }), adamw),
        case("adamw8bit", Update::AdamW8bit(STEP), adamw8bit),
        case("pack", Update::Pack, packed),
        case("unpack", Update::Unpack, unpacked),
        case("squared_norm", Update::SquaredNorm, squared),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_differ_and_so_do_inputs() {
        let sizes = Sizes { rows: 30, features: 64, outputs: 40 };
        let cases = [layers(sizes), packed(true).unwrap(), updates()].concat();
        let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names.len(), cases.len());
        assert!(names.iter().all(|name| !name.contains([',', ' '])), "{names:?}");
        let firsts: BTreeSet<Vec<u32>> = (cases.iter().flat_map(|case| &case.inputs))
            .filter(|input| input.values.len() > 1)
            .map(|input| input.values.iter().map(|value| value.to_bits()).collect())
            .collect();
        let inputs = cases.iter().flat_map(|case| &case.inputs).filter(|input| input.values.len() > 1).count();
        assert_eq!(firsts.len(), inputs, "two inputs are equal: the result of one could pass for that of the other");
    }
}
