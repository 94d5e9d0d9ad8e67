//! What is printed of panics. Operations of a device can't return errors, so that a device without memory panics, and then panics on.

use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::sync::{Mutex, PoisonError};

use burnish_engine::guard::{message, panics_are_guarded};
use burnish_engine::out_of_memory;

use crate::dashboard;
use crate::report::complain;

/// The messages of panics that did not become errors.
static MESSAGES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The most messages that are kept.
const MOST: usize = 100;

/// Prints the first panic as one line, and what follows from it at `-v`. With `RUST_BACKTRACE` all are printed whole, and panics that
/// become errors never are. A dashboard gives the terminal back first.
pub fn print_briefly() {
    let whole = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    let print = take_hook();
    set_hook(Box::new(move |info| {
        if panics_are_guarded() {
            tracing::debug!("{info}");
            return;
        }
        dashboard::restore();
        let is_first = keep(message(info.payload()));
        if whole {
            print(info);
        } else if is_first {
            complain(line(info));
        } else {
            tracing::info!("{info}");
        }
    }));
}

/// Keeps the message, and returns whether it is the first.
fn keep(message: &str) -> bool {
    let mut messages = MESSAGES.lock().unwrap_or_else(PoisonError::into_inner);
    if messages.len() < MOST {
        messages.push(message.to_owned());
    }
    messages.len() == 1
}

fn line(info: &PanicHookInfo) -> String {
    let message = message(info.payload());
    if let Some(reason) = about_memory(&[message.to_owned()]) {
        return format!("error: {reason}");
    }
    let location = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
    format!("error: internal: {message}{location}")
}

/// Why memory ran out, if one of the messages says so.
fn about_memory(messages: &[String]) -> Option<String> {
    let own = messages.iter().find(|message| message.starts_with("out of memory"));
    own.cloned().or_else(|| out_of_memory(messages, None))
}

/// Prints what to do after the panic that ended a command, which may be a run with checkpoints.
pub fn explain(last: &str, is_run: bool) {
    lines(&MESSAGES.lock().unwrap_or_else(PoisonError::into_inner), last, is_run).into_iter().for_each(complain);
}

fn lines(messages: &[String], last: &str, is_run: bool) -> Vec<String> {
    if about_memory(messages).is_none() {
        let hint = "hint: this is a bug in burnish; please report it with the message above".to_owned();
        let is_printed = messages.first().is_none_or(|first| first == last);
        let error = (!is_printed).then(|| format!("error: internal: {last}"));
        return error.into_iter().chain([hint]).collect();
    }
    vec![
        if is_run {
            "hint: lower batch_size or max_seq_length, or use grad_checkpoint or a quantization; --resume auto continues a run from its \
             last checkpoint, which is intact"
        } else {
            "hint: close other programs, load the model with --quantization nf4, or use --backend cpu"
        }
        .to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    // What an H200 without memory says, in that order: the thread that waits for it only learns that a call failed.
    #[test]
    fn a_device_without_memory_is_no_bug() {
        let device =
            "called `Result::unwrap()` on an `Err` value: can't allocate buffer of size: 4063232\nNo backtrace available";
        let caller = "called `Result::unwrap()` on an `Err` value: CallError";
        let messages = [device, caller].map(str::to_owned);
        assert_eq!(about_memory(&messages).unwrap(), "out of memory: a buffer of 4 MiB is needed");
        assert!(lines(&messages, caller, true)[0].starts_with("hint: lower batch_size"));
        assert!(lines(&messages, caller, false)[0].contains("--quantization nf4"));
        let own = ["out of memory: the device takes no more".to_owned()];
        assert_eq!(about_memory(&own).as_ref(), Some(&own[0]));
    }

    #[test]
    fn the_panic_that_ended_a_command_is_printed() {
        let messages = ["one".to_owned(), "another".to_owned()];
        let bug = "hint: this is a bug in burnish; please report it with the message above";
        assert_eq!(lines(&messages[..1], "one", true), [bug]);
        assert_eq!(lines(&messages, "another", true), ["error: internal: another", bug]);
    }
}
