//! Real files of other programs: the resulting configuration and notes.

use super::*;
use crate::config::alias::PEERS;

const LOG: &str = "has no effect: metrics are written to metrics.jsonl in output_dir";
const ROWS: &str = "has no effect: rows are tokenised on all cores and kept for the next run";
const VALID: &str = "has no effect: use `burnish eval`; validation rows come from val_split, or from valid.jsonl in the \
                     `data` folder";
const CHECKPOINT: &str = "has no effect: it follows from the checkpoint's config.json and tokenizer.json";

/// Checks the configuration that a file becomes, and every note: the key, and the rest of the line.
fn check(name: &str, text: &str, values: &Value, lines: &[(&str, &str)]) {
    let loaded = from_file(name, text).unwrap_or_else(|error| panic!("{name}: {error}"));
    for (key, value) in values.as_object().unwrap() {
        assert_eq!(value_of(&loaded.config, key), *value, "{name}: {key}");
    }
    let line = |(name, rest): &(&str, &str)| {
        if name.is_empty() { (*rest).to_owned() } else { format!("`{name}` {rest}") }
    };
    let mut expected: Vec<String> = lines.iter().map(line).collect();
    // The keys of a TOML file are sorted.
    expected.sort();
    let mut said = loaded.notes;
    said.sort();
    assert_eq!(said, expected, "{name}");
}

/// The error about a YAML file, without its path.
pub(super) fn refused(text: &str) -> String {
    let error = from_file("c.yaml", &format!("model: m\ndata: d\n{text}")).unwrap_err().to_string();
    error.split_once(".yaml: ").map_or(error.as_str(), |(_, reason)| reason).to_owned()
}

