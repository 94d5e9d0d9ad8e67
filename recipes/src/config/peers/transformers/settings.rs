//! Keys of transformers and PEFT that change nothing here, or are refused, by reason.

use super::super::{
    CHECKPOINTING, NO_ADAPTER_KIND, NO_EVALUATION, NO_LOSS, NO_PRUNING, NO_UPLOAD, ONE_DEVICE, OWN_KERNELS, OWN_LOG,
    OWN_ROWS, TRACKIO_LATER,
};
use crate::config::meaning::Meaning::{self, Harmless, Only, Refused, Same};

pub(super) const SETTINGS: &[(Meaning, &[&str])] = &[
    (Harmless(CHECKPOINTING), &["activation_checkpointing_kwargs"]),
    (Harmless("Ctrl-C saves a checkpoint after the step"), &["enable_jit_checkpoint"]),
    (Harmless(NO_PRUNING), &["restore_callback_states_from_checkpoint"]),
    (Refused("a resumed run continues with the rows that are left; remove it"), &["ignore_data_skip"]),
    (Harmless("the order of rows depends only on shuffle and seed"), &["sortish_sampler", "shuffle_dataset"]),
    (Harmless(OWN_ROWS), &["dataloader_in_order", "dataloader_multiprocessing_context"]),
    (
        Harmless(NO_EVALUATION),
        &["batch_eval_metrics", "eval_do_concat_batches", "eval_use_gather_object", "include_for_metrics", "label_names"],
    ),
    (
        Harmless(ONE_DEVICE),
        &[
            "ddp_broadcast_buffers",
            "ddp_static_graph",
            "ignore_bias_buffers",
            "megatron_config",
            "megatron_core",
            "parallelism_config",
            "runtime_config",
            "save_on_each_node",
        ],
    ),
    (Harmless(OWN_KERNELS), &["liger_kernel_config", "torch_compile_backend", "torch_compile_mode"]),
    (Harmless(NO_UPLOAD), &["hub_always_push"]),
    (Harmless(OWN_LOG), &["log_level_replica", "log_on_each_node", "logging_nan_inf_filter", "skip_memory_metrics"]),
    (Same("project_name"), &["project"]),
    (Harmless(TRACKIO_LATER), &["trackio_bucket_id", "trackio_space_id", "trackio_static_space_id"]),
    // PEFT
    (
        Refused(NO_ADAPTER_KIND),
        &[
            "alora_invocation_tokens",
            "arrow_config",
            "corda_config",
            "eva_config",
            "kasa_config",
            "lora_ga_config",
            "monteclora_config",
            "use_bdlora",
            "use_qalora",
            "velora_config",
        ],
    ),
    (Harmless("it belongs to use_qalora, which is refused"), &["qalora_group_size"]),
    (Only(&["LORA"], NO_ADAPTER_KIND), &["peft_type"]),
    (
        Harmless("PEFT writes it for its own use"),
        &["auto_mapping", "base_model_name_or_path", "inference_mode", "lora_task_type", "peft_version"],
    ),
    (Refused(NO_LOSS), &["router_aux_loss_coef"]),
];
