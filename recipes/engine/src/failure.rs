//! Errors of a device, as one line.

use std::fmt::Display;

use crate::bytes::gib;

/// The device's messages without repetitions: once an operation fails, all later ones fail with the same message.
pub fn failure(error: impl Display) -> String {
    // Strip what cubecl writes around the causes.
    let text = error.to_string().replace("No backtrace available", "");
    let text = text.replace("called `Result::unwrap()` on an `Err` value: ", "");
    let mut lines = vec!["the device failed"];
    for line in text.lines() {
        let line = line.trim_start_matches(['[', ']', ')', ',', ' ']).trim_end();
        if !line.is_empty() && !["Caused by:", "Backtrace:"].contains(&line) && !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.join(": ")
}

/// A message that memory ran out, if one of the failure's messages means that. `allowed` is the largest buffer that the device
/// supports, if known.
pub fn out_of_memory(messages: &[String], allowed: Option<u64>) -> Option<String> {
    let number = |text: &str, before: &str| -> Option<u64> {
        let digits: String = text.split_once(before)?.1.trim_start().chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    let too_large = messages.iter().find_map(|message| {
        let needed = number(message, "can't allocate buffer of size:");
        let bound = needed.is_none() && message.contains("buffer_binding_size");
        let needed = needed.or_else(|| number(message, " range ").filter(|_| bound))?;
        let allowed = number(message, "buffer_binding_size` limit").filter(|_| bound).or(allowed);
        let allowed = allowed.map_or_else(String::new, |bytes| format!(", the device allows {}", gib(bytes)));
        Some(format!("out of memory: a buffer of {} is needed{allowed}", gib(needed)))
    });
    let is_out_of_memory = |message: &String| {
        let message = message.to_ascii_lowercase().replace('_', " ");
        ["out of memory", "outofmemory", "not enough memory"].iter().any(|words| message.contains(words))
    };
    too_large.or_else(|| messages.iter().any(is_out_of_memory).then(|| "out of memory".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{failure, out_of_memory};

    #[test]
    fn running_out_of_memory_is_recognised() {
        let said = |text: &str, allowed| out_of_memory(&["another".to_owned(), text.to_owned()], allowed);
        let unwrapped = "called `Result::unwrap()` on an `Err` value: can't allocate buffer of size: 2147483648";
        let expected = "out of memory: a buffer of 2.00 GiB is needed, the device allows 512 MiB";
        assert_eq!(said(unwrapped, Some(512 << 20)).unwrap(), expected);
        assert_eq!(said(unwrapped, None).unwrap(), "out of memory: a buffer of 2.00 GiB is needed");
        let binding = "Buffer binding 2 range 536870912 exceeds `max_*_buffer_binding_size` limit 134217728";
        assert_eq!(said(binding, None).unwrap(), "out of memory: a buffer of 512 MiB is needed, the device allows 128 MiB");
        for plain in ["wgpu error: Out of Memory", "CUDA_ERROR_OUT_OF_MEMORY", "Not enough memory left."] {
            assert_eq!(said(plain, None).unwrap(), "out of memory");
        }
        assert_eq!(said("the range 3 to 4 is wrong", None), None);
    }

    #[test]
    fn a_thousand_failures_are_one_line() {
        let page = "Io(couldn't find resource for that handle: Memory page 0 doesn't exist\nNo backtrace available)";
        let error = format!("The server is in an invalid state\nCaused by:\n  [{}]", vec![page; 1000].join(", "));
        let expected = "the device failed: The server is in an invalid state: Io(couldn't find resource for that handle: \
                        Memory page 0 doesn't exist";
        assert_eq!(failure(error), expected);
        assert_eq!(failure("out of memory (2 GiB)"), "the device failed: out of memory (2 GiB)");
        let unwrapped = "called `Result::unwrap()` on an `Err` value: gone\nNo backtrace available\nBacktrace:\n";
        assert_eq!(failure(unwrapped), "the device failed: gone");
    }
}
