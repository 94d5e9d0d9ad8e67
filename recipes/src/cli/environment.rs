//! Variables of the environment: `BURNISH_BACKEND`, `BURNISH_LOG`, and those of Unsloth for Macs.

use std::ffi::OsString;

use clap::Command;

use crate::config::Variable;

/// The variable that names a backend, where no flag does.
const BACKEND: &str = "BURNISH_BACKEND";

/// The variable with the filter of the log, as RUST_LOG, which it overrides.
pub(super) const LOG: &str = "BURNISH_LOG";

/// Unsloth's, which print more.
const VERBOSE: &str = "UNSLOTH_VERBOSE";

/// The value of a variable, unless it is empty.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether a variable of Unsloth is on.
fn is_on(value: Option<String>) -> bool {
    value.is_some_and(|value| !["0", "false", "no", "off"].contains(&value.to_lowercase().as_str()))
}

/// What Unsloth's variables set where neither file nor flags do, and notes on those that set nothing.
pub(super) fn settings(read: impl Fn(&str) -> Option<String>) -> (Vec<Variable>, Vec<String>) {
    let (mut variables, mut notes) = (Vec::new(), Vec::new());
    let metal = "UNSLOTH_FORCE_MPS";
    if is_on(read(metal)) {
        if burnish_backends::built_in().any(|name| name == "metal") {
            variables.push(Variable { name: metal, key: "backend", value: "metal".into() });
        } else {
            notes.push(format!("`{metal}` has no effect: this build has no Apple GPU; see backend"));
        }
    }
    for (name, key, value) in [
        ("UNSLOTH_DISABLE_AUTO_PADDING_FREE", "padding_free", false.into()),
        ("UNSLOTH_ENABLE_MLX_QUANT", "quantization", "int4".into()),
    ] {
        if is_on(read(name)) {
            variables.push(Variable { name, key, value });
        }
    }
    (variables, notes)
}

/// Whether Unsloth's variable asks for more output, and a note on it.
pub(super) fn verbose(read: impl Fn(&str) -> Option<String>) -> Option<String> {
    is_on(read(VERBOSE)).then(|| format!("`{VERBOSE}` is read as -v"))
}

/// The arguments with what variables add, in the form of our flags, and notes.
pub(super) fn arguments(
    mut given: Vec<OsString>,
    program: &Command,
    read: impl Fn(&str) -> Option<String>,
) -> (Vec<OsString>, Vec<String>) {
    let mut notes = Vec::new();
    let is_word = |argument: &OsString| !argument.to_string_lossy().starts_with('-');
    let Some(place) = given.iter().skip(1).position(is_word).map(|place| place + 1) else { return (given, notes) };
    let Some(command) = program.find_subcommand(&*given[place].to_string_lossy()) else { return (given, notes) };
    let has = |flag: &str| command.get_arguments().any(|argument| argument.get_long() == Some(flag));
    if has("lora-r") {
        for argument in &mut given[place + 1..] {
            if let Some(ours) = argument.to_str().and_then(in_kebab_case) {
                *argument = ours.into();
            }
        }
    }
    if let Some(backend) = read(BACKEND) {
        let flag = ["backend", "backends"].into_iter().find(|flag| has(flag));
        let is_it = |argument: &OsString, flag: &str| {
            let text = argument.to_string_lossy();
            text.strip_prefix("--")
                .and_then(|text| text.strip_prefix(flag))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        };
        if let Some(flag) = flag.filter(|flag| !given.iter().any(|argument| is_it(argument, flag))) {
            notes.push(format!("`{BACKEND}` is read as --{flag} {backend}"));
            given.insert(place + 1, format!("--{flag}={backend}").into());
        }
    }
    (given, notes)
}

/// Unsloth's way to write a flag in ours: `--lora_alpha` as `--lora-alpha`, and `--r`, which is too short for ours, as `--lora-r`.
fn in_kebab_case(argument: &str) -> Option<String> {
    let flag = argument.strip_prefix("--")?;
    let (name, value) = flag.split_at(flag.find('=').unwrap_or(flag.len()));
    let is_name = name.starts_with(|first: char| first.is_ascii_lowercase());
    let ours = if name == "r" { "lora-r".to_owned() } else { name.replace('_', "-") };
    (is_name && ours != name).then(|| format!("--{ours}{value}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn read(name: &'static str, value: &'static str) -> impl Fn(&str) -> Option<String> {
        move |asked| (asked == name).then(|| value.to_owned())
    }

    fn added(line: &str, read: impl Fn(&str) -> Option<String>) -> (String, Vec<String>) {
        let given = line.split(' ').map(OsString::from).collect();
        let (arguments, notes) = arguments(given, &super::super::Cli::command(), read);
        (arguments.iter().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" "), notes)
    }

    #[test]
    fn a_backend_is_added_where_a_command_takes_one_and_no_flag_names_it() {
        let cpu = || read(BACKEND, "cpu");
        for (line, expected) in [
            ("burnish train -c c.toml", "burnish train --backend=cpu -c c.toml"),
            ("burnish --json generate --model m", "burnish --json generate --backend=cpu --model m"),
            ("burnish bench --step", "burnish bench --backends=cpu --step"),
            ("burnish train --backend wgpu", "burnish train --backend wgpu"),
            ("burnish train --backend=wgpu", "burnish train --backend=wgpu"),
            ("burnish init", "burnish init"),
            ("burnish", "burnish"),
            ("burnish --help", "burnish --help"),
        ] {
            let (found, notes) = added(line, cpu());
            assert_eq!((found.as_str(), notes.is_empty()), (expected, expected == line), "{notes:?}");
        }
    }

    #[test]
    fn flags_of_unsloth_are_read() {
        let none = |_: &str| None;
        let line = "burnish train --model_name m --r 16 --lora_alpha=32 --load_in_4bit --data a_b --warmup-steps 5";
        let ours = "burnish train --model-name m --lora-r 16 --lora-alpha=32 --load-in-4bit --data a_b --warmup-steps 5";
        assert_eq!(added(line, none).0, ours);
        // A prompt is no flag of training.
        assert_eq!(added("burnish generate --prompt --a_b", none).0, "burnish generate --prompt --a_b");
    }

    #[test]
    fn the_variables_of_unsloth_set_keys() {
        let (variables, notes) = settings(read("UNSLOTH_DISABLE_AUTO_PADDING_FREE", "1"));
        assert_eq!((variables[0].key, &variables[0].value, notes.len()), ("padding_free", &false.into(), 0));
        let (variables, _) = settings(read("UNSLOTH_ENABLE_MLX_QUANT", "1"));
        assert_eq!((variables[0].key, &variables[0].value), ("quantization", &"int4".into()));
        let (variables, notes) = settings(read("UNSLOTH_FORCE_MPS", "1"));
        assert_eq!((variables.len() + notes.len(), variables.is_empty()), (1, !cfg!(target_os = "macos")));
        for off in ["0", "false"] {
            assert!(settings(read("UNSLOTH_ENABLE_MLX_QUANT", off)).0.is_empty());
        }
        assert!(verbose(read(VERBOSE, "1")).is_some() && verbose(read(VERBOSE, "0")).is_none());
    }
}
