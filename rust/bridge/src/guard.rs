//! What can go wrong, and a wall that panics of the libraries do not pass.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

/// The kinds are those of nibble's ErrorCode; src/text/bridge_call.h reads the word before the colon.
#[derive(Debug)]
pub enum Failure {
    Argument(String),
    Data(String),
    Io(String),
    NotFound(String),
    Unsupported(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, message) = match self {
            Failure::Argument(message) => ("argument", message),
            Failure::Data(message) => ("data", message),
            Failure::Io(message) => ("io", message),
            Failure::NotFound(message) => ("not-found", message),
            Failure::Unsupported(message) => ("unsupported", message),
        };
        // Some libraries add pages of context; the first line says what happened.
        write!(out, "{kind}:{}", message.lines().next().unwrap_or_default())
    }
}

impl Failure {
    pub fn data(error: impl fmt::Display) -> Failure {
        Failure::Data(error.to_string())
    }

    pub fn argument(error: impl fmt::Display) -> Failure {
        Failure::Argument(error.to_string())
    }
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `work`; a panic inside becomes a `Failure`, quietly.
pub fn guarded<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let printing = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if INSIDE.get() {
                PANIC.with(|message| *message.borrow_mut() = panic.to_string());
            } else {
                printing(panic);
            }
        }));
    });
    let outer = INSIDE.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    INSIDE.set(outer);
    // Bytes that make a parser panic are bad bytes, whatever else they are.
    result.unwrap_or_else(|_| {
        let message = PANIC.with(|message| message.take());
        Err(Failure::Data(format!("a library could not go on: {}", message.replace('\n', " "))))
    })
}
