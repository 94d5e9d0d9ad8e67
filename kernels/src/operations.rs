//! The names of the fused operations.

/// The operations of [`FusedBackend`](crate::FusedBackend), by the names of its methods.
pub const OPERATIONS: [&str; 54] = [
    "rms_norm",
    "add_rms_norm",
    "fork_rms_norm",
    "rms_norm_backward",
    "row_layer_norm",
    "row_layer_norm_backward",
    "rotary",
    "glu",
    "glu_backward",
    "append",
    "append_rotated",
    "prefix",
    "dropout",
    "segment_attention",
    "attention_for_backward",
    "attention_backward",
    "sink_attention",
    "sink_attention_for_backward",
    "sink_attention_backward",
    "dense_linear",
    "dense_linears",
    "glu_linear",
    "linear_backward_input",
    "linear_backward_weight",
    "packed_linear",
    "packed_linears",
    "packed_glu_linear",
    "packed_linear_backward_input",
    "packed_rows",
    "grouped_linear",
    "grouped_linear_backward_input",
    "stacked_linear",
    "stacked_linear_backward_input",
    "stacked_linear_backward_weight",
    "lora_linear",
    "lora_hidden",
    "lora_linear_backward",
    "packed_lora_linear",
    "packed_lora_linear_backward",
    "linear_cross_entropy",
    "linear_cross_entropy_with_gradient",
    "linear_cross_entropy_backward_weight",
    "packed_linear_cross_entropy",
    "packed_linear_cross_entropy_with_gradient",
    "capped_linear_cross_entropy",
    "packed_capped_linear_cross_entropy",
    "select_rows",
    "select_rows_backward",
    "adamw",
    "adamw8bit",
    "pack",
    "unpack",
    "squared_norm",
    "sample_tokens",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_listed() {
        let text = include_str!("backend.rs");
        let body = text.split_once("pub trait FusedBackend").unwrap().1.split_once("fn device_memory").unwrap().0;
        let methods: Vec<&str> = body.lines().filter_map(|line| line.strip_prefix("    fn ")?.split('(').next()).collect();
        assert_eq!(methods, OPERATIONS);
    }
}
