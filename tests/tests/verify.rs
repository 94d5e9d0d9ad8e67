//! `burnish verify` on this machine, and with parts broken on purpose.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use burnish_kernels::OPERATIONS;
use burnish_tests::{burnish, text};
use serde_json::Value;

/// The exit code and the report of a run in which these parts are broken.
fn verify(arguments: &[&str], broken: &str) -> (i32, Value) {
    let output = burnish(env!("CARGO_BIN_EXE_burnish-under-test"))
        .args(["verify", "--json"])
        .args(arguments)
        .env("BURNISH_BREAK", broken)
        .output()
        .unwrap();
    let (stdout, stderr) = text(&output);
    let report = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"));
    (output.status.code().unwrap(), report)
}

fn outcomes(report: &Value) -> Vec<(&str, &str)> {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().map(|check| (check["check"].as_str().unwrap(), check["outcome"].as_str().unwrap())).collect()
}

/// The problems of the only check that was run, as `part: what`.
fn problems(report: &Value) -> Vec<String> {
    let all = report["checks"].as_array().unwrap().iter().flat_map(|check| check["problems"].as_array().unwrap());
    all.map(|problem| {
        for key in ["means", "whom"] {
            assert!(problem[key].as_str().is_some_and(|text| text.len() > 10), "{problem}");
        }
        format!("{}: {}", problem["part"].as_str().unwrap(), problem["what"].as_str().unwrap())
    })
    .collect()
}

fn passes_on(backend: &str, dtype: &str) {
    let (code, report) = verify(&["--backend", backend, "--dtype", dtype], "");
    assert_eq!((code, problems(&report)), (0, Vec::new()), "{report}");
    let passed = |check| (check, "passed");
    let expected = ["system", "backend", "kernels", "loading", "gguf"].map(passed);
    let all = [&expected[..], &[("vision", "not_available"), passed("training")]].concat();
    assert_eq!(outcomes(&report), all);
}

#[test]
fn passes_on_the_cpu() {
    passes_on("cpu", "auto");
}

#[test]
#[ignore = "about a minute; .ci/nightly runs it"]
fn passes_on_vulkan() {
    passes_on("vulkan", "f32");
    passes_on("vulkan", "f16");
}

#[test]
#[ignore = "minutes; .ci/nightly runs it"]
fn passes_on_the_emulator() {
    passes_on("emulator", "f16");
}

/// What only optimizers and generation compute.
const WITHOUT_GRADIENTS: [&str; 15] = [
    "lora_hidden",
    "adamw",
    "adamw8bit",
    "pack",
    "unpack",
    "squared_norm",
    "attention_decode",
    "linears",
    "swiglu_linear",
    "geglu_linear",
    "append",
    "append_rotated",
    "prefix",
    "most_likely_tokens",
    "sampled_tokens",
];

/// Breaks every other operation, then the rest, so that each is named, and no other.
fn each_broken_operation_is_named(suffix: &str, said: &str) {
    let only = ["--only", "kernels", "--backend", "cpu"];
    let (code, report) = verify(&only, "");
    assert_eq!((code, problems(&report)), (0, Vec::new()));
    let details = report["checks"][2]["details"].as_array().unwrap();
    let names: BTreeSet<&str> = details.iter().map(|detail| detail["name"].as_str().unwrap()).collect();
    assert!(names.len() > 50, "{names:?}");
    for rest in [0, 1] {
        let half: Vec<&str> =
            names.iter().copied().enumerate().filter(|(at, _)| at % 2 == rest).map(|(_, name)| name).collect();
        let broken: Vec<String> = half.iter().map(|name| format!("{name}{suffix}")).collect();
        let (code, report) = verify(&only, &broken.join(","));
        let found = problems(&report);
        assert_eq!(code, 1);
        for name in &half {
            let problem = found.iter().find(|problem| problem.starts_with(&format!("{name} in f32: ")));
            let has_gradients = !WITHOUT_GRADIENTS.contains(name)
                && !["packed_rows", "packed_linears/", "packed_swiglu_linear"].iter().any(|stem| name.starts_with(stem));
            if suffix == ".backward" && !has_gradients {
                assert_eq!(problem, None);
                continue;
            }
            let problem = problem.unwrap_or_else(|| panic!("{name} is broken, but is not named: {found:?}"));
            assert!(problem.contains(said), "{problem}");
        }
        assert!(found.len() <= half.len(), "{found:?}");
    }
}

