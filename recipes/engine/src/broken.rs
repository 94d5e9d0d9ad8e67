//! Parts that a test breaks, to see that the damage is found.

/// Whether a test asked for this part to be broken, by its name in `BURNISH_BREAK`. Never in a build without the feature `breakable`.
pub fn is_broken(part: &str) -> bool {
    cfg!(feature = "breakable")
        && std::env::var("BURNISH_BREAK").is_ok_and(|parts| parts.split(',').any(|broken| broken == part))
}
