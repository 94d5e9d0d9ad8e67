//! Between the tensor names of GGUF and those of Hugging Face checkpoints.
//!
//! Source: `gguf-py/gguf/tensor_mapping.py` and `conversion/llama.py` of llama.cpp.

/// Names outside of blocks.
const OUTER: &[(&str, &str)] = &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Names inside a block, without `blk.N.` and `model.layers.N.`.
const INNER: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The Hugging Face name; names without one stay as they are.
pub(super) fn to_hugging_face(name: &str, architecture: &str) -> String {
    let Some((stem, kind)) = name.rsplit_once('.') else { return name.to_owned() };
    if let Some((_, renamed)) = OUTER.iter().find(|(own, _)| *own == stem) {
        return format!("{renamed}.{kind}");
    }
    let inner = stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    let found = inner.and_then(|(index, own)| {
        let renamed = INNER.iter().find(|(known, _)| *known == own).map(|(_, renamed)| *renamed)?;
        Some(format!("model.layers.{index}.{renamed}.{kind}"))
    });
    // Gemma has norms of its own after attention; its family maps them when it comes.
    found.filter(|_| !architecture.is_empty()).unwrap_or_else(|| name.to_owned())
}

/// The GGUF name of a Hugging Face tensor of the Llama family.
pub fn from_hugging_face(name: &str) -> Option<String> {
    let (stem, kind) = name.rsplit_once('.')?;
    if let Some((own, _)) = OUTER.iter().find(|(_, renamed)| *renamed == stem) {
        return Some(format!("{own}.{kind}"));
    }
    let (index, inner) = stem.strip_prefix("model.layers.")?.split_once('.')?;
    let own = INNER.iter().find(|(_, renamed)| *renamed == inner).map(|(own, _)| *own)?;
    Some(format!("blk.{index}.{own}.{kind}"))
}

/// Rows of a query or key weight with the halves of each head apart, as Hugging Face keeps them, from the interleaved
/// rows of a `llama` file.
pub(super) fn halves_apart<T: Copy + Default>(values: &[T], rows: usize, heads: usize) -> Option<Vec<T>> {
    reorder(values, rows, heads, |row, half| row / 2 + (row % 2) * half)
}

/// The inverse: rows interleaved, as a `llama` file keeps them.
pub fn halves_interleaved<T: Copy + Default>(values: &[T], rows: usize, heads: usize) -> Option<Vec<T>> {
    reorder(values, rows, heads, |row, half| if row < half { 2 * row } else { 2 * (row - half) + 1 })
}

/// Moves row `r` of every head to row `to(r, head_dim / 2)`.
fn reorder<T: Copy + Default>(
    values: &[T],
    rows: usize,
    heads: usize,
    to: impl Fn(usize, usize) -> usize,
) -> Option<Vec<T>> {
    if heads == 0 || rows == 0 || !rows.is_multiple_of(2 * heads) {
        return None;
    }
    let (columns, head_dim) = (values.len() / rows, rows / heads);
    let mut moved = vec![T::default(); values.len()];
    for (row, source) in values.chunks_exact(columns).enumerate() {
        let target = row / head_dim * head_dim + to(row % head_dim, head_dim / 2);
        moved[target * columns..(target + 1) * columns].copy_from_slice(source);
    }
    Some(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for name in [
            "model.layers.7.self_attn.q_proj.weight",
            "model.norm.weight",
            "lm_head.weight",
            "model.layers.0.mlp.up_proj.bias",
        ] {
            assert_eq!(to_hugging_face(&from_hugging_face(name).unwrap(), "llama"), name);
        }
    }

    #[test]
    fn rows_go_there_and_back() {
        let values: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let interleaved = halves_interleaved(&values, 8, 2).unwrap();
        assert_eq!(interleaved[3..6], values[6..9]);
        assert_eq!(halves_apart(&interleaved, 8, 2).unwrap(), values);
        assert!(halves_apart(&values, 8, 3).is_none());
    }
}