#[test]
fn each_operation_that_is_wrong_is_named() {
    each_broken_operation_is_named("", "are wrong");
}

#[test]
fn each_operation_that_did_not_run_is_named() {
    each_broken_operation_is_named(".skipped", "a kernel did not run");
}

#[test]
fn each_gradient_that_is_wrong_is_named() {
    each_broken_operation_is_named(".backward", "backward, gradient of ");
}

/// The case of the check that a method of `FusedBackend` is named by, if it is wrong: its own name without what it computes of it.
fn case_of(operation: &str) -> String {
    let parts = ["_for_backward", "_with_gradient", "_backward_input", "_backward_weight", "_backward"];
    let stem = parts.iter().find_map(|part| operation.strip_suffix(part)).unwrap_or(operation);
    match stem {
        "segment_attention" => "attention",
        "row_layer_norm" => "layer_norm",
        "dense_linear" => "linear",
        "dense_linears" => "linears",
        "glu" => "swiglu",
        "glu_linear" => "swiglu_linear",
        "packed_glu_linear" => "packed_swiglu_linear",
        "sample_tokens" => "sampled_tokens",
        other => other,
    }
    .to_owned()
}

/// Makes methods of `FusedBackend` wrong: one without a hook, or that no case computes, is not named.
fn broken_methods_are_named(backend: &str, operations: &[&str]) {
    let broken: Vec<String> = operations.iter().map(|operation| format!("operation:{operation}")).collect();
    let arguments = ["--only", "kernels", "--backend", backend, "--dtype", "f32"];
    let (code, report) = verify(&arguments, &broken.join(","));
    let found = problems(&report);
    for operation in operations {
        let case = case_of(operation);
        let is_named = |problem: &String| [" in ", "/"].iter().any(|end| problem.starts_with(&format!("{case}{end}")));
        assert!(code == 1 && found.iter().any(is_named), "{operation}: expected `{case}`, got {found:?}");
    }
    if operations.iter().all(|operation| is_of_backward(operation)) {
        assert!(found.iter().all(|problem| problem.contains("backward, gradient of ")), "{operations:?}: {found:?}");
    }
}

/// Whether a method computes gradients only.
fn is_of_backward(operation: &str) -> bool {
    operation.contains("_backward") && !operation.ends_with("_for_backward")
}

#[test]
fn each_method_that_is_wrong_is_named() {
    OPERATIONS.iter().for_each(|operation| broken_methods_are_named("cpu", &[operation]));
}

#[test]
#[ignore = "two minutes; .ci/nightly runs it"]
fn methods_that_are_wrong_are_named_on_vulkan() {
    let (backward, forward): (Vec<&str>, Vec<&str>) =
        OPERATIONS.into_iter().partition(|operation| is_of_backward(operation));
    broken_methods_are_named("vulkan", &backward);
    broken_methods_are_named("vulkan", &forward);
}

/// A kernel that is compiled, but never launched, as when its pipeline could not be made.
fn a_kernel_that_is_never_launched_is_named(backend: &str) {
    let (code, report) = verify(&["--only", "kernels", "--backend", backend, "--dtype", "f32"], "launch:rms_norm");
    let found = problems(&report);
    assert_eq!(code, 1);
    for name in ["rms_norm in f32", "add_rms_norm in f32", "fork_rms_norm in f32"] {
        assert!(found.iter().any(|problem| problem.starts_with(name)), "{found:?}");
    }
    assert!(found.iter().all(|problem| problem.contains("rms_norm in")), "{found:?}");
    assert!(found.iter().any(|problem| problem.contains("a kernel did not run")), "{found:?}");
}

