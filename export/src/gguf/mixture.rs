//! llama.cpp's mixtures: which tensor of a quantised file has which storage type.
//!
//! Source: `llama_tensor_get_type` of llama.cpp, the version in llama-cpp-python 0.3.36.

use std::fmt;

use burnish_models::gguf::GgmlType;

/// A quantised file by llama.cpp's name: most matrices have its type, those that matter more have one of more bits.
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mixture {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3KS,
    Q3KM,
    Q3KL,
    Q4KS,
    Q4KM,
    Q5KS,
    Q5KM,
    Q6K,
    IQ4NL,
    IQ4XS,
}

/// A mixture with its name, its `llama_ftype`, and the type of most of its matrices.
struct Row(Mixture, &'static str, u32, GgmlType);

const TABLE: [Row; 16] = [
    Row(Mixture::Q4_0, "q4_0", 2, GgmlType::Q4_0),
    Row(Mixture::Q4_1, "q4_1", 3, GgmlType::Q4_1),
    Row(Mixture::Q5_0, "q5_0", 8, GgmlType::Q5_0),
    Row(Mixture::Q5_1, "q5_1", 9, GgmlType::Q5_1),
    Row(Mixture::Q8_0, "q8_0", 7, GgmlType::Q8_0),
    Row(Mixture::Q2K, "q2_k", 10, GgmlType::Q2K),
    Row(Mixture::Q3KS, "q3_k_s", 11, GgmlType::Q3K),
    Row(Mixture::Q3KM, "q3_k_m", 12, GgmlType::Q3K),
    Row(Mixture::Q3KL, "q3_k_l", 13, GgmlType::Q3K),
    Row(Mixture::Q4KS, "q4_k_s", 14, GgmlType::Q4K),
    Row(Mixture::Q4KM, "q4_k_m", 15, GgmlType::Q4K),
    Row(Mixture::Q5KS, "q5_k_s", 16, GgmlType::Q5K),
    Row(Mixture::Q5KM, "q5_k_m", 17, GgmlType::Q5K),
    Row(Mixture::Q6K, "q6_k", 18, GgmlType::Q6K),
    Row(Mixture::IQ4NL, "iq4_nl", 25, GgmlType::IQ4NL),
    Row(Mixture::IQ4XS, "iq4_xs", 30, GgmlType::IQ4XS),
];

/// Other names that llama.cpp accepts.
const ALIASES: [(&str, &str); 3] = [("q3_k", "q3_k_m"), ("q4_k", "q4_k_m"), ("q5_k", "q5_k_m")];

impl Mixture {
    fn row(self) -> &'static Row {
        // Every mixture has a row, see the test.
        TABLE.iter().find(|row| row.0 == self).unwrap_or(&TABLE[0])
    }

    /// The names of all mixtures, those that llama.cpp prints in small letters.
    pub fn names() -> impl Iterator<Item = &'static str> {
        TABLE.iter().map(|row| row.1)
    }

    /// `general.file_type`, llama.cpp's `llama_ftype`.
    pub fn file_type(self) -> u32 {
        self.row().2
    }

    /// The type of most matrices.
    pub fn default_type(self) -> GgmlType {
        self.row().3
    }
}

impl fmt::Display for Mixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().1)
    }
}

impl std::str::FromStr for Mixture {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let lower = name.to_ascii_lowercase();
        let lower = ALIASES.iter().find(|(alias, _)| *alias == lower).map_or(lower.as_str(), |(_, name)| name);
        let found = TABLE.iter().find(|row| row.1 == lower).map(|row| row.0);
        found.ok_or_else(|| format!("expected {}, got `{name}`", Self::names().collect::<Vec<_>>().join(", ")))
    }
}

/// What the choice of types depends on.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// `general.architecture`.
    pub architecture: &'a str,
    /// The number of blocks.
    pub layers: usize,
    /// The number of query heads.
    pub heads: usize,
    /// The number of key and value heads.
    pub kv_heads: usize,
    /// Whether there is an importance matrix.
    pub has_importance: bool,
}

impl Facts<'_> {
    fn heads_per_value(self) -> usize {
        self.heads.checked_div(self.kv_heads).unwrap_or(0)
    }

    /// The 70B models of Llama and Qwen2, whose values are shared by eight heads.
    fn is_70b(self) -> bool {
        self.layers == 80 && (self.architecture == "qwen2" || (self.architecture == "llama" && self.heads != self.kv_heads))
    }
}

/// What a tensor does, where mixtures tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Category {
    Embedding,
    Output,
    Value,
    /// Query, key and value in one matrix.
    Fused,
    AttentionOutput,
    Down,
    Other,
}

fn category(name: &str) -> Category {
    match name {
        "output.weight" => Category::Output,
        "token_embd.weight" | "per_layer_token_embd.weight" => Category::Embedding,
        _ if name.contains("attn_qkv.weight") => Category::Fused,
        _ if name.contains("attn_v.weight") => Category::Value,
        _ if name.contains("attn_output.weight") => Category::AttentionOutput,
        _ if name.contains("ffn_down") => Category::Down,
        _ => Category::Other,
    }
}

