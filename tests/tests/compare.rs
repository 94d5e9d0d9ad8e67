//! `burnish eval --compare`, `eval --task` and `report` on the model of the quickstart.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use burnish_tests::{burnish, fixture, text};
use safetensors::SafeTensors;
use serde_json::{Value, json};

fn program() -> Command {
    burnish(env!("CARGO_BIN_EXE_burnish-under-test"))
}

fn assets(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/assets/quickstart").join(name).display().to_string()
}

/// Runs the program, and returns what it printed to stdout.
fn succeeds(arguments: &[&str]) -> String {
    let output = program().args(arguments).output().unwrap();
    let (stdout, stderr) = text(&output);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    stdout
}

fn fails(arguments: &[&str], words: &[&str]) {
    let output = program().args(arguments).output().unwrap();
    let (_, stderr) = text(&output);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
    for word in [&["error: ", "hint: "], words].concat() {
        assert!(stderr.contains(word), "{arguments:?} does not say `{word}`: {stderr}");
    }
}

fn json_of(arguments: &[&str]) -> Value {
    serde_json::from_str(&succeeds(&[&["--json"], arguments].concat())).unwrap()
}

/// A short run with validations and samples, made once for all tests.
fn run() -> &'static Path {
    static RUN: OnceLock<PathBuf> = OnceLock::new();
    RUN.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("burnish-compare-{}", std::process::id()));
        fs::remove_dir_all(&folder).ok();
        let run = folder.join("run <&> 1");
        let (model, data, output) = (assets("model"), assets("data"), run.display().to_string());
        let given = ["train", "--model", &model, "--data", &data, "--output-dir", &output, "--backend", "cpu"];
        let steps = ["--iters", "40", "--batch-size", "16", "--learning-rate", "4e-3", "--max-seq-length", "128"];
        let kept = ["--steps-per-eval", "20", "--save-every", "20", "--samples", "3"];
        succeeds(&[&given[..], &steps, &kept].concat());
        run
    })
}

/// A copy of an adapter whose `lora_B` are all zero.
fn planted(adapter: &Path, target: &Path) {
    fs::create_dir_all(target).unwrap();
    fs::copy(adapter.join("adapter_config.json"), target.join("adapter_config.json")).unwrap();
    let mut bytes = fs::read(adapter.join("adapter_model.safetensors")).unwrap();
    let spans: Vec<(usize, usize)> = {
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let start = bytes.as_ptr() as usize;
        let of = |name: &str| {
            let data = file.tensor(name).unwrap().data().as_ptr_range();
            (data.start as usize - start, data.end as usize - start)
        };
        file.names().into_iter().filter(|name| name.contains("lora_B")).map(of).collect()
    };
    assert!(!spans.is_empty());
    for (start, end) in spans {
        bytes[start..end].fill(0);
    }
    fs::write(target.join("adapter_model.safetensors"), bytes).unwrap();
}

#[test]
fn a_planted_adapter_without_effect_is_found_and_so_is_an_improvement() {
    let folder = tempfile::tempdir().unwrap();
    let noop = folder.path().join("noop");
    planted(&run().join("adapter"), &noop);
    let (model, data, task) = (assets("model"), assets("data"), fixture("choices/task.jsonl").display().to_string());
    let (adapter, noop) = (run().join("adapter").display().to_string(), noop.display().to_string());
    let run = run().display().to_string();
    let compare = ["eval", "--backend", "cpu", "--compare", &model, &adapter, &noop, &run, &model, "--data", &data];
    let arguments = [&compare[..], &["--task", &task, "--answers", "6", "--resamples", "1000"]].concat();
    let found = json_of(&arguments);
    let of = |index: usize| &found["models"][index];
    assert_eq!(found["data"]["rows"], 100);
    // The trained adapter.
    let difference = &of(1)["loss"]["difference"];
    let ends = [&difference["interval"][0], &difference["interval"][1]].map(|end| end.as_f64().unwrap());
    assert!(ends[0] < ends[1] && ends[1] < -0.5, "{difference}");
    assert!(of(1)["perplexity"]["value"].as_f64() < of(0)["perplexity"]["interval"][0].as_f64(), "{found}");
    assert_eq!((&of(1)["no_effect"], &of(1)["zero_adapter"]), (&json!(false), &json!(false)));
    assert!(of(1)["largest_change"].as_f64().unwrap() > 0.5);
    // The planted one, and the base itself as a model.
    for (index, zero) in [(2, json!(true)), (4, Value::Null)] {
        assert_eq!((&of(index)["no_effect"], &of(index)["identical"]), (&json!(true), &json!(true)), "{}", of(index));
        assert_eq!(of(index)["zero_adapter"], zero);
        assert_eq!(of(index)["loss"]["difference"]["interval"], json!([0.0, 0.0]));
    }
    // The run stands for its adapter.
    assert_eq!(of(3)["loss"], of(1)["loss"]);
    assert_eq!((&of(0)["no_effect"], &of(0)["exact_match"]["asked"]), (&Value::Null, &json!(6)));
    for answered in found["answers"].as_array().unwrap() {
        let answers = answered["answers"].as_array().unwrap();
        assert_eq!((answers.len(), &answers[2], &answers[3]), (5, &answers[0], &answers[1]));
    }
    let asked = found["questions"].as_array().unwrap();
    assert!(asked.iter().all(|asked| asked["models"][2] == asked["models"][0] && asked["models"][1] != asked["models"][0]));
    // The same losses as without a comparison.
    let alone = json_of(&["eval", "--backend", "cpu", "--model", &model, "--adapter", &adapter, "--data", &data]);
    let (one, other) = (alone["loss"].as_f64().unwrap(), of(1)["loss"]["mean"]["value"].as_f64().unwrap());
    assert!((one - other).abs() < 1e-5 && alone["tokens"] == found["data"]["tokens"], "{one} {other}");
    // The same numbers again, and as text.
    assert_eq!(json_of(&arguments), found);
    let shown = succeeds(&arguments);
    let warning = format!("WARNING: {noop} changes nothing: its update of every matrix is zero");
    assert!(shown.contains(&warning) && shown.contains("NO EFFECT") && shown.contains("  better"), "{shown}");
    assert!(!shown.contains(&format!("WARNING: {adapter}")), "{shown}");
}