pub(super) fn read(text: &str) -> Loaded {
    from_file("c.yaml", &format!("model: m\ndata: d\n{text}")).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn files_of_mlx_lm() {
    let values = |output: &str| {
        json!({
            "model": "MODEL", "data": "./data", "fine_tune_type": "lora", "seed": 0, "num_layers": 2, "batch_size": 2,
            "iters": 3, "val_batches": 0, "learning_rate": 1e-5, "steps_per_report": 1, "steps_per_eval": 2,
            "save_every": 2, "max_seq_length": 256, "rank": 8, "alpha": 160.0, "dropout": 0.0, "output_dir": output,
            "target_modules": ["self_attn.q_proj", "self_attn.v_proj"], "mask_prompt": false, "optimizer": "adamw",
            "lr_scheduler": "constant", "warmup": 0.0, "max_grad_norm": 0.0, "weight_decay": 0.01, "adapter": null,
        })
    };
    let lines = [
        ("val_batches = -1", "is read as `val_batches = 0` (no limit)"),
        ("test", VALID),
        (
            "lora_parameters",
            "is read as `rank = 8`, `alpha = 160.0`, `dropout = 0.0`, \
             `target_modules = [\"self_attn.q_proj\",\"self_attn.v_proj\"]` (alpha = scale * rank)",
        ),
        (
            "",
            "not in the file, so set to the defaults of mlx-lm: `mask_prompt = false`, `lr_scheduler = \"constant\"`, `warmup = 0.0`, \
             `max_grad_norm = 0.0`",
        ),
    ];
    let trap = ("", "mlx-lm adapts the last 2 blocks only, and so does this run; `num_layers: -1` adapts all");
    let lines = [&lines[..], &[trap]].concat();
    let with = |more: &[(&'static str, &'static str)]| [&lines[..], more].concat();
    check(
        "lora.yaml",
        include_str!("../fixtures/lora.yaml"),
        &values("./run"),
        &with(&[("adapter_path", "is read as `output_dir = \"./run\"`"), ("test_batches", VALID)]),
    );
    check(
        "lora-no-test-batches.yaml",
        include_str!("../fixtures/lora-no-test-batches.yaml"),
        &values("./run2"),
        &with(&[("adapter_path", "is read as `output_dir = \"./run2\"`")]),
    );
    check(
        "lora-reportto.yaml",
        include_str!("../fixtures/lora-reportto.yaml"),
        &values("./run3"),
        &with(&[
            ("adapter_path", "is read as `output_dir = \"./run3\"`"),
            ("report_to", "has no effect: swanlab is not supported; tensorboard, trackio and wandb are"),
        ]),
    );
}

#[test]
fn files_of_llama_factory() {
    let values = |output: &str| {
        json!({
            "model": "MODEL", "data": "./rows.json", "fine_tune_type": "lora", "rank": 4, "alpha": 8.0, "epochs": 1,
            "iters": 0, "target_modules": "all-linear", "max_seq_length": 256, "output_dir": output, "batch_size": 2,
            "steps_per_report": 1, "save_every": 2, "overwrite": true, "grad_accumulation_steps": 1, "dtype": "auto",
            "learning_rate": 1e-4, "lr_scheduler": "cosine", "warmup": 0.1, "weight_decay": 0.0, "mask_prompt": true,
        })
    };
    let lines = [
        ("model_name_or_path", "is read as `model = \"MODEL\"`"),
        ("finetuning_type", "is read as `fine_tune_type = \"lora\"`"),
        ("lora_rank", "is read as `rank = 4`"),
        ("lora_target", "is read as `target_modules = \"all-linear\"`"),
        ("dataset", "is read as `data = \"./rows.json\"`"),
        ("template", "has no effect: the checkpoint's own chat template is used"),
        ("cutoff_len", "is read as `max_seq_length = 256`"),
        ("overwrite_cache", ROWS),
        ("preprocessing_num_workers", ROWS),
        ("logging_steps", "is read as `steps_per_report = 1`"),
        ("save_steps", "is read as `save_every = 2`"),
        ("plot_loss", LOG),
        ("overwrite_output_dir", "is read as `overwrite = true`"),
        ("per_device_train_batch_size", "is read as `batch_size = 2`"),
        ("gradient_accumulation_steps", "is read as `grad_accumulation_steps = 1`"),
        ("num_train_epochs", "is read as `epochs = 1`"),
        ("lr_scheduler_type", "is read as `lr_scheduler = \"cosine\"`"),
        ("warmup_ratio", "is read as `warmup = 0.1`"),
        (
            "",
            "not in the file, so set to the defaults of LLaMA-Factory: `alpha = 8.0`, `weight_decay = 0.0`, `grad_checkpoint = true`",
        ),
    ];
    let more = [
        ("trust_remote_code", "has no effect: code in a checkpoint is never run"),
        ("ddp_timeout", "has no effect: training runs on one device; see backend"),
    ];
    check("sft.yaml", include_str!("../fixtures/sft.yaml"), &values("./run"), &[&lines[..], &more[..]].concat());
    check("sft-known.yaml", include_str!("../fixtures/sft-known.yaml"), &values("./run"), &lines);
    check("sft-int-epochs.yaml", include_str!("../fixtures/sft-int-epochs.yaml"), &values("./run2"), &lines);
}

#[test]
fn files_of_axolotl() {
    let values = |output: &str| {
        json!({
            "model": "MODEL", "data": "./rows.jsonl", "fine_tune_type": "lora", "rank": 4, "alpha": 8.0, "dropout": 0.05,
            "target_modules": "all-linear", "max_seq_length": 256, "packing": true, "output_dir": output, "epochs": 1,
            "batch_size": 2, "grad_accumulation_steps": 1, "optimizer": "adamw", "lr_scheduler": "cosine", "dtype": "auto",
            "learning_rate": 2e-4, "mask_prompt": true, "steps_per_report": 1, "warmup": 1.0, "weight_decay": 0.0,
            "adapter": null, "early_stopping": 0, "resume": "none", "length_policy": "drop",
        })
    };
    let lines = [
        ("base_model", "is read as `model = \"MODEL\"`"),
        ("model_type", CHECKPOINT),
        ("tokenizer_type", CHECKPOINT),
        ("strict", "has no effect: an unknown key is always an error"),
        ("datasets", "is read as `data = \"./rows.jsonl\"`"),
        ("val_set_size", "is read as `val_split = 0.0`"),
        ("sequence_len", "is read as `max_seq_length = 256`"),
        ("sample_packing", "is read as `packing = true`"),
        ("pad_to_sequence_len", "has no effect: see padding_free"),
        ("adapter", "is read as `fine_tune_type = \"lora\"`"),
        ("lora_r", "is read as `rank = 4`"),
        ("lora_alpha", "is read as `alpha = 8.0`"),
        ("lora_dropout", "is read as `dropout = 0.05`"),
        ("lora_target_linear", "is read as `target_modules = \"all-linear\"`"),
        ("gradient_accumulation_steps", "is read as `grad_accumulation_steps = 1`"),
        ("micro_batch_size", "is read as `batch_size = 2`"),
        ("num_epochs", "is read as `epochs = 1`"),
        ("optimizer = \"adamw_torch\"", "is read as `optimizer = \"adamw\"`"),
        ("train_on_inputs", "is read as `mask_prompt = true`"),
        ("group_by_length", "has no effect: the order of rows depends only on shuffle and seed"),
        ("bf16", "is read as `dtype = \"auto\"`"),
        ("tf32", "has no effect: the backend decides how f32 is computed; see dtype"),
        ("gradient_checkpointing", "is read as `grad_checkpoint = false`"),
        ("logging_steps", "is read as `steps_per_report = 1`"),
        ("flash_attention", "has no effect: each backend has its own attention"),
        ("warmup_steps", "is read as `warmup = 1.0`"),
        ("", "not in the file, so set to the defaults of axolotl: `length_policy = \"drop\"`"),
    ];
    let more = [("eval_sample_packing", "has no effect: the validation loss is the same, packed or not")];
    check("lora.yml", include_str!("../fixtures/lora.yml"), &values("./run"), &[&lines[..], &more[..]].concat());
    check("lora-known.yml", include_str!("../fixtures/lora-known.yml"), &values("./run2"), &lines);
}

#[test]
fn arguments_of_unsloth() {
    let values = json!({
        "model": "MODEL", "data": "./rows.jsonl", "max_seq_length": 256, "rank": 4, "alpha": 8.0, "dropout": 0.0,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], "seed": 3407,
        "rslora": false, "batch_size": 2, "grad_accumulation_steps": 1, "warmup": 1.0, "iters": 3, "learning_rate": 2e-4,
        "steps_per_report": 1, "optimizer": "adamw8bit", "weight_decay": 0.001, "lr_scheduler": "linear",
        "output_dir": "./run",
    });
    let lines = [
        ("model_name", "is read as `model = \"MODEL\"`"),
        ("r", "is read as `rank = 4`"),
        ("lora_alpha", "is read as `alpha = 8.0`"),
        ("lora_dropout", "is read as `dropout = 0.0`"),
        ("use_gradient_checkpointing", "is read as `grad_checkpoint = true`"),
        ("use_rslora", "is read as `rslora = false`"),
        ("per_device_train_batch_size", "is read as `batch_size = 2`"),
        ("gradient_accumulation_steps", "is read as `grad_accumulation_steps = 1`"),
        ("warmup_steps", "is read as `warmup = 1.0`"),
        ("max_steps", "is read as `iters = 3`"),
        ("logging_steps", "is read as `steps_per_report = 1`"),
        ("optim", "is read as `optimizer = \"adamw8bit\"`"),
        ("lr_scheduler_type", "is read as `lr_scheduler = \"linear\"`"),
    ];
    check("args.toml", include_str!("../fixtures/args.toml"), &values, &lines);
}

