//! Keys of preferences in files of other programs.

use super::peers::{read, refused};
use super::*;

#[test]
fn preferences_of_other_programs() {
    let of = |text: &str| {
        let TrainConfig { recipe, loss_type, beta, .. } = read(text).config;
        (recipe.name(), loss_type.name(), beta)
    };
    assert_eq!(of("stage: dpo\npref_beta: 0.2\n"), ("dpo", "auto", 0.2));
    assert_eq!(of("stage: dpo\npref_loss: ipo\n"), ("dpo", "ipo", 0.1));
    // `pref_loss` may name a recipe, in any order.
    assert_eq!(of("stage: dpo\npref_loss: orpo\n"), ("orpo", "auto", 0.1));
    assert_eq!(of("pref_loss: simpo\nstage: dpo\n"), ("simpo", "auto", 0.1));
    assert_eq!(of("rl: ipo\nrl_beta: 0.3\n"), ("dpo", "ipo", 0.3));
    assert_eq!(of("rl: orpo\norpo_alpha: 0.4\n"), ("orpo", "auto", 0.4));
    assert_eq!(of("rl: simpo\n"), ("cpo", "simpo", 0.1));
    assert_eq!(of("rl: false\nloss_type: chunked_nll\n"), ("sft", "auto", 0.1));
    assert_eq!(of("recipe: dpo\nloss_type: [robust]\n"), ("dpo", "robust", 0.1));
    let factory = read("stage: kto\nkto_chosen_weight: 1.5\nkto_rejected_weight: 0.5\n").config;
    let axolotl = read("rl: kto\nkto_desirable_weight: 1.5\nkto_undesirable_weight: 0.5\n").config;
    for TrainConfig { recipe, desirable_weight, undesirable_weight, .. } in [factory, axolotl] {
        assert_eq!((recipe, desirable_weight, undesirable_weight), (Recipe::Kto, 1.5, 0.5));
    }
    let ftx = read("stage: dpo\npref_ftx: 0.25\nsimpo_gamma: 0.7\n");
    assert_eq!((ftx.config.rpo_alpha, ftx.config.simpo_gamma), (0.25, 0.7));
    assert!(ftx.notes.iter().any(|note| note == "`simpo_gamma` has no effect, because `recipe` is dpo"), "{ftx:?}");
    for (text, word) in [
        ("stage: ppo\n", "sft, dpo or kto"),
        ("pref_loss: kto_pair\n", "sigmoid, hinge"),
        ("dpo_label_smoothing: 0.1\n", "robust"),
        ("ref_model: m\n", "start of the run"),
        ("loss_type: [sigmoid, sft]\n", "rpo_alpha"),
    ] {
        let error = refused(text);
        assert!(error.contains(word), "{text}: {error}");
    }
}

#[test]
fn a_wrong_loss_is_told_once() {
    for recipe in ["orpo", "sft"] {
        // The recipe's own check refuses it.
        assert!(loaded(&json!({ "recipe": recipe, "loss_type": "ipo" })).notes.is_empty());
    }
    let smooth = |recipe: &str| loaded(&json!({ "recipe": recipe, "label_smoothing": 0.1 })).notes.len();
    assert_eq!((smooth("sft"), smooth("orpo")), (1, 0));
    let error = error(&json!({ "recipe": "kto", "loss_type": "nonsense" }));
    assert!(error.contains("should be one of auto, kto, apo_zero_unpaired, got"), "{error}");
    let of_file = refused("recipe: cpo\nloss_type: nonsense\n");
    assert!(of_file.contains("one of auto, sigmoid, ") && !of_file.contains("robust"), "{of_file}");
}

#[test]
fn preference_losses_of_llama_factory() {
    let has = |loaded: &Loaded, note: &str| loaded.notes.iter().any(|found| found.contains(note));
    let orpo = read("stage: dpo\npref_loss: orpo\n");
    assert!(has(&orpo, "LLaMA-Factory learns the answers only"), "{orpo:?}");
    for text in ["stage: dpo\npref_loss: simpo\npref_ftx: 0.25\n", "pref_ftx: 0.25\npref_loss: simpo\nstage: dpo\n"] {
        let cpo = read(text);
        let TrainConfig { recipe, loss_type, cpo_alpha, rpo_alpha, .. } = cpo.config;
        assert_eq!((recipe, loss_type, cpo_alpha, rpo_alpha), (Recipe::Cpo, LossType::Simpo, 0.25, 0.0));
        assert!(has(&cpo, "`pref_loss` simpo with `pref_ftx` is read as `recipe = \"cpo\"`"), "{cpo:?}");
    }
    assert_eq!(read("stage: dpo\npref_loss: simpo\npref_ftx: 0\n").config.recipe, Recipe::Simpo);
    for (stage, recipe) in [("sft", Recipe::Sft), ("kto", Recipe::Kto)] {
        for loss in ["orpo", "sigmoid"] {
            let other = read(&format!("pref_loss: {loss}\nstage: {stage}\n"));
            assert_eq!((other.config.recipe, other.config.loss_type), (recipe, LossType::Auto));
            assert!(has(&other, &format!("`pref_loss` has no effect: `stage` is {stage}")), "{other:?}");
        }
    }
    for text in ["stage: dpo\npref_loss: orpo\npref_ftx: 0.5\n", "stage: kto\npref_ftx: 0.5\n"] {
        let error = refused(text);
        assert!(error.starts_with("`pref_ftx` = 0.5 is not supported"), "{text}: {error}");
    }
}

#[test]
fn trainers_of_preferences_have_no_dropout() {
    let note = |loaded: &Loaded| loaded.notes.iter().any(|note| note.starts_with("`dropout = 0.0`, because"));
    for text in [
        "stage: dpo\n",
        "stage: kto\n",
        "stage: dpo\npref_loss: orpo\n",
        "stage: dpo\npref_loss: simpo\npref_ftx: 1\n",
        "sequence_len: 64\nadapter: lora\nrl: dpo\n",
        "sequence_len: 64\nadapter: lora\nrl: simpo\n",
    ] {
        let loaded = read(&format!("lora_dropout: 0.1\n{text}"));
        assert!(loaded.config.dropout.abs() < 1e-12 && note(&loaded), "{text}: {loaded:?}");
    }
    // Other recipes and files keep it.
    for text in ["stage: sft\n", "sequence_len: 64\nadapter: lora\n", "recipe: dpo\n"] {
        let loaded = read(&format!("lora_dropout: 0.1\n{text}"));
        assert!((loaded.config.dropout - 0.1).abs() < 1e-12 && !note(&loaded), "{text}: {loaded:?}");
    }
}
