//! Fuzzes the readers, each in a process of its own.

mod processes;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use burnish_fuzz::attempt::Place;
use burnish_fuzz::{Counting, TARGETS, Target};
use clap::Parser;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Feeds damaged files to every reader of Burnish
#[derive(Debug, Parser)]
struct Arguments {
    /// Seconds for each reader
    #[arg(long, default_value = "60")]
    seconds: u64,
    /// Readers; all of them by default
    #[arg(long, value_name = "NAME")]
    target: Vec<String>,
    /// Readers at once; as many as there are processors by default
    #[arg(long)]
    jobs: Option<usize>,
    /// Seed of the damage
    #[arg(long, default_value = "1")]
    seed: u64,
    /// Folder for the files that show faults
    #[arg(long, default_value = "fuzz-failures")]
    failures: PathBuf,
    /// Read this file only
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Print the names of the readers
    #[arg(long)]
    list: bool,
    /// Read in this folder, as the process of one reader
    #[arg(long, hide = true)]
    child: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.list {
        TARGETS.iter().for_each(|target| println!("{}", target.name));
        return Ok(ExitCode::SUCCESS);
    }
    let find =
        |name: &String| TARGETS.iter().find(|target| target.name == name).with_context(|| format!("no reader `{name}`"));
    let mut targets: Vec<&Target> = arguments.target.iter().map(find).collect::<Result<_>>()?;
    if targets.is_empty() {
        targets.extend(TARGETS);
    }
    match (&arguments.child, &arguments.replay, &targets[..]) {
        (Some(folder), _, [target]) => {
            processes::child(target, folder, arguments.seed, Duration::from_secs(arguments.seconds))
        }
        (None, Some(file), [target]) => {
            let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
            let folder = tempfile::tempdir()?;
            let attempt = Place::new(target, folder.path())?.read(target, &bytes)?;
            println!("{attempt:?}");
            Ok(if attempt.fault.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        (None, None, _) => {
            let jobs = arguments.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
            processes::parent(&targets, jobs, arguments.seed, arguments.seconds, &arguments.failures)
        }
        _ => bail!("expected one --target"),
    }
}
