//! Chat templates: minijinja set up as transformers sets up Jinja2.

use std::fmt::{self, Write};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{from_args, Kwargs, Rest, Serde, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State};
use minijinja_contrib::globals::{cycler, joiner};
use minijinja_contrib::pycompat;

use crate::guard::{guarded, Failure};
use crate::python::{json_dumps, to_str, JsonStyle};

const NAME: &str = "chat template";
/// Instructions a rendering may take. A conversation of a thousand turns needs some hundred thousand.
const FUEL: u64 = 2_000_000;
/// Real templates have some thousand bytes.
const MAX_SOURCE_BYTES: usize = 1 << 17;
/// Values and expressions nest as deep as the two limits above allow, and are dropped recursively.
/// Memory of a stack counts only where it is used.
const STACK_BYTES: usize = 1 << 27;

pub struct Template {
    environment: Environment<'static>,
}

impl Template {
    pub fn compile(source: &str) -> Result<Template, Failure> {
        if source.len() > MAX_SOURCE_BYTES {
            let size = source.len();
            return Err(Failure::Data(format!("{size} bytes; the limit is {MAX_SOURCE_BYTES}")));
        }
        let source = without_generation_marks(&with_unix_newlines(source));
        on_large_stack(move || Template::compile_bounded(source))
    }

    fn compile_bounded(source: String) -> Result<Template, Failure> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(Failure::data)?);
        environment.set_fuel(Some(FUEL));
        environment.set_debug(true); // errors name the undefined value
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_formatter(print);
        environment.set_unknown_method_callback(call_method);
        environment.add_filter("tojson", tojson);
        environment.add_filter("int", to_int);
        environment.add_filter("float", to_float);
        environment.add_filter("string", |value: &Value| to_str(value));
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_function("cycler", |items: Rest<Value>| cycler(items.0));
        environment.add_function("joiner", joiner);
        environment.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
        environment.add_test("sequence", is_sequence);
        environment
            .add_template_owned(NAME, source)
            .map_err(|error| Failure::Data(explain(&error)))?;
        Ok(Template { environment })
    }

    pub fn render(&self, variables: &[u8]) -> Result<String, Failure> {
        on_large_stack(|| {
            let variables: serde_json::Value =
                serde_json::from_slice(variables).map_err(Failure::argument)?;
            self.environment
                .get_template(NAME)
                .and_then(|template| template.render(Value::from(Serde(&variables))))
                .map_err(|error| Failure::Argument(explain(&error)))
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

/// The message of `raise_exception`, or minijinja's with the line.
fn explain(error: &Error) -> String {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(raised) = error.downcast_ref::<Raised>() {
            return raised.0.clone();
        }
        cause = error.source();
    }
    error.to_string()
}

#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
}

fn strftime_now(format: &str) -> Result<String, Error> {
    let mut text = String::new();
    write!(text, "{}", chrono::Local::now().format(format)).map_err(|_| {
        Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {format:?}"))
    })?;
    Ok(text)
}

/// json.dumps; Jinja2's own filter would escape for HTML, transformers replaces it.
fn tojson(value: &Value, kwargs: Kwargs) -> Result<String, Error> {
    let indent = match kwargs.get::<Option<Value>>("indent")? {
        None => None,
        Some(value) if value.is_none() => None,
        Some(value) => Some(match value.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(i64::try_from(value)?.clamp(0, 1000)).unwrap_or(0)),
        }),
    };
    let (item, key) = match kwargs.get::<Option<Vec<String>>>("separators")? {
        Some(pair) => match <[String; 2]>::try_from(pair) {
            Ok([item, key]) => (item, key),
            Err(_) => {
                let message = "tojson: separators must be a pair";
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        },
        None if indent.is_some() => (",".into(), ": ".into()),
        None => (", ".into(), ": ".into()),
    };
    let style = JsonStyle {
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        indent,
        item_separator: item,
        key_separator: key,
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    json_dumps(value, &style)
}

/// Jinja2's `int` and `float` give a default where minijinja's fail.
fn to_int(value: &Value, default: Option<Value>) -> Value {
    if value.is_integer() {
        return value.clone();
    }
    if let Some(text) = value.as_str() {
        if let Ok(integer) = text.trim().parse::<i64>() {
            return integer.into();
        }
    }
    match as_float(value) {
        Some(float) if float.is_finite() => Value::from(float.trunc() as i128),
        _ => default.unwrap_or_else(|| 0.into()),
    }
}

fn to_float(value: &Value, default: Option<Value>) -> Value {
    as_float(value).map_or_else(|| default.unwrap_or_else(|| 0.0.into()), Value::from)
}

fn as_float(value: &Value) -> Option<f64> {
    match value.kind() {
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        _ => value.as_str().and_then(|text| text.trim().parse().ok()),
    }
}

/// Prints as Python: lists and mappings by their repr.
fn print(out: &mut Output, _: &mut State, value: &Value) -> Result<(), Error> {
    out.write_str(&to_str(value)?).map_err(Error::from)
}

/// Methods of Python's strings that minijinja-contrib lacks, then its own.
fn call_method(
    state: &mut State,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let Some(text) = value.as_str().filter(|_| value.kind() == ValueKind::String) else {
        return pycompat::unknown_method_callback(state, value, name, args);
    };
    match name {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(text.strip_prefix(prefix).unwrap_or(text).into())
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(text.strip_suffix(suffix).unwrap_or(text).into())
        }
        "rsplit" => {
            let (separator, limit): (&str, Option<usize>) = from_args(args)?;
            let mut parts: Vec<&str> = match limit {
                Some(limit) => text.rsplitn(limit.saturating_add(1), separator).collect(),
                None => text.rsplit(separator).collect(),
            };
            parts.reverse();
            Ok(strings(&parts))
        }
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            Ok(match text.split_once(separator) {
                Some((before, after)) => strings(&[before, separator, after]),
                None => strings(&[text, "", ""]),
            })
        }
        _ => pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// Jinja2's test asks for a length and an index: strings and mappings have both.
fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
}

fn strings(parts: &[&str]) -> Value {
    parts.iter().map(|part| Value::from(*part)).collect()
}

/// Jinja2 reads every kind of line end as one newline.
fn with_unix_newlines(source: &str) -> String {
    source.replace("\r\n", "\n").replace('\r', "\n")
}

/// transformers marks the assistant's text by {% generation %} … {% endgeneration %}, for training;
/// the marks print nothing, but trim space as any block does.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(begin) = rest.find("{%") {
        let (before, tag) = rest.split_at(begin);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (inside, after) = (&tag[2..end], &tag[end..]);
        let word = inside.trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
        out.push_str("{%");
        match word {
            "generation" => out.push_str(&inside.replace(word, "if true")),
            "endgeneration" => out.push_str(&inside.replace(word, "endif")),
            _ => out.push_str(inside),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}
