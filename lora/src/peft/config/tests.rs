use super::*;

fn read_config(folder: &Path) -> Result<LoraConfig> {
    Ok(read_stored(folder)?.converted())
}

#[test]
fn adapted_layers_are_described_as_peft_reads_them() {
    let name = |block: usize, part: &str| format!("model.layers.{block}.self_attn.{part}");
    let layers: Vec<String> = (0..3).flat_map(|block| ["q_proj", "v_proj"].map(|part| name(block, part))).collect();
    let of = |names: &[String]| AdaptedLayers::new(names, &layers);
    let parts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let all = AdaptedLayers {
        target_modules: parts(&["q_proj", "v_proj"]),
        layers_to_transform: None,
        is_tied: false,
        target_parameters: Vec::new(),
    };
    assert_eq!(of(&layers), all);
    let some = [name(0, "v_proj"), name(2, "v_proj")];
    assert_eq!(
        of(&some),
        AdaptedLayers {
            target_modules: parts(&["v_proj"]),
            layers_to_transform: Some(vec![0, 2]),
            is_tied: false,
            target_parameters: Vec::new()
        }
    );
    let mixed = [name(0, "q_proj"), name(1, "v_proj")];
    assert_eq!(
        of(&mixed),
        AdaptedLayers {
            target_modules: mixed.to_vec(),
            layers_to_transform: None,
            is_tied: false,
            target_parameters: Vec::new()
        }
    );
}

#[test]
fn parameters_are_named_within_a_block_where_all_blocks_have_them() {
    let name = |block: usize, part: &str| format!("model.layers.{block}.mlp.{part}");
    let all: Vec<String> =
        [name(1, "experts.down_proj"), name(3, "experts.down_proj"), name(1, "gate.weight"), name(3, "gate.weight")].into();
    assert_eq!(AdaptedLayers::parameters(&all, &all), ["mlp.experts.down_proj", "mlp.gate.weight"]);
    assert_eq!(AdaptedLayers::parameters(&all[1..3], &all), [name(1, "gate.weight"), name(3, "experts.down_proj")]);
    assert!(AdaptedLayers::parameters(&[], &all).is_empty());
}

#[test]
fn without_target_modules_only_parameters_are_targets() {
    let mut json = plain();
    json["target_parameters"] = json!(["mlp.experts.down_proj"]);
    assert_eq!(read_json(&json).unwrap().target_modules.list(), ["q_proj"]);
    json["target_modules"] = json!(null);
    let config = read_json(&json).unwrap();
    assert!(config.target_modules.list().is_empty() && config.target_parameters == ["mlp.experts.down_proj"]);
    json["lora_dropout"] = json!(0.1);
    assert!(read_json(&json).unwrap_err().to_string().contains("dropout"));
    json["target_parameters"] = json!("mlp.experts.down_proj");
    assert!(read_json(&json).unwrap_err().to_string().contains("`target_parameters`: expected a list of names"));
}

fn folder(files: &[(&str, String)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn read_json(json: &Value) -> Result<LoraConfig> {
    read_config(folder(&[(CONFIG, json.to_string())]).path())
}

fn plain() -> Value {
    json!({ "peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "init_lora_weights": true })
}

#[test]
fn keys_that_change_the_computation_are_refused() {
    assert_eq!(read_json(&plain()).unwrap().scale().to_string(), "2");
    for (key, value) in [("init_lora_weights", json!("pissa_niter_4")), ("layer_replication", json!([[0, 3], [2, 4]]))] {
        let mut config = plain();
        config[key] = value;
        let error = read_json(&config).unwrap_err().to_string();
        assert!(error.contains(CONFIG) && error.contains(&format!("`{key}`")), "{error}");
    }
}

#[test]
fn patterns_of_ranks_and_alphas_are_read_and_written() {
    let mut json = plain();
    json["rank_pattern"] = json!({ "q_proj": 4, "layers.1.mlp.up_proj": 2 });
    json["alpha_pattern"] = json!({ "^model.layers.0.*": 32, "layers.1.self_attn.q_proj": 2.5 });
    let config = read_json(&json).unwrap();
    for (layer, rank, scale) in [
        ("model.layers.0.self_attn.q_proj", 4, 8.0),
        ("model.layers.1.self_attn.q_proj", 4, 0.625),
        ("model.layers.1.mlp.up_proj", 2, 8.0),
        ("model.layers.1.mlp.gate_proj", 8, 2.0),
    ] {
        assert_eq!((config.rank_of(layer), config.scale_of(layer)), (rank, scale), "{layer}");
    }
    let rslora = LoraConfig { rslora: true, ..config.clone() };
    assert_eq!(rslora.scale_of("model.layers.0.self_attn.q_proj").to_string(), "16");
    let written = to_json(
        &config,
        "m",
        &AdaptedLayers {
            target_modules: vec!["q_proj".into()],
            layers_to_transform: None,
            is_tied: false,
            target_parameters: Vec::new(),
        },
    );
    assert_eq!(read_json(&written).unwrap(), config);
    for wrong in [json!({ "q_proj": 0 }), json!({ "q_proj": "4" }), json!({ "(": 4 }), json!([4])] {
        json["rank_pattern"] = wrong;
        assert!(read_json(&json).unwrap_err().to_string().contains("`rank_pattern`"));
    }
}

#[test]
fn whole_numbers_are_written_as_integers() {
    let adapted = AdaptedLayers {
        target_modules: Vec::new(),
        layers_to_transform: None,
        is_tied: false,
        target_parameters: Vec::new(),
    };
    let alpha =
        |alpha: f64| to_json(&LoraConfig { alpha, ..LoraConfig::default() }, "m", &adapted)["lora_alpha"].to_string();
    assert_eq!((alpha(16.0), alpha(0.5), alpha(1e300)), ("16".into(), "0.5".into(), "1e+300".into()));
}

#[test]
fn an_error_says_what_another_kind_of_folder_is() {
    let error = |files: &[(&str, String)]| read_config(folder(files).path()).unwrap_err().to_string();
    assert!(error(&[("adapters.safetensors", String::new())]).contains("is an MLX adapter without"));
    assert!(error(&[("config.json", String::new())]).contains("is a model"));
    assert!(error(&[("adapter/adapter_config.json", String::new())]).contains("run folder"));
    assert!(error(&[(CONFIG, json!({ "peft_type": "LOHA" }).to_string())]).contains("LOHA"));
    assert!(matches!(read_config(Path::new("/nonexistent")), Err(LoraError::Io { .. })));
    let mut json = plain();
    json["modules_to_save"] = json!("lm_head");
    let text = read_json(&json).unwrap_err().to_string();
    assert!(text.contains("`modules_to_save`: expected a list of names, got \"lm_head\""), "{text}");
}

#[test]
fn unknown_keys_are_reported() {
    let mut json = plain();
    json["new_group_size"] = json!(4);
    let folder = folder(&[(CONFIG, json.to_string())]);
    let notes = config_notes(folder.path()).unwrap();
    assert!(notes.len() == 1 && notes[0].contains("`new_group_size`"), "{notes:?}");
}
