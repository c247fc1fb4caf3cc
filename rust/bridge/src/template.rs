//! Chat templates, behind the bridge.

use crate::guard::{guarded, Failure};
use crate::jinja;

/// Real templates have some thousand bytes.
const MAX_SOURCE_BYTES: usize = 1 << 17;
/// Values may nest as deep as a rendering has steps, and are dropped recursively. Memory of a stack
/// counts only where it is used.
const STACK_BYTES: usize = 1 << 27;

pub struct Template {
    parsed: jinja::Template,
}

impl Template {
    pub fn compile(source: &str) -> Result<Template, Failure> {
        if source.len() > MAX_SOURCE_BYTES {
            let size = source.len();
            return Err(Failure::Data(format!("{size} bytes; the limit is {MAX_SOURCE_BYTES}")));
        }
        let parsed = jinja::compile(source)
            .map_err(|error| Failure::Data(format!("syntax error: {}", explain(error))))?;
        Ok(Template { parsed })
    }

    pub fn render(&self, variables: &[u8]) -> Result<String, Failure> {
        on_large_stack(|| {
            let variables = serde_json::from_slice(variables).map_err(Failure::argument)?;
            jinja::render(&self.parsed, &variables)
                .map_err(|error| Failure::Argument(explain(error)))
        })
    }
}

fn on_large_stack<T: Send>(work: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().stack_size(STACK_BYTES);
        match builder.spawn_scoped(scope, || guarded(work)) {
            Ok(thread) => thread
                .join()
                .unwrap_or_else(|_| Err(Failure::Data("the template's thread ended".into()))),
            Err(error) => Err(Failure::Io(format!("cannot start a thread: {error}"))),
        }
    })
}

/// The message of `raise_exception`, or ours with the line.
fn explain(error: jinja::Error) -> String {
    match error {
        jinja::Error::Raised(message) => message,
        jinja::Error::Failed { message, line: 0 } => message,
        jinja::Error::Failed { message, line } => format!("line {line}: {message}"),
    }
}
