//! `burnish completions`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Arg, Command};
use clap_complete::{Shell, generate};

use crate::report::print;

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Shell to write for
    shell: Shell,
}

impl Args {
    #[allow(clippy::unnecessary_wraps, reason = "every command has this signature")]
    pub(super) fn run(self, program: &Command) -> Result<ExitCode> {
        let mut script = Vec::new();
        generate(self.shell, &mut shown(program), "burnish", &mut script);
        print(&String::from_utf8_lossy(&script));
        Ok(ExitCode::SUCCESS)
    }
}

/// A command without its hidden flags: other programs' names of keys are accepted, but there are hundreds of them.
fn shown(command: &Command) -> Command {
    let mut shown = Command::new(command.get_name().to_owned());
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    if let Some(version) = command.get_version() {
        shown = shown.version(version.to_owned()).propagate_version(true);
    }
    let args = command.get_arguments().filter(|arg| !arg.is_hide_set()).map(alone);
    shown.args(args).subcommands(command.get_subcommands().filter(|command| !command.is_hide_set()).map(self::shown))
}

/// A flag without its relations to others, which may be hidden.
fn alone(arg: &Arg) -> Arg {
    let mut alone = Arg::new(arg.get_id().clone())
        .action(arg.get_action().clone())
        .value_parser(arg.get_value_parser().clone())
        .hide_possible_values(arg.is_hide_possible_values_set())
        .value_hint(arg.get_value_hint())
        .global(arg.is_global_set());
    if let Some(help) = arg.get_help() {
        alone = alone.help(help.clone());
    }
    if let Some(names) = arg.get_value_names() {
        alone = alone.value_names(names.to_vec());
    }
    if let Some(count) = arg.get_num_args() {
        alone = alone.num_args(count);
    }
    if let Some(long) = arg.get_long() {
        alone = alone.long(long.to_owned());
    }
    if let Some(short) = arg.get_short() {
        alone = alone.short(short);
    }
    alone
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn scripts_offer_the_flags_that_help_shows_and_no_others() {
        let train = Command::new("train")
            .arg(Arg::new("rank").long("rank").help("Rank of the adapters").overrides_with("lora_r"))
            .arg(Arg::new("lora_r").long("lora-r").hide(true))
            .arg(Arg::new("recipe").value_parser(["sft", "dpo"]));
        let program = Command::new("burnish").version("1").subcommand(train);
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            generate(*shell, &mut shown(&program), "burnish", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("rank") && script.contains("train"), "{shell}: {script}");
            assert!(!script.contains("lora-r"), "{shell}: {script}");
        }
    }
}