#[test]
fn a_kernel_that_is_never_launched_is_named_on_vulkan() {
    a_kernel_that_is_never_launched_is_named("vulkan");
}

#[test]
#[ignore = "a minute; .ci/nightly runs it"]
fn a_kernel_that_is_never_launched_is_named_in_the_emulator() {
    a_kernel_that_is_never_launched_is_named("emulator");
}

#[test]
fn a_broken_gguf_writer_is_named() {
    let (code, report) = verify(&["--only", "gguf", "--backend", "cpu"], "gguf");
    let found = problems(&report);
    assert_eq!((code, found.len()), (1, 3), "{found:?}");
    for (problem, kind) in found.iter().zip(["f16", "q8_0", "q4_0"]) {
        assert!(problem.starts_with(&format!("GGUF writer, {kind}: ")), "{problem}");
    }
    assert!(found[0].contains("`model.embed_tokens.weight` differs by"), "{found:?}");
}

#[test]
fn a_broken_resume_is_named() {
    let (code, report) = verify(&["--only", "training", "--backend", "cpu"], "resume");
    let found = problems(&report);
    assert_eq!((code, found.len()), (1, 1), "{found:?}");
    assert!(found[0].starts_with("resume: the loss of step "), "{found:?}");
}

#[test]
fn the_table_says_what_was_not_checked() {
    let run = |arguments: &[&str]| {
        let mut command = burnish(env!("CARGO_BIN_EXE_burnish-under-test"));
        text(&command.arg("verify").args(arguments).output().unwrap())
    };
    let (stdout, stderr) = run(&["--only", "system,vision", "--backend", "cpu"]);
    assert!(stdout.contains("vision         not available") && stdout.contains("text models only"), "{stdout}");
    assert!(stdout.trim_end().ends_with("7 checks on `cpu`: 1 passed, 5 skipped, 1 not available"), "{stdout}");
    assert!(stderr.starts_with("verifying `cpu` (requested)"), "{stderr}");
    let (stdout, _) = run(&["--only", "vision", "--backend", "cpu", "-q"]);
    assert!(stdout.contains("7 checks on `cpu`: 0 passed, 6 skipped, 1 not available"), "{stdout}");
}

#[test]
fn a_model_that_is_not_there_fails_by_its_name() {
    let missing = ["--full", "--model", "no/such-model", "--only", "loading", "--backend", "cpu"];
    let (code, report) = verify(&missing, "");
    let found = problems(&report);
    assert_eq!((code, found.len()), (1, 1), "{found:?}");
    assert!(found[0].starts_with("download of no/such-model: "), "{found:?}");
}

#[test]
fn repairs_are_listed_and_can_be_skipped_by_name() {
    let run = |skipped: &str| {
        let mut command = burnish(env!("CARGO_BIN_EXE_burnish-under-test"));
        command.args(["verify", "--only", "backend", "--backend", "emulator"]).env("BURNISH_SKIP_REPAIR", skipped);
        command.output().unwrap()
    };
    let output = run("");
    let (stdout, stderr) = text(&output);
    assert!(stdout.contains("repairs of Metal code, with kernels: ") && stdout.contains("sync_plane ("), "{stdout}{stderr}");
    let output = run("sync_plane");
    let (stdout, stderr) = text(&output);
    assert!(stdout.contains("repairs SKIPPED by BURNISH_SKIP_REPAIR: sync_plane"), "{stdout}");
    assert!(!stdout.contains("sync_plane (") && stderr.contains("compiled without these repairs: sync_plane"), "{stderr}");
    let output = run("sync_plane,no_such_rule");
    let (_, stderr) = text(&output);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr.contains("`no_such_rule`, but there is no repair of that name; the repairs are scalar_braces, "),
        "{stderr}"
    );
}
