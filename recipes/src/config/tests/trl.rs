//! Files of TRL, whose meaning depends on the recipe, on each other and on the rows.

use super::*;

/// A file of TRL with a data set of one row, for a recipe.
fn read(recipe: &str, row: &Value, text: &str) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    let (data, file) = (folder.path().join("rows.jsonl"), folder.path().join("c.yaml"));
    std::fs::write(&data, format!("{row}\n")).unwrap();
    std::fs::write(&file, format!("model_name_or_path: m\ndataset_name: {}\n{text}", data.display())).unwrap();
    load(Some(&file), json!({ "recipe": recipe }).as_object().cloned().unwrap()).unwrap()
}

fn chat() -> Value {
    json!({ "messages": [{ "role": "user", "content": "a" }, { "role": "assistant", "content": "b" }] })
}

#[test]
fn missing_keys_have_the_defaults_of_the_recipe() {
    let sft = read("sft", &chat(), "use_peft: true\n").config;
    assert_eq!((sft.rank, sft.alpha, sft.dropout, sft.learning_rate), (16, 32.0, 0.05, 2e-5));
    assert_eq!((sft.batch_size, sft.epochs, sft.max_seq_length, sft.weight_decay), (8, 3, 1024, 0.0));
    assert_eq!(value_of(&sft, "target_modules"), json!(["q_proj", "v_proj"]));
    assert!(sft.lr_scheduler == LrScheduler::Linear && sft.grad_checkpoint && sft.shuffle);
    let dpo = read("dpo", &json!({ "prompt": "a", "chosen": "b", "rejected": "c" }), "use_peft: true\nlora_dropout: 0.1\n");
    assert_eq!((dpo.config.learning_rate, dpo.config.dropout), (1e-6, 0.0));
    assert!(dpo.notes.iter().any(|note| note.starts_with("`dropout = 0.0`, because `disable_dropout`")), "{:?}", dpo.notes);
    let kept = read("dpo", &chat(), "use_peft: true\nlora_dropout: 0.1\ndisable_dropout: false\n").config;
    assert!((kept.dropout - 0.1).abs() < 1e-12);
    assert!(!read("kto", &chat(), "use_peft: true\n").config.shuffle);
    let full = read("sft", &chat(), "max_length: 512\n");
    assert_eq!((full.config.fine_tune_type, full.config.max_seq_length), (FineTuneType::Full, 512));
    assert!(
        full.notes.iter().any(|note| note.contains("without `use_peft: true` TRL trains every weight")),
        "{:?}",
        full.notes
    );
    assert!(full.notes.iter().any(|note| note.contains("at its default of 1024 tokens")), "{:?}", full.notes);
}

#[test]
fn what_is_learned_depends_on_the_rows() {
    let completion = json!({ "prompt": "a", "completion": "b" });
    for (row, text, masks) in [
        (&chat(), "", false),
        (&chat(), "assistant_only_loss: true\n", true),
        (&completion, "", true),
        (&completion, "completion_only_loss: false\n", false),
        (&completion, "completion_only_loss: true\nassistant_only_loss: false\n", true),
        (&chat(), "assistant_only_loss: null\ncompletion_only_loss: null\n", false),
    ] {
        let Loaded { config, notes, .. } = read("sft", row, &format!("use_peft: true\n{text}"));
        assert_eq!(config.mask_prompt, masks, "{row} {text}");
        assert_eq!(notes.iter().filter(|note| note.starts_with("`mask_prompt = ")).count(), 1, "{notes:?}");
    }
    let text = "model_name_or_path: m\ndataset_name: some/set\nuse_peft: true\n";
    let unknown = from_file("c.yaml", text).unwrap();
    assert!(unknown.config.mask_prompt && unknown.notes.iter().any(|note| note.contains("is not known yet")));
}

#[test]
fn alpha_is_part_of_a_loss() {
    let of = |text: &str| from_file("c.yaml", &format!("model_name_or_path: m\ndataset_name: d\nuse_peft: true\n{text}"));
    assert!((of("alpha: 0.0\nlora_alpha: 8\n").unwrap().config.alpha - 8.0).abs() < 1e-12);
    let error = of("alpha: 0.25\n").unwrap_err().to_string();
    assert!(error.contains("`alpha` = 0.25 is AlphaPO's in TRL") && error.contains("lora_alpha"), "{error}");
}
