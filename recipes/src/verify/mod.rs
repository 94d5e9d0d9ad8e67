//! Verifies that this machine computes what it must: `burnish verify`.

mod check;
mod depth;
mod download;
mod findings;
mod gguf;
mod golden;
mod issues;
mod kernels;
mod model;
mod progress;
mod report;
mod system;
mod target;
mod training;

use std::time::Instant;

use anyhow::{Context, Result};
use burnish_backends::dtype;
use burnish_engine::guard::guarded;
use burnish_models::FloatType;

pub use self::check::Check;
pub use self::download::MODEL;
use self::findings::Findings;
pub use self::findings::{Detail, Outcome, Problem};
pub use self::progress::Progress;
pub use self::report::{CheckReport, Report};
use self::target::Target;
use crate::quickstart::unpack;

/// What is verified.
#[derive(Debug, Clone)]
pub struct Options {
    /// The backend, or `auto`.
    pub backend: String,
    /// The dtype, or `auto`.
    pub dtype: String,
    /// Every size and format.
    pub full: bool,
    /// A model to download or open beside the built-in one.
    pub model: Option<String>,
    /// The checks; empty means all.
    pub only: Vec<Check>,
}

/// Runs the checks, and tells how far they are. Kernels that were compiled are kept for the next process after each check, whatever it found.
///
/// # Errors
/// When no backend has that name, or the folder for temporary files can't be written. A check that fails is no error.
pub fn verify(options: &Options, tell: impl Fn(Progress<'_>) + Sync) -> Result<Report> {
    let (backend, why) = burnish_backends::choose(&options.backend)?;
    // A backend that does not open fails its own check.
    let chosen = match dtype::choose(backend, &options.dtype) {
        Ok(choice) => Ok(choice.dtype),
        Err(error) if options.dtype == "auto" => Err(error),
        Err(error) => return Err(error),
    };
    let folder = tempfile::Builder::new().prefix("burnish-verify").tempdir().context("the folder for temporary files")?;
    let folders = unpack(folder.path())?;
    let dtype = chosen.as_ref().map_or(FloatType::F32, |dtype| *dtype);
    let target = Target { backend, dtype, full: options.full, folders: &folders, tell: &tell };
    let mut report = Report::new(backend, why, dtype, options.full);
    for (index, check) in Check::ALL.into_iter().enumerate() {
        let is_asked = options.only.is_empty() || options.only.contains(&check);
        let needs_backend = !matches!(check, Check::System | Check::Backend | Check::Vision);
        let reason = if !is_asked {
            Some("not asked for")
        } else if needs_backend && (chosen.is_err() || report.has_failed(Check::Backend)) {
            Some("the backend does not work")
        } else {
            None
        };
        let started = Instant::now();
        let mut checked = match (reason, check) {
            (Some(reason), _) => CheckReport::skipped(check, reason),
            (None, Check::Vision) => CheckReport::not_available(check, "this version trains and runs text models only"),
            (None, _) => {
                tell(Progress::Begins(check));
                let checked = CheckReport::of(check, guarded(|| run(check, &target, options.model.as_deref())));
                burnish_backends::publish_kernels();
                checked
            }
        };
        checked.number = index + 1;
        checked.seconds = started.elapsed().as_secs_f64();
        if is_asked {
            tell(Progress::Ended(&checked));
        }
        report.checks.push(checked);
    }
    report.finish();
    Ok(report)
}

fn run(check: Check, target: &Target<'_>, model: Option<&str>) -> Result<Findings> {
    match check {
        Check::System => system::system(target),
        Check::Backend => system::backend(target),
        Check::Kernels => kernels::check(target),
        Check::Loading => {
            let mut findings = model::check(target)?;
            if let Some(id) = model {
                download::check(target, id, &mut findings)?;
                findings.summary += &format!("; {id} loads and computes");
            } else if target.full {
                findings.summary += "; downloads were skipped";
            }
            Ok(findings)
        }
        Check::Gguf => gguf::check(target),
        Check::Training => training::check(target),
        Check::Vision => Ok(Findings::default()),
    }
}
