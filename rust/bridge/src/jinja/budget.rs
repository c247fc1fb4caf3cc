//! What can go wrong in a template, and what a rendering may cost.

use std::borrow::Cow;
use std::cell::Cell;

/// Evaluated expressions and statements. A conversation of a thousand turns needs some hundred thousand.
const MAX_STEPS: u64 = 2_000_000;
/// Bytes of text and values a rendering may make, counted once made and never given back: so time and
/// memory are bounded by one number. A conversation as long as any context is some hundred kilobytes.
const MAX_BYTES: u64 = 1 << 28;
/// Bytes that are read for the cost of one that is made.
const READ_PER_MADE: usize = 8;
/// Expressions within statements within macros: each takes some hundred bytes of the stack.
const MAX_DEPTH: usize = 4000;

#[derive(Debug)]
pub enum Error {
    /// raise_exception(): the template's own words.
    Raised(String),
    /// Anything else; line 0 is unknown.
    Failed { message: String, line: u32 },
}

pub type Result<T> = std::result::Result<T, Error>;

pub fn error(message: impl Into<String>) -> Error {
    Error::Failed { message: message.into(), line: 0 }
}

pub fn fail<T>(message: impl Into<String>) -> Result<T> {
    Err(error(message))
}

impl Error {
    /// The line, where it is not known yet.
    pub fn at(self, line: u32) -> Error {
        match self {
            Error::Failed { message, line: 0 } => Error::Failed { message, line },
            known => known,
        }
    }
}

/// Counts what one rendering costs; every loop and every allocation that depends on the template pays.
#[derive(Default)]
pub struct Budget {
    steps: Cell<u64>,
    bytes: Cell<u64>,
    depth: Cell<usize>,
}

impl Budget {
    pub fn step(&self) -> Result<()> {
        self.steps.set(self.steps.get() + 1);
        if self.steps.get() > MAX_STEPS {
            return fail(format!("it takes more than {MAX_STEPS} steps: an endless loop?"));
        }
        Ok(())
    }

    /// To be paid before `bytes` are allocated.
    pub fn make(&self, bytes: usize) -> Result<()> {
        self.bytes.set(self.bytes.get().saturating_add(bytes as u64));
        if self.bytes.get() > MAX_BYTES {
            return fail(format!("it makes more than {} MiB of text and values", MAX_BYTES >> 20));
        }
        Ok(())
    }

    pub fn read(&self, bytes: usize) -> Result<()> {
        self.make(bytes / READ_PER_MADE + 1)
    }

    /// Runs `work` one level deeper.
    pub fn nested<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.depth.get() >= MAX_DEPTH {
            return fail("maximum recursion depth exceeded");
        }
        self.depth.set(self.depth.get() + 1);
        let result = work();
        self.depth.set(self.depth.get() - 1);
        result
    }
}

/// A string under construction that pays for what is added to it.
pub struct Text<'a> {
    text: String,
    budget: &'a Budget,
}

impl<'a> Text<'a> {
    pub fn new(budget: &'a Budget) -> Text<'a> {
        Text { text: String::new(), budget }
    }

    pub fn push_str(&mut self, text: &str) -> Result<()> {
        self.budget.make(text.len())?;
        self.text.push_str(text);
        Ok(())
    }

    pub fn push(&mut self, character: char) -> Result<()> {
        self.push_str(character.encode_utf8(&mut [0; 4]))
    }

    /// `text` with what `escape` gives in place of some characters.
    pub fn push_escaped(
        &mut self,
        text: &str,
        escape: impl Fn(char) -> Option<Cow<'static, str>>,
    ) -> Result<()> {
        let mut plain = 0;
        for (at, character) in text.char_indices() {
            if let Some(escaped) = escape(character) {
                self.push_str(&text[plain..at])?;
                self.push_str(&escaped)?;
                plain = at + character.len_utf8();
            }
        }
        self.push_str(&text[plain..])
    }

    pub fn repeat(&mut self, text: &str, count: usize) -> Result<()> {
        self.budget.make(text.len().saturating_mul(count))?;
        self.text.extend(std::iter::repeat_n(text, count));
        Ok(())
    }

    pub fn fill(&mut self, character: char, count: usize) -> Result<()> {
        self.repeat(character.encode_utf8(&mut [0; 4]), count)
    }

    pub fn budget(&self) -> &'a Budget {
        self.budget
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn into_string(self) -> String {
        self.text
    }
}
