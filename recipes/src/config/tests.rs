//! Names, sources and refusals of the configuration.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::*;

mod peers;
mod preferences;
mod reference;
mod trl;

fn given(value: &Value) -> Map<String, Value> {
    let mut map = json!({ "model": "m", "data": "d" }).as_object().cloned().unwrap();
    map.extend(value.as_object().cloned().unwrap());
    map
}

fn loaded(value: &Value) -> Loaded {
    load(None, given(value)).unwrap()
}

fn error(value: &Value) -> String {
    load(None, given(value)).unwrap_err().to_string()
}

fn written(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

fn from_file(name: &str, text: &str) -> Result<Loaded, ConfigError> {
    let (_folder, path) = written(name, text);
    load(Some(&path), Map::new())
}

/// A valid value for the key that differs from its default.
fn sample(key: &Key) -> Value {
    match (key.name, key.kind) {
        ("recipe", _) => json!("dpo"),
        ("loss_type", _) => json!("ipo"),
        ("simpo_gamma", _) => json!(0.7),
        ("fine_tune_type", _) => json!("full"),
        ("length_policy", _) => json!("drop"),
        ("lr_scheduler", _) => json!("linear"),
        ("optimizer", _) => json!("adamw8bit"),
        ("backend", _) => json!("cpu"),
        ("quantization", _) => json!("nf4"),
        ("init", _) => json!("pissa"),
        ("modules_to_save", _) => json!(["lm_head"]),
        ("dtype", _) => json!("bf16"),
        ("tune", _) => json!("never"),
        ("report_to", _) => json!("wandb"),
        (_, Kind::Bool) => json!(true),
        (_, Kind::Integer) => json!(7),
        (_, Kind::Float) => json!(0.5),
        (_, Kind::Text) => json!("some/where"),
        (_, Kind::Texts) => json!(["q_proj"]),
    }
}

fn value_of(config: &TrainConfig, key: &str) -> Value {
    serde_json::to_value(config).unwrap()[key].clone()
}

#[test]
fn a_flag_beats_the_file_and_the_file_the_default() {
    let (_folder, path) = written("c.toml", "model = 'file'\ndata = 'd'\nrank = 4\nbatch_size = 3\n");
    // The file's `rank` and the flag's `lora_r` are one key.
    let loaded = load(Some(&path), json!({ "lora_r": 2 }).as_object().cloned().unwrap()).unwrap();
    assert_eq!((loaded.config.rank, loaded.config.batch_size, loaded.config.seed), (2, 3, 42));
}

#[test]
fn yaml_reads_like_toml() {
    let toml = "model = 'm'\ndata = 'd'\nlearning_rate = 2e-4\nalpha = 32\npacking = true\ntarget_modules = ['q_proj']\n\
                [lora_parameters]\nrank = 4\nscale = 8.0\n";
    let yaml = "model: m\ndata: d\nlearning_rate: 2e-4\nalpha: 32\npacking: true\ntarget_modules: [q_proj]\n\
                lora_parameters:\n  rank: 4\n  scale: 8.0\nresume_adapter_file: null\nwandb_project:\n";
    let (toml, yaml) = (from_file("c.toml", toml).unwrap(), from_file("c.yaml", yaml).unwrap());
    assert_eq!(toml.config, yaml.config);
    assert_eq!((toml.config.learning_rate, toml.config.alpha), (2e-4, 32.0));
    assert_eq!(toml.notes, yaml.notes);
    assert_eq!(from_file("c.yml", "model: m\ndata: d\n").unwrap().config, loaded(&json!({})).config);
}

#[test]
fn the_commented_file_reads_back_as_the_defaults() {
    let text = commented_toml();
    assert_eq!(toml::from_str::<TrainConfig>(&text).unwrap(), TrainConfig::default());
    for key in TrainConfig::KEYS {
        assert!(text.contains(&format!("{} = ", key.name)), "{}", key.name);
    }
    let filled = text.replace("model = \"\"", "model = \"m\"").replace("\ndata = \"\"", "\ndata = \"d\"");
    let filled = filled.replace("# model_config = \"m\"", "");
    let read = from_file("c.toml", &filled).unwrap();
    assert_eq!((read.config, read.notes.len()), (loaded(&json!({})).config, 0));
}

#[test]
fn the_saved_configuration_reads_back_as_itself() {
    for key in TrainConfig::KEYS {
        let mut map = given(&json!({ (key.name): sample(key) }));
        if key.name == "model_config" {
            map.remove("model");
            map.insert("fine_tune_type".into(), "full".into());
        }
        let config = load(None, map).unwrap_or_else(|error| panic!("{}: {error}", key.name)).config;
        assert_eq!(value_of(&config, key.name), sample(key), "{}", key.name);
        assert_eq!(from_file("c.toml", &config.to_toml()).unwrap().config, config, "{}", key.name);
    }
}

#[test]
fn foreign_names_set_their_key_and_leave_a_note() {
    for (index, (name, meaning)) in FOREIGN.iter().enumerate() {
        assert!(!TrainConfig::KEYS.iter().any(|key| key.name == *name), "{name} is also a key of ours");
        assert!(!FOREIGN[..index].iter().any(|(earlier, _)| earlier == name), "{name} is listed twice");
        match meaning {
            Meaning::Same(own) | Meaning::Yields(own) => {
                let key = TrainConfig::KEYS.iter().find(|key| key.name == *own).unwrap_or_else(|| panic!("{name}"));
                let mut map = given(&json!({}));
                map.remove(*own);
                map.insert((*name).to_owned(), sample(key));
                if *own == "double_quant" {
                    map.insert("quantization".to_owned(), json!("nf4"));
                }
                // Without it the key has no effect.
                if let Some(recipe) = Recipe::ALL.into_iter().find(|recipe| recipe.preference_keys().contains(own)) {
                    map.insert("recipe".to_owned(), recipe.name().into());
                }
                let loaded = load(None, map).unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(value_of(&loaded.config, own), sample(key), "{name}");
                assert_eq!(loaded.notes, [format!("`{name}` is read as `{own} = {}`", sample(key))]);
            }
            Meaning::Harmless(why) => {
                for value in [json!(true), json!(false), json!("none"), json!(3), json!({ "a": 1 })] {
                    let loaded = loaded(&json!({ *name: value }));
                    assert_eq!(loaded.config, self::loaded(&json!({})).config, "{name}");
                    assert_eq!(loaded.notes, [format!("`{name}` has no effect: {why}")]);
                }
            }
            Meaning::Only(neutral, why) => {
                for text in *neutral {
                    let loaded = loaded(&json!({ *name: serde_json::from_str(text).unwrap_or_else(|_| json!(text)) }));
                    assert!(loaded.notes.is_empty() && loaded.config == self::loaded(&json!({})).config, "{name}");
                }
                let error = error(&json!({ *name: "else" }));
                assert!(error.starts_with(&format!("`{name}` = \"else\" ")) && error.contains(why), "{error}");
            }
            Meaning::Refused(why) => {
                let error = error(&json!({ *name: 4 }));
                assert!(error.contains(name) && error.contains(why), "{error}");
                for off in [json!(false), json!(0), json!(0.0), json!("none"), json!([]), json!({}), json!(null)] {
                    assert!(loaded(&json!({ *name: off })).notes.is_empty(), "{name}");
                }
            }
            // The test below covers each of these.
            Meaning::Translated => {}
        }
        assert!(loaded(&json!({ *name: null })).notes.is_empty(), "{name}");
    }
}

#[test]
fn values_of_others_are_translated() {
    let cases = [
        (json!({ "datasets": [{ "path": "rows.jsonl", "type": "alpaca" }] }), "data", json!("rows.jsonl")),
        (json!({ "warmup_steps": 5 }), "warmup", json!(5.0)),
        (json!({ "warmup_ratio": 0.1 }), "warmup", json!(0.1)),
        (json!({ "warmup_steps": 0, "warmup_ratio": 0.1 }), "warmup", json!(0.1)),
        (json!({ "warmup_ratio": 0.0, "warmup_steps": 9 }), "warmup", json!(9.0)),
        (json!({ "resume_from_checkpoint": true }), "resume", json!("auto")),
        (json!({ "resume_from_checkpoint": false }), "resume", json!("none")),
        (json!({ "resume_from_checkpoint": "a/checkpoint-5" }), "resume", json!("a/checkpoint-5")),
        (json!({ "grad_checkpoint": "unsloth" }), "grad_checkpoint", json!(true)),
        (json!({ "grad_checkpoint": "none" }), "grad_checkpoint", json!(false)),
        (json!({ "gradient_checkpointing": true }), "grad_checkpoint", json!(true)),
        (json!({ "gradient_checkpointing": "offload" }), "grad_checkpoint", json!(true)),
        (json!({ "use_gradient_checkpointing": "unsloth" }), "grad_checkpoint", json!(true)),
        (json!({ "use_gradient_checkpointing": false }), "grad_checkpoint", json!(false)),
        (json!({ "disable_gradient_checkpointing": false }), "grad_checkpoint", json!(true)),
        (json!({ "disable_gradient_checkpointing": true }), "grad_checkpoint", json!(false)),
        (json!({ "use_unsloth_gc": true }), "grad_checkpoint", json!(true)),
        (json!({ "lora_target_linear": true }), "target_modules", json!("all-linear")),
        (json!({ "lora_target": "all" }), "target_modules", json!("all-linear")),
        (json!({ "lora_target": "q_proj, v_proj" }), "target_modules", json!(["q_proj", "v_proj"])),
        (json!({ "full_finetuning": true }), "fine_tune_type", json!("full")),
        (json!({ "full_finetuning": false }), "fine_tune_type", json!("lora")),
        (json!({ "adapter": "lora" }), "fine_tune_type", json!("lora")),
        (json!({ "train_on_inputs": true }), "mask_prompt", json!(false)),
        (json!({ "train_on_prompt": false }), "mask_prompt", json!(true)),
        (json!({ "eval_strategy": "no" }), "steps_per_eval", json!(0)),
        (json!({ "evaluation_strategy": "steps" }), "steps_per_eval", json!(100)),
        (json!({ "save_strategy": "no" }), "save_every", json!(0)),
        (json!({ "save_strategy": false }), "save_every", json!(0)),
        (json!({ "save_strategy": "epoch" }), "save_every", json!(100)),
        (json!({ "stage": "sft", "bias": "none" }), "adapter", json!(null)),
        (json!({ "dataset": "rows.jsonl" }), "data", json!("rows.jsonl")),
        (json!({ "local_dataset": ["rows.jsonl"] }), "data", json!("rows.jsonl")),
        (json!({ "hf_dataset": { "path": "a/b", "train_split": "train" } }), "data", json!("a/b")),
        (json!({ "datasets": [{ "path": "json", "data_files": "rows.jsonl" }] }), "data", json!("rows.jsonl")),
        (
            json!({ "datasets": [{ "path": "a", "split": "train", "roles_to_train": ["assistant"],
            "message_property_mappings": { "role": "from", "content": "value" } }] }),
            "data",
            json!("a"),
        ),
        (json!({ "auto_resume_from_checkpoints": true }), "resume", json!("auto")),
        (json!({ "disable_shuffling": true }), "shuffle", json!(false)),
        (json!({ "pure_bf16": true }), "dtype", json!("bf16")),
        (json!({ "bfloat16": true, "float16": false }), "dtype", json!("bf16")),
        (json!({ "lora_target_linear": true, "lora_target_modules": ["q_proj"] }), "target_modules", json!("all-linear")),
        (json!({ "lora_target_modules": ["q_proj"], "lora_target_linear": true }), "target_modules", json!("all-linear")),
        (json!({ "optimizer": "adam" }), "weight_decay", json!(0.0)),
        (json!({ "optim": "adamw_8bit" }), "optimizer", json!("adamw8bit")),
        (json!({ "optim": "adamw_bnb_8bit" }), "optimizer", json!("adamw8bit")),
        (json!({ "optimizer": "paged_adamw_8bit" }), "optimizer", json!("adamw8bit")),
        (json!({ "optimizer": "ao_adamw_8bit" }), "optimizer", json!("adamw8bit")),
        (json!({ "optim": "paged_adamw_32bit" }), "optimizer", json!("adamw")),
        (json!({ "loraplus_lr_ratio": 16 }), "lora_plus_ratio", json!(16.0)),
        (json!({ "lora_plus_ratio": 4.0, "loraplus_lr_embedding": 1e-6 }), "lora_plus_ratio", json!(4.0)),
        (json!({ "num_train_epochs": 3.0 }), "epochs", json!(3)),
        (json!({ "load_in_4bit": true, "load_in_8bit": false }), "quantization", json!("nf4")),
        (json!({ "load_in_4bit": false, "load_in_8bit": true }), "quantization", json!("int8")),
        (json!({ "load_in_4bit": false }), "quantization", json!("auto")),
        (json!({ "adapter": "qlora", "load_in_4bit": true }), "quantization", json!("nf4")),
        (json!({ "adapter": "qlora" }), "fine_tune_type", json!("lora")),
        (json!({ "quantization_bit": 4, "quantization_method": "bnb" }), "quantization", json!("nf4")),
        (json!({ "quantization_bit": 8 }), "quantization", json!("int8")),
        (json!({ "quantization": "4bit" }), "quantization", json!("nf4")),
        (json!({ "quantization": "none" }), "quantization", json!("none")),
        (json!({ "quantization": "nf4", "bnb_4bit_use_double_quant": true }), "double_quant", json!(true)),
        (json!({ "quantization_bit": 4, "double_quantization": true }), "double_quant", json!(true)),
        (
            json!({ "quantization_config": { "load_in_4bit": true, "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": true, "bnb_4bit_compute_dtype": "bfloat16" } }),
            "double_quant",
            json!(true),
        ),
        (json!({ "quantization_config": { "load_in_8bit": true } }), "quantization", json!("int8")),
        (json!({ "learning_rate": "1e-5" }), "learning_rate", json!(1e-5)),
        (json!({ "max_steps": "1_000" }), "iters", json!(1000)),
        (json!({ "warmup_ratio": "0.1" }), "warmup", json!(0.1)),
        (json!({ "random_state": 7, "seed": 9 }), "seed", json!(9)),
        (json!({ "max_steps": -1, "lora_layers": -1, "val_batches": -1 }), "iters", json!(0)),
        (json!({ "optim": "adamw_torch_fused" }), "optimizer", json!("adamw")),
        (json!({ "lr_scheduler_type": "constant_with_warmup" }), "lr_scheduler", json!("constant")),
        (json!({ "learning-rate": 1 }), "learning_rate", json!(1.0)),
        (json!({ "bf16": true, "fp16": false }), "dtype", json!("bf16")),
        (json!({ "fp16": true, "bf16": false }), "dtype", json!("f16")),
        (json!({ "bf16": "auto", "fp16": null }), "dtype", json!("auto")),
        (json!({ "dtype": "bfloat16" }), "dtype", json!("bf16")),
        (json!({ "torch_dtype": "float16" }), "dtype", json!("f16")),
        (json!({ "dtype": "float32" }), "dtype", json!("f32")),
    ];
    for (value, key, expected) in cases {
        let mut map = given(&value);
        if ["datasets", "dataset", "local_dataset", "hf_dataset"].iter().any(|key| value.get(key).is_some()) {
            map.remove("data");
        }
        let loaded = load(None, map).unwrap_or_else(|error| panic!("{value}: {error}"));
        assert_eq!(value_of(&loaded.config, key), expected, "{value}");
    }
    for value in [
        json!({ "warmup_ratio": 3 }),
        json!({ "warmup_steps": 0.5 }),
        json!({ "save_strategy": "best" }),
        json!({ "stage": "ppo" }),
        json!({ "pref_loss": "kto_pair" }),
        json!({ "rl": "grpo" }),
        json!({ "loss_type": ["sigmoid", "sft"] }),
        json!({ "bias": "all" }),
        json!({ "datasets": [{ "path": "a" }, { "path": "b" }] }),
        json!({ "datasets": ["a"] }),
        json!({ "datasets": "a" }),
        json!({ "train_on_inputs": "no" }),
        json!({ "datasets": [{ "path": "a", "split": "train[:5%]" }] }),
        json!({ "datasets": [{ "path": "a", "roles_to_train": ["user"] }] }),
        json!({ "datasets": [{ "path": "a", "drop_system_message": true }] }),
        json!({ "datasets": [{ "path": "json", "data_files": ["a", "b"] }] }),
        json!({ "hf_dataset": { "path": "a", "prompt_feature": 7 } }),
        json!({ "dataset": "identity,alpaca_en_demo" }),
        json!({ "optim": "adafactor" }),
        json!({ "optim": "adamw_torch_4bit" }),
        json!({ "embedding_lr": 1e-5 }),
        json!({ "learning_rate": "fast" }),
        json!({ "num_train_epochs": 0.5 }),
        json!({ "bf16": "full" }),
    ] {
        let name = value.as_object().and_then(|map| map.keys().next()).cloned().unwrap();
        assert!(error(&value).starts_with(&format!("`{name}` ")), "{value}: {}", error(&value));
    }
}

#[test]
fn the_scale_of_mlx_is_not_alpha() {
    let parameters = json!({ "rank": 8, "scale": 20.0, "dropout": 0.1, "keys": ["self_attn.q_proj"] });
    let loaded = loaded(&json!({ "lora_parameters": parameters, "iters": 600, "grad_accumulation_steps": 4 }));
    let config = loaded.config;
    assert_eq!((config.rank, config.alpha, config.dropout, config.lora().scale()), (8, 160.0, 0.1, 20.0));
    assert_eq!(config.target_modules, TargetModules::Named(vec!["self_attn.q_proj".to_owned()]));
    assert!(loaded.notes[0].contains("`alpha = 160.0`") && loaded.notes[0].contains("scale * rank"), "{:?}", loaded.notes);
    // In mlx-lm 600 micro-batches are 150 updates.
    assert_eq!(config.iters, 150);
    assert!(loaded.notes[1].contains("mlx-lm counts micro-batches"), "{:?}", loaded.notes);
    assert!(error(&json!({ "lora_parameters": { "rank": "many" } })).contains("`rank = \"many\"`"));
    assert!(error(&json!({ "lora_parameters": { "rnak": 8 } })).contains("`rnak`"));
    assert!(error(&json!({ "lora_parameters": 8 })).contains("a table"));
}

#[test]
fn an_unknown_key_suggests_the_nearest() {
    for (wrong, right) in [
        ("learning_rte", "learning_rate"),
        ("batchsize", "batch_size"),
        ("max_seq_len", "max_seq_length"),
        ("gradient_accumulation", "gradient_accumulation_steps"),
        ("lora_rnak", "lora_rank"),
        ("modle", "model"),
        ("seeds", "seed"),
    ] {
        match from_file("c.toml", &format!("model = 'm'\ndata = 'd'\n{wrong} = 1\n")).unwrap_err() {
            ConfigError::UnknownKey { place, key, nearest } => {
                assert_eq!((key.as_str(), nearest.as_deref()), (wrong, Some(right)));
                assert!(place.ends_with("c.toml: "), "{place}");
            }
            other => panic!("{other}"),
        }
    }
    let far = load(None, given(&json!({ "zzz": 1 }))).unwrap_err();
    assert!(matches!(far, ConfigError::UnknownKey { nearest: None, .. }), "{far}");
    let several = error(&json!({ "rnak": 1, "packing": "yes", "neftune_noise_alpha": 5 }));
    assert!(
        ["did you mean `rank`?", "`packing` should be true or false, got \"yes\"", "`neftune_noise_alpha`"]
            .iter()
            .all(|part| several.contains(part)),
        "{several}"
    );
}

#[test]
fn quantised_weights_are_frozen_and_of_a_known_kind() {
    for (given, expected) in [
        (json!({ "fine_tune_type": "full", "quantization": "nf4" }), "expected `quantization = \"none\"`"),
        (json!({ "fine_tune_type": "full", "quantization": "int8" }), "expected `quantization = \"none\"`"),
        (json!({ "fine_tune_type": "full", "quantize_embedding": true }), "`quantize_embedding` needs"),
        (json!({ "quantization": "fp4" }), "should be one of auto, none, nf4, int4, int8, got \"fp4\""),
        (json!({ "quantization": "q4_k_m" }), "`burnish export --quant` writes a GGUF file"),
        (json!({ "load_in_4bit": true, "load_in_8bit": true }), "both set `quantization`"),
        (json!({ "load_in_4bit": true, "quantization": "int4" }), "both set `quantization`"),
        (json!({ "load_in_4bit": "maybe" }), "true or false"),
        (json!({ "quantization_bit": 3 }), "4 or 8"),
        (json!({ "bnb_4bit_quant_type": "fp4" }), "`bnb_4bit_quant_type` = \"fp4\" is not supported"),
        (json!({ "quantization_config": { "load_in_4bit": true, "bnb_4bit_quant_type": "fp4" } }), "expected \"nf4\""),
        (json!({ "quantization_config": { "quant_method": "gptq" } }), "expected \"bitsandbytes\""),
    ] {
        let said = error(&given);
        assert!(said.contains(expected), "{given}: {said}");
    }
    let full = loaded(&json!({ "fine_tune_type": "full" })).config;
    assert!(!full.storage().packs_floats());
    let notes = loaded(&json!({ "double_quant": true })).notes;
    assert!(notes.iter().any(|note| note.contains("`double_quant` has no effect")), "{notes:?}");
}

#[test]
fn two_names_of_a_key_must_agree() {
    let both = error(&json!({ "r": 8, "lora_rank": 16 }));
    assert!(both.contains("`rank`") && both.contains("`r` is 8"), "{both}");
    assert_eq!(loaded(&json!({ "r": 8, "lora_rank": 8 })).config.rank, 8);
    let notes = loaded(&json!({ "num_train_epochs": 3, "max_steps": 60 })).notes;
    assert!(notes.iter().any(|note| note.contains("`epochs` has no effect")), "{notes:?}");
}

#[test]
fn wrong_types_and_ranges_are_reported_together() {
    for (value, expected) in [
        (json!({ "rank": "many" }), "`rank` should be a whole number, 0 or more, got \"many\""),
        (json!({ "rank": -3 }), "`rank` should be a whole number, 0 or more, got -3"),
        (json!({ "rank": 2.5 }), "`rank` should be a whole number, 0 or more, got 2.5"),
        (json!({ "packing": 1 }), "`packing` should be true or false, got 1"),
        (json!({ "model": 3 }), "`model` should be a string, got 3"),
        (json!({ "target_modules": [1] }), "a list of strings"),
        (json!({ "target_modules": [] }), "`target_modules` is empty"),
        (json!({ "lr_scheduler": "zigzag" }), "constant, linear, cosine"),
        (json!({ "backend": "gpu" }), "auto, cpu, candle, ndarray, tch, wgpu, metal, vulkan"),
        (json!({ "dtype": "f64" }), "auto, f32, f16, bf16"),
        (json!({ "optimizer": "sgd" }), "one of adamw, adamw8bit, got"),
        (json!({ "lora_plus_ratio": 0 }), "`lora_plus_ratio` should be positive, got 0"),
        (json!({ "lora_plus_ratio": 16, "fine_tune_type": "full" }), "`lora_plus_ratio` needs"),
        (json!({ "epochs": 0 }), "both 0"),
        (json!({ "warmup": 1.5 }), "or a whole number of steps, got 1.5"),
        (json!({ "batch_size": u64::MAX }), "`batch_size` should be at most 1000000000, got 18446744073709551615"),
        (json!({ "seed": u64::MAX }), "`seed`"),
        (json!({ "early_stopping": 2, "steps_per_eval": 0 }), "`early_stopping` needs a validation loss"),
        (json!({ "model_config": "c" }), "exclude each other"),
        (json!({ "adapter": "a", "fine_tune_type": "full" }), "`adapter` needs"),
    ] {
        let error = error(&value);
        assert!(error.contains(expected), "{value}: {error}");
    }
    let all = load(None, json!({ "batch_size": 0, "dropout": 1.5, "alpha": 0 }).as_object().cloned().unwrap()).unwrap_err();
    let all = all.to_string();
    for part in [
        "`model` is missing",
        "`data` is missing",
        "`batch_size` should be at least 1",
        "below 1, got 1.5",
        "`alpha` should be positive",
    ] {
        assert!(all.contains(part), "{all}");
    }
}

#[test]
fn invalid_files_are_refused() {
    let error = |name: &str, text: &str| from_file(name, text).unwrap_err().to_string();
    assert!(error("c.toml", "model = 'm'\nrank = = 3\n").contains("line 2"));
    assert!(error("c.toml", "learning_rate = nan\n").contains("`learning_rate` is not a finite number"));
    assert!(error("c.yaml", "- a\n- b\n").contains("expected a table"));
    assert!(error("c.yaml", "model: [\n").contains("c.yaml"));
    assert!(matches!(load(Some(std::path::Path::new("no/such.toml")), Map::new()), Err(ConfigError::Io { .. })));
    assert!(error("c.yaml", "").contains("`model` is missing"));
}

#[test]
fn an_adapter_gives_its_values() {
    let json = r#"{"peft_type": "LORA", "r": 3, "lora_alpha": 5, "target_modules": ["q_proj"], "use_rslora": true}"#;
    let (folder, _) = written("adapter_config.json", json);
    let adapter = folder.path().display().to_string();
    let given = json!({
        "adapter": adapter, "rank": 8, "alpha": 99, "target_modules": ["v_proj"], "dora": true, "init": "pissa", "num_layers": 2,
        "dropout": 0.1,
    });
    let Loaded { config, mut notes, .. } = loaded(&given);
    notes.sort();
    let unread = ["alpha", "dora", "init", "num_layers", "rank", "target_modules"];
    assert_eq!(notes, unread.map(|key| format!("`{key}` has no effect, because `adapter` gives it")));
    let found = (config.rank, config.alpha, config.rslora, config.dora, config.num_layers, config.dropout);
    assert_eq!(found, (3, 5.0, true, false, 0, 0.1));
    assert_eq!((config.init, config.target_modules.list()), (burnish_lora::Init::Default, vec!["q_proj".to_owned()]));
    // The configuration that is saved says nothing, and neither do another program's defaults.
    let (_kept, path) = written("c.toml", &config.to_toml());
    assert_eq!(load(Some(&path), Map::new()).unwrap().notes, [""; 0]);
    let theirs = from_file("c.yaml", &format!("model: m\ndata: d\nstage: sft\nadapter_name_or_path: {adapter}\n")).unwrap();
    assert!(theirs.config.rank == 3 && !theirs.notes.iter().any(|note| note.contains("rank")), "{theirs:?}");
}
