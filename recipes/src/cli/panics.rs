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

/// What to do after a panic that ended a command, which may be a run with checkpoints.
pub fn hint(is_run: bool) -> String {
    hint_of(&MESSAGES.lock().unwrap_or_else(PoisonError::into_inner), is_run)
}

fn hint_of(messages: &[String], is_run: bool) -> String {
    match (about_memory(messages), is_run) {
        (None, _) => "this is a bug in burnish; please report it with the message above".to_owned(),
        (Some(reason), true) => format!(
            "{reason}; the last checkpoint is intact: --resume auto continues from it, with grad_checkpoint, or a lower batch_size or \
             max_seq_length"
        ),
        (Some(reason), false) => {
            format!("{reason}; close other programs, load the model with --quantization nf4, or use --backend cpu")
        }
    }
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
        let of_run = hint_of(&messages, true);
        assert!(of_run.starts_with("out of memory: a buffer of 4 MiB is needed; the last checkpoint is intact"), "{of_run}");
        assert!(hint_of(&messages, false).contains("--quantization nf4"));
        let own = ["out of memory: the device takes no more".to_owned()];
        assert!(hint_of(&own, false).starts_with(&own[0]));
        assert!(hint_of(&messages[1..], true).starts_with("this is a bug"));
    }
}
