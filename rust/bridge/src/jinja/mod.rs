//! Jinja2 as transformers runs it: its sandbox with trim_blocks and lstrip_blocks, Python's values
//! and methods, and a budget of time and memory that no template can exceed.
//!
//! `parser` and `statements` make a tree (`ast`) of `lexer`'s tokens; `interpreter` and `expressions`
//! walk it. `value`, `operators`, `lookup`, `methods`, `strings` over `text`, `print` and `format` over
//! `spec` are what Python does with its values. `filters` (`numbers`, `sequences`, `markup`, `wrap`),
//! `predicates` and `functions` are what Jinja2 adds, called with `arguments`. All of it pays a `budget`.

mod arguments;
mod ast;
mod budget;
mod expressions;
mod filters;
mod format;
mod functions;
mod interpreter;
mod lexer;
mod lookup;
mod markup;
mod methods;
mod numbers;
mod operators;
mod parser;
mod predicates;
mod print;
mod sequences;
mod spec;
mod statements;
mod strings;
mod text;
mod value;
mod wrap;

pub use ast::Template;
pub use budget::Error;
pub use interpreter::render;

/// Every kind of line end is one newline; the last one of a source is no part of it.
pub fn compile(source: &str) -> Result<Template, Error> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    parser::parse(source.strip_suffix('\n').unwrap_or(&source))
}