/// Whether llama.cpp quantises a tensor: matrices of weights, norms and gates of experts excepted. A matrix of one row is a vector to it.
pub fn is_quantised(name: &str, shape: &[usize]) -> bool {
    let is_matrix = shape.len() >= 2 && shape[..shape.len() - 1].iter().any(|dim| *dim > 1);
    is_matrix && name.ends_with("weight") && !name.contains("_norm.weight") && !name.contains("ffn_gate_inp.weight")
}

/// The type of each tensor, given by its name in the file and its shape; `None` for those that are not quantised.
pub fn types(mixture: Mixture, facts: &Facts<'_>, tensors: &[(&str, &[usize])]) -> Vec<Option<GgmlType>> {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|at| (layer(tensors[*at].0), tensors[*at].0));
    let categories: Vec<_> = tensors.iter().map(|(name, _)| category(name)).collect();
    let values = categories.iter().filter(|category| matches!(category, Category::Value | Category::Fused)).count();
    let is_tied = !categories.contains(&Category::Output);
    let mut chosen = vec![None; tensors.len()];
    // llama.cpp counts the tensors of a kind instead of reading the numbers of their blocks.
    let (mut values_seen, mut downs_seen) = (0, 0);
    for at in order {
        let (name, shape) = tensors[at];
        if !is_quantised(name, shape) {
            continue;
        }
        let columns = shape.last().copied().unwrap_or(1);
        let kind = match categories[at] {
            Category::Output => of_output(mixture, columns),
            Category::Embedding if is_tied => of_output(mixture, columns),
            Category::Value | Category::Fused => {
                values_seen += 1;
                of_value(mixture, facts, values_seen - 1, values)
            }
            Category::Down => {
                downs_seen += 1;
                of_down(mixture, facts, downs_seen - 1)
            }
            Category::AttentionOutput => match mixture {
                Mixture::Q2K => GgmlType::Q3K,
                Mixture::Q3KM => GgmlType::Q4K,
                Mixture::Q3KL => GgmlType::Q5K,
                other => other.default_type(),
            },
            Category::Embedding | Category::Other => mixture.default_type(),
        };
        chosen[at] = Some(that_divides(kind, columns));
    }
    chosen
}

/// The number of a tensor's block; tensors outside the blocks come first.
fn layer(name: &str) -> Option<usize> {
    let rest = name.strip_prefix("blk.")?;
    rest[..rest.find('.')?].parse().ok()
}

/// Whether a block is among the first or last eighth, or every third of the others.
fn needs_more_bits(layer: usize, layers: usize) -> bool {
    layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2
}

fn of_output(mixture: Mixture, columns: usize) -> GgmlType {
    let kind = mixture.default_type();
    if kind == GgmlType::Q8_0 || !columns.is_multiple_of(kind.block_elements()) { GgmlType::Q8_0 } else { GgmlType::Q6K }
}

fn of_value(mixture: Mixture, facts: &Facts<'_>, seen: usize, values: usize) -> GgmlType {
    let is_shared = facts.heads_per_value() >= 4;
    let kind = match mixture {
        Mixture::Q2K if is_shared => GgmlType::Q4K,
        Mixture::Q2K => GgmlType::Q3K,
        Mixture::Q3KM if seen < 2 => GgmlType::Q5K,
        Mixture::Q3KM => GgmlType::Q4K,
        Mixture::Q3KL => GgmlType::Q5K,
        Mixture::IQ4NL | Mixture::IQ4XS if is_shared => GgmlType::Q5K,
        Mixture::Q4KM | Mixture::Q5KM if needs_more_bits(seen, values) => GgmlType::Q6K,
        Mixture::Q4KS if seen < 4 => GgmlType::Q5K,
        other => other.default_type(),
    };
    if facts.is_70b() && matches!(kind, GgmlType::Q3K | GgmlType::Q4K) { GgmlType::Q5K } else { kind }
}

fn of_down(mixture: Mixture, facts: &Facts<'_>, layer: usize) -> GgmlType {
    let layers = facts.layers;
    let is_first = layer < layers / 8;
    match mixture {
        Mixture::Q2K => GgmlType::Q3K,
        Mixture::Q3KM if layer < layers / 16 => GgmlType::Q5K,
        Mixture::Q3KM => GgmlType::Q4K,
        Mixture::Q3KL => GgmlType::Q5K,
        Mixture::Q4KM | Mixture::Q5KM if needs_more_bits(layer, layers) => GgmlType::Q6K,
        Mixture::IQ4NL | Mixture::IQ4XS if is_first && !facts.has_importance => GgmlType::Q5K,
        Mixture::Q4KS if is_first => GgmlType::Q5K,
        Mixture::Q4_0 if is_first && facts.has_importance => GgmlType::Q4_1,
        Mixture::Q5_0 if is_first && facts.has_importance => GgmlType::Q5_1,
        other => other.default_type(),
    }
}