#[test]
fn questions_are_scored_as_by_the_evaluation_harness() {
    let (model, task) = (assets("model"), fixture("choices/task.jsonl").display().to_string());
    let expected: Value = serde_json::from_str(&fs::read_to_string(fixture("choices/scores.json")).unwrap()).unwrap();
    for (kind, more) in [("plain", &[][..]), ("chat", &["--apply-chat-template"])] {
        let asked = ["eval", "--backend", "cpu", "--model", &model, "--task", &task];
        let found = json_of(&[&asked[..], more].concat());
        let (questions, expected) = (found["task"]["questions"].as_array().unwrap(), expected[kind].as_array().unwrap());
        assert_eq!(questions.len(), expected.len());
        let mut right = [0; 3];
        for (index, (question, expected)) in questions.iter().zip(expected).enumerate() {
            let own = &question["models"][0];
            let sums = |value: &Value| -> Vec<f64> {
                value["log_likelihoods"].as_array().unwrap().iter().map(|sum| sum.as_f64().unwrap()).collect()
            };
            let (one, other) = (sums(own), sums(expected));
            let near = one.iter().zip(&other).all(|(one, other)| (one - other).abs() < 1e-4 * (1.0 + other.abs()));
            assert!(one.len() == other.len() && near, "{kind} {index}: {one:?}, expected {other:?}");
            for (right, metric) in right.iter_mut().zip(["acc", "acc_norm", "acc_bytes"]) {
                assert_eq!(own[metric], expected[metric], "{kind} {index} {metric}");
                *right += usize::from(expected[metric] == true);
            }
        }
        let scores = &found["task"]["scores"];
        assert_eq!(
            right.map(|right| json!(right)),
            ["acc", "acc_norm", "acc_bytes"].map(|key| scores[key]["right"].clone())
        );
        assert!(kind == "chat" || right[1] != right[2], "the fixture tells characters from bytes");
    }
}

