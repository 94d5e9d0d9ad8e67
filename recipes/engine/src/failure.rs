//! Errors of a device, as one line.

use std::fmt::Display;

/// The device's messages without repetitions: once an operation fails, all later ones fail with the same message.
pub fn failure(error: impl Display) -> String {
    // Strip what cubecl writes around the causes.
    let text = error.to_string().replace("No backtrace available", "");
    let mut lines = vec!["the device failed"];
    for line in text.lines() {
        let line = line.trim_start_matches(['[', ']', ')', ',', ' ']).trim_end();
        if !line.is_empty() && line != "Caused by:" && !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.join(": ")
}

#[cfg(test)]
mod tests {
    use super::failure;

    #[test]
    fn a_thousand_failures_are_one_line() {
        let page = "Io(couldn't find resource for that handle: Memory page 0 doesn't exist\nNo backtrace available)";
        let error = format!("The server is in an invalid state\nCaused by:\n  [{}]", vec![page; 1000].join(", "));
        let expected = "the device failed: The server is in an invalid state: Io(couldn't find resource for that handle: \
                        Memory page 0 doesn't exist";
        assert_eq!(failure(error), expected);
        assert_eq!(failure("out of memory (2 GiB)"), "the device failed: out of memory (2 GiB)");
    }
}