#[test]
fn sections_of_unsloth_train() {
    let text = "model: MODEL\ndata:\n  local_dataset: [rows.jsonl]\n  format_type: auto\ntraining:\n  training_type: lora\n  \
                load_in_4bit: false\n  num_epochs: 1\n  max_steps: 0\n  random_seed: 3407\n  packing: false\n  \
                train_on_completions: true\n  gradient_checkpointing: none\nlora:\n  lora_r: 64\n  use_dora: false\n  \
                finetune_vision_layers: true\n  finetune_mlp_modules: true\nlogging:\n  enable_wandb: false\n";
    let values = json!({
        "model": "MODEL", "data": "rows.jsonl", "epochs": 1, "seed": 3407, "packing": false, "mask_prompt": true,
        "rank": 64, "alpha": 16.0, "quantization": "auto", "optimizer": "adamw8bit", "batch_size": 2, "grad_accumulation_steps": 4, "warmup": 5.0, "lr_scheduler": "linear",
    });
    let lines = [
        ("data.local_dataset", "is read as `data = \"rows.jsonl\"`"),
        ("data.format_type", "has no effect: the kind of a row follows from its keys"),
        ("training.training_type", "is read as `fine_tune_type = \"lora\"`"),
        ("training.num_epochs", "is read as `epochs = 1`"),
        ("training.max_steps", "is read as `iters = 0`"),
        ("training.random_seed", "is read as `seed = 3407`"),
        ("training.train_on_completions", "is read as `mask_prompt = true`"),
        ("training.gradient_checkpointing", "is read as `grad_checkpoint = false`"),
        ("lora.lora_r", "is read as `rank = 64`"),
        ("lora.use_dora", "is read as `dora = false`"),
        ("lora.finetune_vision_layers", "has no effect: only text models are supported"),
        (
            "",
            "not in the file, so set to the defaults of Unsloth: `batch_size = 2`, `grad_accumulation_steps = 4`, `warmup = 5.0`, \
             `lr_scheduler = \"linear\"`, `optimizer = \"adamw8bit\"`",
        ),
    ];
    check("studio.yaml", text, &values, &lines);
    for (text, expected) in [
        ("lora:\n  use_loftq: true\n", "`lora.use_loftq` is not supported"),
        ("training:\n  learning_rte: 1\n", "unknown key `training.learning_rte`"),
        ("lora: 5\n", "unknown key `lora`"),
    ] {
        let error = refused(text);
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn trackers_are_turned_on_as_each_program_does() {
    for (text, report_to, project, run) in [
        ("report_to: none\n", json!("none"), "", ""),
        ("report_to: wandb\nrun_name: two\n", json!("wandb"), "", "two"),
        ("report_to: [tensorboard, wandb]\n", json!(["tensorboard", "wandb"]), "", ""),
        ("report_to: all\n", json!(["tensorboard", "trackio", "wandb"]), "", ""),
        ("stage: sft\nreport_to: trackio\nproject: mine\n", json!("trackio"), "mine", ""),
        (
            "sequence_len: 64\nuse_trackio: true\ntrackio_project_name: mine\ntrackio_run_name: two\n",
            json!("trackio"),
            "mine",
            "two",
        ),
        ("adapter_path: a\nwandb: mine\n", json!("wandb"), "mine", ""),
        ("adapter_path: a\nreport_to: wandb,swanlab\nproject_name: mine\n", json!("wandb"), "mine", ""),
        ("sequence_len: 64\nwandb_project: mine\nwandb_name: two\n", json!("wandb"), "mine", "two"),
        ("sequence_len: 64\nwandb_project:\nuse_tensorboard: true\n", json!("tensorboard"), "", ""),
        ("sequence_len: 64\nuse_wandb: true\nuse_tensorboard: true\n", json!(["tensorboard", "wandb"]), "", ""),
        ("logging:\n  enable_wandb: true\n  enable_tensorboard: false\n", json!("wandb"), "", ""),
        ("stage: sft\nreport_to: tensorboard\n", json!("tensorboard"), "", ""),
    ] {
        let config = read(text).config;
        assert_eq!(value_of(&config, "report_to"), report_to, "{text}");
        assert_eq!((config.project_name.as_str(), config.run_name.as_str()), (project, run), "{text}");
    }
    assert!(refused("report_to: tensorbord\n").contains("got \"tensorbord\""));
    // A flag overrides the file, rather than adding to it.
    let (_folder, path) = written("c.toml", "model = 'm'\ndata = 'd'\nreport_to = 'wandb'\n");
    let flags = json!({ "report_to": "tensorboard" }).as_object().cloned().unwrap();
    assert_eq!(value_of(&load(Some(&path), flags).unwrap().config, "report_to"), json!("tensorboard"));
}

#[test]
fn missing_keys_have_the_defaults_of_the_files_program() {
    let mlx = read("adapter_path: a\n");
    let config = &mlx.config;
    assert_eq!((config.num_layers, config.iters, config.rank, config.alpha), (16, 1000, 8, 160.0));
    assert_eq!((config.mask_prompt, config.lr_scheduler, config.warmup), (false, LrScheduler::Constant, 0.0));
    assert_eq!((config.learning_rate, config.max_grad_norm, config.weight_decay), (1e-5, 0.0, 0.0));
    assert!(
        mlx.notes[1].starts_with("not in the file, so set to the defaults of mlx-lm: `iters = 1000`, `num_layers = 16`"),
        "{mlx:?}"
    );
    assert_eq!(read("adapter_path: a\nnum_layers: -1\n").config.num_layers, 0);

    let factory = read("stage: sft\nlora_rank: 6\nmax_steps: 5\n").config;
    assert_eq!((factory.alpha, factory.batch_size, factory.learning_rate), (12.0, 8, 5e-5));
    assert_eq!((factory.epochs, factory.iters), (1, 5));

    // Without `adapter`, axolotl trains every weight.
    let axolotl = read("sequence_len: 64\n").config;
    assert_eq!((axolotl.fine_tune_type, axolotl.batch_size), (FineTuneType::Full, 1));
    let length_policy = |text: &str| value_of(&read(&format!("sequence_len: 64\n{text}")).config, "length_policy");
    assert_eq!(length_policy(""), json!("drop"));
    assert_eq!(length_policy("excess_length_strategy: drop\n"), json!("drop"));
    assert_eq!(length_policy("excess_length_strategy: truncate\n"), json!("truncate"));
    assert!(refused("sequence_len: 64\nexcess_length_strategy: raise\n").contains("set drop or truncate"));
    // A file of ours with a foreign name stays ours, and so does the command line.
    let ours = TrainConfig { model: "m".to_owned(), data: "d".to_owned(), rank: 4, ..TrainConfig::default() };
    assert_eq!(read("lora_r: 4\nreport_to: none\n").config, ours);
    assert_eq!(loaded(&json!({ "adapter_path": "a" })).config.num_layers, 0);
    for peer in PEERS {
        let defaults = (peer.defaults)(&Map::new());
        for (key, value) in defaults.as_object().unwrap() {
            assert_eq!(value_of(&loaded(&json!({ key: value })).config, key), *value, "{}: {key}", peer.name);
        }
        let known = |sign: &&&str| peer.keys.iter().any(|(key, _)| key == *sign) || peer.name == "Unsloth";
        assert!(peer.signs.iter().all(|sign| known(&sign)), "{}", peer.name);
    }
}

#[test]
fn axolotls_batch_size_counts_rows_of_an_optimizer_step() {
    let sizes = |text: &str| {
        let config = read(&format!("sequence_len: 64\n{text}")).config;
        (config.batch_size, config.grad_accumulation_steps)
    };
    assert_eq!(sizes("batch_size: 8\nmicro_batch_size: 2\n"), (2, 4));
    assert_eq!(sizes("batch_size: 8\ngradient_accumulation_steps: 2\n"), (4, 2));
    assert_eq!(sizes("batch_size: 8\nmicro_batch_size: 2\ngradient_accumulation_steps: 4\n"), (2, 4));
    let both = refused("sequence_len: 64\nbatch_size: 8\nmicro_batch_size: 2\ngradient_accumulation_steps: 2\n");
    assert!(both.contains("`batch_size` is not micro_batch_size times"), "{both}");
    assert!(refused("sequence_len: 64\nbatch_size: 8\nmicro_batch_size: 3\n").contains("a whole number"));
    assert!(
        refused("sequence_len: 64\nbatch_size: many\n")
            .contains("`batch_size` should be a whole number, 0 or more, got \"many\"")
    );
}

#[test]
fn mlx_lm_counts_micro_batches() {
    let text = "adapter_path: a\ngrad_accumulation_steps: 4\niters: 602\nsave_every: 100\nsteps_per_eval: 2\n";
    let Loaded { config, notes, .. } = read(text);
    assert_eq!((config.iters, config.save_every, config.steps_per_eval), (150, 25, 1));
    let line = "`iters = 150`, `save_every = 25`, `steps_per_eval = 1` (÷ grad_accumulation_steps 4): burnish counts \
                optimizer steps, mlx-lm counts micro-batches";
    assert!(notes.iter().any(|note| note == line), "{notes:?}");
    assert_eq!(read("adapter_path: a\ngrad_accumulation_steps: 4\n").config.iters, 250);
    assert!(refused("train: true\ngrad_accumulation_steps: 4\niters: 3\n").starts_with("`iters` is 3, but mlx-lm counts"));
    // Without a sign of mlx-lm, iters counts optimizer steps.
    assert_eq!(read("iters: 600\ngrad_accumulation_steps: 4\n").config.iters, 600);
}

#[test]
fn schedules_and_optimizers_of_mlx_lm() {
    let schedule =
        "lr_schedule:\n  name: cosine_decay\n  warmup: 100\n  warmup_init: 1e-7\n  arguments: [1e-5, 1000, 1e-7]\n";
    let Loaded { config, notes, .. } = read(&format!("{schedule}learning_rate: 3e-5\niters: 1000\n"));
    assert_eq!((config.lr_scheduler, config.learning_rate, config.warmup), (LrScheduler::Cosine, 1e-5, 100.0));
    assert!(notes[0].starts_with("`lr_schedule` is read as `lr_scheduler = \"cosine\"`, `learning_rate = "), "{notes:?}");
    let linear =
        "lr_schedule: {name: linear_schedule, arguments: [1e-4, 0.0, 50]}\niters: 100\ngrad_accumulation_steps: 2\n";
    let config = read(linear).config;
    assert_eq!((config.lr_scheduler, config.learning_rate, config.iters), (LrScheduler::Linear, 1e-4, 50));
    let without = read("lr_schedule: null\nlearning_rate: 3e-5\n").config;
    assert_eq!((without.lr_scheduler, without.learning_rate), (LrScheduler::Constant, 3e-5));
    for (schedule, expected) in [
        ("{name: cosine_decay, arguments: [1e-5, 100]}", "decays for 100 steps, but the run has 1000"),
        ("{name: step_decay, arguments: [1e-5, 0.9, 10]}", "is step_decay"),
        ("{name: cosine_decay, arguments: [1e-5, 1000, 9e-6]}", "well above 0"),
        ("{name: cosine_decay, arguments: [1e-5, 1000], cycles: 2}", "unknown key `cycles`"),
        ("cosine", "should be a table"),
    ] {
        let error = refused(&format!("lr_schedule: {schedule}\n"));
        assert!(error.starts_with("`lr_schedule` ") && error.contains(expected), "{error}");
    }

    let config =
        "optimizer: adamw\noptimizer_config:\n  adam: {}\n  adamw: {betas: [0.8, 0.95], eps: 1e-6, weight_decay: 0.1}\n";
    let config = read(config).config;
    assert_eq!((config.beta1, config.beta2, config.epsilon, config.weight_decay), (0.8, 0.95, 1e-6, 0.1));
    assert_eq!(value_of(&read("train: true\noptimizer: adam\n").config, "weight_decay"), json!(0.0));
    for (text, expected) in [
        ("optimizer_config: {adam: {bias_correction: false}}\n", "`optimizer_config` has `bias_correction = false`"),
        ("train: true\noptimizer: muon\n", "`optimizer` should be one of adamw, adamw8bit, got \"muon\""),
        ("train: false\n", "`train` = false is not supported: `burnish train` trains"),
        ("train: true\nfine_tune_type: full\n", "`fine_tune_type` is \"full\" with `num_layers` 16"),
        ("train: true\nfine_tune_type: adalora\n", "`fine_tune_type` should be one of lora, full, got \"adalora\""),
    ] {
        let error = refused(text);
        assert!(error.starts_with(expected), "{error}");
    }
    assert_eq!(read("train: true\nfine_tune_type: full\nnum_layers: -1\n").config.fine_tune_type, FineTuneType::Full);
    let dora = read("train: true\nfine_tune_type: dora\n").config;
    assert_eq!((dora.fine_tune_type, dora.dora), (FineTuneType::Lora, true));
}

#[test]
fn the_kind_of_an_adapter_and_its_start_are_read() {
    for (text, dora, init) in [
        ("use_dora: true\ninit_lora_weights: true\n", true, "default"),
        ("init_lora_weights: pissa_niter_16\n", false, "pissa_niter_16"),
        ("peft_use_dora: true\npeft_init_lora_weights: OLoRA\n", true, "olora"),
        ("dora: false\ninit: gaussian\n", false, "gaussian"),
        ("init_lora_weights: loftq\nload_in_4bit: true\n", false, "loftq"),
    ] {
        let config = read(text).config;
        assert_eq!((config.dora, config.init.to_string().as_str()), (dora, init), "{text}");
        let lora = config.lora();
        assert_eq!((lora.dora, lora.init), (config.dora, config.init));
        // An adapter that is given has begun already.
        let given = TrainConfig { adapter: Some("folder".to_owned()), ..config };
        assert_eq!(given.lora().init, burnish_lora::Init::Default);
    }
    for (text, expected) in [
        ("init: eva\n", "got \"eva\""),
        ("loftq_config: {loftq_bits: 4}\n", "init = \"loftq\""),
        ("stage: sft\npissa_init: true\n", "pissa_niter_16"),
        ("init: pissa\nquantization: nf4\n", "needs `quantization = \"none\"`"),
        ("init: loftq\n", "needs `quantization = \"nf4\"`"),
        ("modules_to_save: lm_head\nfine_tune_type: full\n", "`modules_to_save` needs"),
        ("modules_to_save: [lm_head]\nrecipe: dpo\n", "`modules_to_save` with `dpo`"),
    ] {
        let error = refused(text);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn quantised_bases_have_the_scales_of_the_files_program() {
    for (text, quantization, double_quant) in [
        ("sequence_len: 64\nadapter: qlora\nload_in_4bit: true\n", "nf4", true),
        ("sequence_len: 64\nadapter: qlora\nbnb_config_kwargs:\n  bnb_4bit_use_double_quant: false\n", "nf4", false),
        ("sequence_len: 64\nadapter: lora\nload_in_8bit: true\nload_in_4bit: false\n", "int8", false),
        ("sequence_len: 64\nadapter: lora\n", "auto", false),
        ("stage: sft\nquantization_bit: 4\nquantization_method: bnb\n", "nf4", true),
        ("stage: sft\nquantization_bit: 4\ndouble_quantization: false\n", "nf4", false),
        ("training:\n  load_in_4bit: true\n", "nf4", true),
        ("training:\n  max_steps: 3\n", "nf4", true),
        ("training:\n  load_in_4bit: false\n", "auto", false),
        ("training:\n  training_type: full\n", "auto", false),
    ] {
        let config = read(text).config;
        let found = (value_of(&config, "quantization"), value_of(&config, "double_quant"));
        assert_eq!(found, (json!(quantization), json!(double_quant)), "{text}");
    }
}

#[test]
fn a_constant_rate_of_transformers_has_no_warm_up() {
    let constant = read("lr_scheduler_type: constant\nwarmup_ratio: 0.1\n");
    assert_eq!(value_of(&constant.config, "warmup"), json!(0.0));
    assert!(constant.notes[2].contains("constant_with_warmup"), "{:?}", constant.notes);
    for text in ["lr_scheduler_type: constant_with_warmup\nwarmup_ratio: 0.1\n", "lr_scheduler: constant\nwarmup: 0.1\n"] {
        assert_eq!(value_of(&read(text).config, "warmup"), json!(0.1), "{text}");
    }
    // axolotl's `lr_scheduler` is transformers'.
    let axolotl = read("sequence_len: 64\nlr_scheduler: constant\nwarmup_steps: 10\n").config;
    assert_eq!(value_of(&axolotl, "warmup"), json!(0.0));
}

#[test]
fn values_are_read_as_pyyaml_reads_them() {
    let config =
        read("packing: yes\nshuffle: off\nrslora: ON\nlearning_rate: 1e-5\nweight_decay: '1e-3'\niters: 1_000\n").config;
    assert_eq!((config.packing, config.shuffle, config.rslora), (true, false, true));
    assert_eq!((config.learning_rate, config.weight_decay, config.iters), (1e-5, 1e-3, 1000));
    let config = read("train_on_inputs: no\nsave_strategy: no\nload_in_4bit: No\nbf16: Off\nmax_grad_norm: 1.\n").config;
    assert_eq!((config.mask_prompt, config.save_every, config.max_grad_norm), (true, 0, 1.0));
    assert!(refused("learning_rate: .nan\n").contains("non-finite"));
    for (text, expected) in [
        ("packing: maybe\n", "`packing` should be true or false, got \"maybe\""),
        ("num_train_epochs: 0.5\n", "`num_train_epochs` should be a whole number, 0 or more, got 0.5; use `iters`"),
        ("rank: '1e-1'\n", "`rank` should be a whole number, 0 or more, got \"1e-1\""),
        ("neftune_noise_alpha: 5\n", "`neftune_noise_alpha` is not supported"),
    ] {
        let error = refused(text);
        assert!(error.starts_with(expected), "{text}: {error}");
    }
}

#[test]
fn documented_keys_are_known() {
    let documented = "model train data fine_tune_type optimizer mask_prompt num_layers batch_size iters val_batches learning_rate \
        steps_per_report steps_per_eval grad_accumulation_steps resume_adapter_file adapter_path save_every test test_batches \
        max_seq_length grad_checkpoint clear_cache_threshold report_to project_name seed trust_remote_code lora_parameters \
        lr_schedule optimizer_config hf_dataset \
        model_name dtype load_in_4bit dataset r lora_alpha lora_dropout bias use_gradient_checkpointing random_state use_rslora \
        loftq_config use_dora per_device_train_batch_size gradient_accumulation_steps warmup_steps max_steps optim weight_decay \
        lr_scheduler_type packing logging_steps output_dir save_model save_method save_gguf save_path quantization push_model \
        push_gguf hub_path hub_token raw_text_file chunk_size stride local_dataset format_type training_type num_epochs \
        save_steps random_seed train_on_completions gradient_checkpointing lora_r target_modules \
        base_model datasets val_set_size adapter sequence_len sample_packing lora_target_modules lora_target_linear \
        lora_modules_to_save peft_use_dora peft_use_rslora peft_init_lora_weights loraplus_lr_ratio micro_batch_size \
        lr_scheduler warmup_ratio max_grad_norm bf16 fp16 train_on_inputs resume_from_checkpoint evals_per_epoch \
        saves_per_epoch save_total_limit early_stopping_patience wandb_project hub_model_id \
        model_name_or_path stage do_train finetuning_type lora_rank lora_target pissa_init quantization_bit template cutoff_len \
        max_samples val_size neat_packing train_on_prompt mask_history num_train_epochs export_dir adapter_name_or_path";
    for key in documented.split_whitespace() {
        let known = TrainConfig::KEYS.iter().any(|own| own.name == key) || FOREIGN.iter().any(|(name, _)| *name == key);
        assert!(known, "{key}");
    }
}
