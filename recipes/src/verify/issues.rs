//! Whom to tell that something is wrong.

/// Where Burnish is developed.
pub(super) const ISSUES: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/issues");

/// Whom to tell that anything but an operation is wrong.
pub(super) fn whom() -> String {
    format!("{ISSUES}, with this report and that of `burnish env -v`")
}