/// The type itself if its blocks divide the rows, else one with blocks of 32, else F16.
fn that_divides(kind: GgmlType, columns: usize) -> GgmlType {
    let divides = |kind: GgmlType| columns.is_multiple_of(kind.block_elements());
    let smaller = match kind {
        _ if divides(kind) => kind,
        GgmlType::Q2K | GgmlType::Q3K => GgmlType::Q4_0,
        GgmlType::Q4K => GgmlType::Q5_0,
        GgmlType::Q5K => GgmlType::Q5_1,
        GgmlType::Q6K => GgmlType::Q8_0,
        GgmlType::IQ4XS => GgmlType::IQ4NL,
        other => other,
    };
    if divides(smaller) { smaller } else { GgmlType::F16 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    /// A model of `make_mixtures.py`, with the types that llama.cpp gives its tensors.
    #[derive(Deserialize)]
    struct Case {
        architecture: String,
        layers: usize,
        heads: usize,
        kv_heads: usize,
        importance: bool,
        columns: Columns,
        /// By mixture and name: runs of the types of all blocks, such as `Q6_K*2 Q4_K`.
        types: BTreeMap<String, BTreeMap<String, String>>,
    }

    #[derive(Deserialize)]
    struct Columns {
        outside: BTreeMap<String, usize>,
        block: BTreeMap<String, usize>,
    }

    /// The type in each block.
    fn unrolled(runs: &str) -> Vec<&str> {
        let run = |run| match str::split_once(run, '*') {
            Some((name, count)) => vec![name; count.parse().unwrap()],
            None => vec![run],
        };
        runs.split(' ').flat_map(run).collect()
    }

    #[test]
    fn types_are_those_of_llama_cpp() {
        let cases: BTreeMap<String, Case> =
            serde_json::from_str(include_str!("../../tests/fixtures/mixtures.json")).unwrap();
        assert_eq!(cases.len(), 9);
        for (label, case) in &cases {
            let facts = Facts {
                architecture: &case.architecture,
                layers: case.layers,
                heads: case.heads,
                kv_heads: case.kv_heads,
                has_importance: case.importance,
            };
            let outside = case.columns.outside.iter().map(|(name, columns)| (name.clone(), name, 0, vec![2, *columns]));
            let blocks = case.columns.block.iter().flat_map(|(name, columns)| {
                (0..case.layers).map(move |layer| (format!("blk.{layer}.{name}"), name, layer, vec![2, *columns]))
            });
            let tensors: Vec<_> = outside.chain(blocks).collect();
            let mut named: Vec<(&str, &[usize])> = tensors.iter().map(|tensor| (tensor.0.as_str(), &tensor.3[..])).collect();
            named.push(("blk.0.attn_norm.weight", &[256]));
            assert_eq!(case.types.keys().map(String::as_str).collect::<Vec<_>>(), {
                let mut names: Vec<_> = Mixture::names().collect();
                names.sort_unstable();
                names
            });
            for (mixture, expected) in &case.types {
                let found = types(mixture.parse().unwrap(), &facts, &named);
                for ((name, part, layer, _), found) in tensors.iter().zip(&found) {
                    let expected = unrolled(&expected[*part])[*layer];
                    assert_eq!(found.map(GgmlType::name), Some(expected), "{label}: {name} in {mixture}");
                }
                assert_eq!(found.last(), Some(&None));
            }
        }
    }

    #[test]
    fn names_are_those_of_llama_cpp_in_any_case() {
        for row in &TABLE {
            assert_eq!((row.0.row().1, row.1.parse::<Mixture>()), (row.1, Ok(row.0)));
            assert_eq!(row.1.to_ascii_uppercase().parse(), Ok(row.0));
        }
        assert_eq!("Q4_K".parse(), Ok(Mixture::Q4KM));
        let error = "q4".parse::<Mixture>().unwrap_err();
        assert!(error.starts_with("expected q4_0, ") && error.ends_with("iq4_xs, got `q4`"), "{error}");
    }

    #[test]
    fn norms_vectors_and_gates_of_experts_are_not_quantised() {
        assert!(is_quantised("blk.0.attn_q.weight", &[4, 256]) && is_quantised("blk.0.ffn_up_exps.weight", &[8, 1, 256]));
        for (name, shape) in [
            ("blk.0.attn_q.bias", &[4, 256][..]),
            ("blk.0.attn_norm.weight", &[4, 256]),
            ("blk.0.ffn_gate_inp.weight", &[4, 256]),
            ("blk.0.attn_q.weight", &[256]),
            ("blk.0.attn_q.weight", &[1, 256]),
        ] {
            assert!(!is_quantised(name, shape), "{name}, {shape:?}");
        }
    }
}
