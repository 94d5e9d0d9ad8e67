//! The system, the backend, and what this version can't do.

use anyhow::Result;
use burnish_engine::gib;
use burnish_models::FloatType;

use super::findings::Findings;
use super::issues::ISSUES;
use super::target::Target;
use crate::system::report;

/// What is known of this machine; a problem is what makes everything else wrong or slow.
///
/// # Errors
/// Never.
#[allow(clippy::unnecessary_wraps, reason = "every check has this signature")]
pub(super) fn system(target: &Target<'_>) -> Result<Findings> {
    let mut findings = Findings::default();
    let facts = report(false).without_paths();
    let known = |fact: Option<String>| fact.unwrap_or_else(|| "unknown".to_owned());
    findings.summary = format!(
        "{}, {}, {}, {} threads, {} memory",
        known(facts.system),
        facts.architecture,
        known(facts.chip),
        known(facts.threads.map(|threads| threads.to_string())),
        known(facts.memory_bytes.map(gib))
    );
    if let Some(mac) = &facts.mac {
        let working_set = known(mac.working_set_bytes.map(gib));
        findings.summary += &format!(", the GPU may use {working_set}");
        if mac.low_power_mode == Some(true) {
            findings.summary += "; low-power mode is on, which slows the GPU";
        }
    }
    if facts.architecture.contains("Rosetta") {
        findings.fail(
            "program",
            "it was built for Intel, and macOS translates it",
            "Metal and the CPU's vector units are out of reach",
            "build or download it for arm64: `rustup default stable-aarch64-apple-darwin`",
        );
    }
    let free = burnish_backends::capacity::available(target.backend);
    if free.is_some_and(|bytes| bytes < 1 << 30) {
        findings.fail(
            "memory",
            format!("only {} are left for `{}`", known(free.map(gib)), target.backend),
            "most models do not fit",
            "close other programs; `burnish plan` says what a run takes",
        );
    }
    Ok(findings)
}

/// Opens the backend, and tries each dtype.
///
/// # Errors
/// Never: a backend that does not open is a finding.
#[allow(clippy::unnecessary_wraps, reason = "every check has this signature")]
pub(super) fn backend(target: &Target<'_>) -> Result<Findings> {
    let mut findings = Findings::default();
    let device = match burnish_backends::open(target.backend) {
        Ok(device) => device,
        Err(error) => {
            findings.fail(
                format!("backend {}", target.backend),
                format!("{error:#}"),
                "nothing can be computed on it; --backend cpu runs everywhere",
                format!("the driver's vendor if other programs fail on this GPU too, else {ISSUES}"),
            );
            return Ok(findings);
        }
    };
    let dtypes = FloatType::ALL.into_iter().filter(|dtype| device.computes_in(*dtype));
    let names: Vec<&str> = dtypes.map(FloatType::name).collect();
    let packed = if device.computes_packed() { "kernels for packed weights" } else { "packed weights by way of the host" };
    let library = device.product_library().map_or_else(String::new, |library| format!(", {library}"));
    findings.summary = format!("{} opens, computes in {}, {packed}{library}", target.backend, names.join(", "));
    for dtype in target.dtypes().into_iter().filter(|dtype| !names.contains(&dtype.name())) {
        findings.fail(
            format!("products in {dtype}"),
            "a product of small integers is wrong, or the device does not support the dtype",
            "nothing that is computed in it can be trusted",
            target.whom_for_kernels(),
        );
    }
    Ok(findings)
}