#[test]
fn what_can_not_be_compared_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (model, data) = (assets("model"), assets("data"));
    let adapter = run().join("adapter").display().to_string();
    for (row, words) in [
        (r#"{"question": "a", "choices": ["b", "c"], "answer": 2}"#, "`answer` is 2, but there are 2 choices"),
        (r#"{"question": "a", "choices": ["b", "c"], "answer": "green"}"#, "which is none of the choices"),
        (r#"{"question": "a", "answer": 0}"#, "expected one of the keys choices, options, endings"),
        ("nonsense", "not JSON"),
    ] {
        let good = r#"{"question": "a", "choices": ["b", "c"], "answer": 0}"#;
        let task = file("task.jsonl", &format!("{good}\n{row}\n"));
        fails(&["eval", "--model", &model, "--task", &task], &["task.jsonl:2: ", words]);
    }
    let compare = |other: &str, words: &[&str]| {
        fails(&["eval", "--backend", "cpu", "--compare", &model, &adapter, other, "--data", &data], words);
    };
    compare(&fixture("parity/llama/adapter").display().to_string(), &["does not fit this model"]);
    // A tokenizer beside the adapter that gives other tokens.
    let own = folder.path().join("own");
    planted(&run().join("adapter"), &own);
    let tokenizer = fs::read_to_string(Path::new(&model).join("tokenizer.json")).unwrap();
    fs::write(own.join("tokenizer.json"), &tokenizer).unwrap();
    fs::copy(Path::new(&model).join("tokenizer_config.json"), own.join("tokenizer_config.json")).unwrap();
    succeeds(&[
        "eval",
        "--backend",
        "cpu",
        "--compare",
        &model,
        &own.display().to_string(),
        "--data",
        &data,
        "--answers",
        "0",
    ]);
    fs::write(own.join("tokenizer.json"), tokenizer.replace("\"individual_digits\":true", "\"individual_digits\":false"))
        .unwrap();
    let mut other: Value = serde_json::from_str(&tokenizer).unwrap();
    other["model"]["merges"] = json!([]);
    fs::write(own.join("tokenizer.json"), other.to_string()).unwrap();
    compare(&own.display().to_string(), &["has another tokenizer than", "test.jsonl:1 "]);
    for wrong in [
        &["eval", "--compare", &model, "--data", &data][..],
        &["eval", "--compare", &model, &adapter],
        &["eval", "--compare", &model, &adapter, "--data", &data, "--model", &model],
        &["eval", "--data", &data],
        &["eval", "--model", &model],
        &["eval", "--model", &model, "--data", &data, "--answers", "3"],
    ] {
        assert_eq!(program().args(wrong).output().unwrap().status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn a_page_shows_runs_that_ended_early_with_values_escaped() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html").display().to_string();
    let whole = run().display().to_string();
    succeeds(&["report", &whole, "--output", &page]);
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.contains("run &lt;&amp;&gt; 1") && !html.contains("run <&>"), "{html}");
    for words in ["Loss", "Learning rate", "Gradient norm", "Tokens per second", "Memory of the process", "validation"] {
        assert!(html.contains(words), "{words}");
    }
    for words in ["Answers before and after", "as expected", "800 rows", "4e-3", "checkpoints of step 20, 40", "finished"] {
        assert!(html.contains(words), "{words}");
    }
    // Nothing is fetched from elsewhere.
    assert!(!html.contains("http:") && !html.contains("https:") && !html.contains("src="), "{html}");
    assert_eq!(fs::read_to_string(run().join("validation.jsonl")).unwrap().lines().count(), 2);
    assert_eq!(fs::read_to_string(run().join("samples.jsonl")).unwrap().lines().count(), 3);

    // A run that was killed: no result, half a line, a step twice, a loss that is not finite.
    let killed = folder.path().join("killed");
    fs::create_dir(&killed).unwrap();
    let config =
        fs::read_to_string(run().join("config.toml")).unwrap().replace("learning_rate = 0.004", "learning_rate = 0.002");
    fs::write(killed.join("config.toml"), config).unwrap();
    let line = |step: usize, loss: &str| {
        format!(
            r#"{{"step":{step},"loss":{loss},"learning_rate":1e-3,"grad_norm":1,"tokens":9,"tokens_per_second":5,"step_ms":2,"skipped":0}}"#
        )
    };
    let lines =
        [line(1, "7.5"), line(2, "6.5"), line(2, "4.25"), line(3, "null"), line(4, "3.5"), "{\"step\": 5, \"lo".to_owned()];
    fs::write(killed.join("metrics.jsonl"), lines.join("\n")).unwrap();
    let (killed, both) = (killed.display().to_string(), folder.path().join("both.html").display().to_string());
    let told = json_of(&["report", &killed, &whole, "-o", &both]);
    assert_eq!(told["runs"][0]["figures"][0]["value"], "4");
    assert_eq!(told["runs"][0]["notes"].as_array().unwrap().len(), 2, "{told}");
    let html = fs::read_to_string(&both).unwrap();
    for words in ["not finite at step 3", "not finished", "1 of 6 lines can&#x27;t be read", "learning_rate", "4.25"] {
        assert!(html.contains(words), "{words}: {html}");
    }
    assert!(!html.contains("6.5\""), "the later line about a step counts");
    // A page is replaced, and nothing else is.
    succeeds(&["report", &killed, "-o", &both]);
    let mine = folder.path().join("mine.html");
    fs::write(&mine, "mine").unwrap();
    fails(&["report", &killed, "-o", &mine.display().to_string()], &["not a page of"]);
    assert_eq!(fs::read_to_string(&mine).unwrap(), "mine");
    fails(&["report", &run().join("adapter").display().to_string()], &["is not the folder of a run", "that it lies in"]);
    fails(&["report", &run().join("checkpoint-40").display().to_string()], &["has no steps", "the folder of its run"]);
    fails(&["report", "no/such/run"], &["is not a folder"]);
}
