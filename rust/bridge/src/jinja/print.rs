//! Values written as Python writes them: str, repr and json.dumps.

use super::budget::{error, fail, Budget, Result, Text};
use super::interpreter::Context;
use super::text::is_printable;
use super::value::{Object, Value, MAX_VALUE_DEPTH};

/// float.__repr__: the shortest digits that read back the same, an exponent from 1e16 and below 1e-4.
pub fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let magnitude = value.abs();
    if value == 0.0 || (1e-4..1e16).contains(&magnitude) {
        let text = format!("{value}");
        return if text.contains('.') { text } else { text + ".0" };
    }
    // Rust writes 1.5e-7, Python 1.5e-07.
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => match exponent.strip_prefix('-') {
            Some(exponent) => format!("{digits}e-{exponent:0>2}"),
            None => format!("{digits}e+{exponent:0>2}"),
        },
        None => text,
    }
}

/// str(value): what `{{ value }}` prints.
pub fn to_str(cx: &Context, value: &Value) -> Result<String> {
    let mut out = Text::new(&cx.budget);
    write_str(cx, &mut out, value)?;
    Ok(out.into_string())
}

pub fn write_str(cx: &Context, out: &mut Text, value: &Value) -> Result<()> {
    match value {
        Value::Str(text) => out.push_str(&text.text),
        Value::Undefined(_) => Ok(()),
        _ => write_repr(cx, out, value),
    }
}

pub fn repr(cx: &Context, value: &Value) -> Result<String> {
    let mut out = Text::new(&cx.budget);
    write_repr(cx, &mut out, value)?;
    Ok(out.into_string())
}

fn write_repr(cx: &Context, out: &mut Text, value: &Value) -> Result<()> {
    Repr { cx, out }.value(value, 0)
}

struct Repr<'a, 'b> {
    cx: &'a Context<'a>,
    out: &'a mut Text<'b>,
}

impl Repr<'_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<()> {
        if depth > MAX_VALUE_DEPTH {
            return fail(format!("a value nested deeper than {MAX_VALUE_DEPTH} levels"));
        }
        match value {
            Value::Undefined(_) => self.out.push_str("Undefined"),
            Value::None => self.out.push_str("None"),
            Value::Bool(value) => self.out.push_str(if *value { "True" } else { "False" }),
            Value::Int(value) => self.out.push_str(&value.to_string()),
            Value::Float(value) => self.out.push_str(&float_repr(*value)),
            Value::Str(text) if text.markup => {
                self.out.push_str("Markup(")?;
                self.string(&text.text)?;
                self.out.push_str(")")
            }
            Value::Str(text) => self.string(&text.text),
            Value::List(items) => self.items("[", items, "]", depth),
            Value::Tuple(tuple) => self.items(
                "(",
                &tuple.items,
                if tuple.items.len() == 1 { ",)" } else { ")" },
                depth,
            ),
            Value::Dict(dict) => self.entries("{", dict.iter(), "}", depth),
            Value::View(view, dict) => {
                self.out.push_str(value.type_name())?;
                let items = Value::View(*view, dict.clone()).items(&self.cx.budget)?;
                self.items("([", &items, "])", depth)
            }
            Value::Range(range) if range.step == 1 => {
                self.out.push_str(&format!("range({}, {})", range.start, range.stop))
            }
            Value::Range(range) => self
                .out
                .push_str(&format!("range({}, {}, {})", range.start, range.stop, range.step)),
            Value::Iterator(_) => self.out.push_str("<generator object>"),
            Value::Object(object) => match &**object {
                Object::Namespace(attributes) => {
                    self.entries("<Namespace {", attributes.borrow().iter(), "}>", depth)
                }
                Object::Macro(index, _) => {
                    let name = &self.cx.template.macros[*index].name;
                    self.out.push_str(&format!("<Macro '{name}'>"))
                }
                Object::Loop(state) => {
                    let index = state.index.get() + 1;
                    self.out.push_str(&format!("<LoopContext {index}/{}>", state.items.len()))
                }
                Object::Function(name) => self.out.push_str(&format!("<function {name}>")),
                Object::Method(_, name) => self.out.push_str(&format!("<method {name}>")),
                Object::Cycler { .. } | Object::Joiner { .. } => {
                    self.out.push_str(&format!("<{} object>", value.type_name()))
                }
            },
        }
    }

    fn items(&mut self, begin: &str, items: &[Value], end: &str, depth: usize) -> Result<()> {
        self.out.push_str(begin)?;
        for (index, item) in items.iter().enumerate() {
            self.out.push_str(if index > 0 { ", " } else { "" })?;
            self.value(item, depth + 1)?;
        }
        self.out.push_str(end)
    }

    fn entries<'v>(
        &mut self,
        begin: &str,
        entries: impl Iterator<Item = (&'v Value, &'v Value)>,
        end: &str,
        depth: usize,
    ) -> Result<()> {
        self.out.push_str(begin)?;
        for (index, (key, value)) in entries.enumerate() {
            self.out.push_str(if index > 0 { ", " } else { "" })?;
            self.value(key, depth + 1)?;
            self.out.push_str(": ")?;
            self.value(value, depth + 1)?;
        }
        self.out.push_str(end)
    }

    fn string(&mut self, text: &str) -> Result<()> {
        let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
        self.out.push(quote)?;
        self.out.push_escaped(text, |character| match character {
            '\n' => Some("\\n".into()),
            '\r' => Some("\\r".into()),
            '\t' => Some("\\t".into()),
            '\\' => Some("\\\\".into()),
            _ if character == quote => Some(format!("\\{quote}").into()),
            ' '..='~' => None,
            _ => (!is_printable(character)).then(|| escape(character).into()),
        })?;
        self.out.push(quote)
    }
}

fn escape(character: char) -> String {
    match character as u32 {
        code @ 0..=0xff => format!("\\x{code:02x}"),
        code @ 0x100..=0xffff => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    }
}

/// ascii(value)
pub fn ascii(cx: &Context, value: &Value) -> Result<String> {
    let mut out = Text::new(&cx.budget);
    out.push_escaped(&repr(cx, value)?, |character| {
        (!character.is_ascii()).then(|| escape(character).into())
    })?;
    Ok(out.into_string())
}

/// The characters that mean something in HTML, as markupsafe writes them.
pub fn escape_html(budget: &Budget, text: &str) -> Result<String> {
    let mut out = Text::new(budget);
    out.push_escaped(text, |character| match character {
        '&' => Some("&amp;".into()),
        '<' => Some("&lt;".into()),
        '>' => Some("&gt;".into()),
        '"' => Some("&#34;".into()),
        '\'' => Some("&#39;".into()),
        _ => None,
    })?;
    Ok(out.into_string())
}

// --- json.dumps ---

pub struct JsonStyle {
    pub ensure_ascii: bool,
    pub indent: Option<String>,
    pub item_separator: String,
    pub key_separator: String,
    pub sort_keys: bool,
}

pub fn json_dumps(cx: &Context, value: &Value, style: &JsonStyle) -> Result<String> {
    let mut out = Text::new(&cx.budget);
    Json { cx, out: &mut out, style }.value(value, 0)?;
    Ok(out.into_string())
}

struct Json<'a, 'b> {
    cx: &'a Context<'a>,
    out: &'a mut Text<'b>,
    style: &'a JsonStyle,
}

impl Json<'_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<()> {
        if depth > MAX_VALUE_DEPTH {
            return fail(format!("a value nested deeper than {MAX_VALUE_DEPTH} levels"));
        }
        match value {
            Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
                self.out.push_str(&json_scalar(value))
            }
            Value::Str(text) => self.string(&text.text),
            Value::List(items) => self.list(items, depth),
            Value::Tuple(tuple) => self.list(&tuple.items, depth),
            Value::Dict(dict) => {
                let mut entries: Vec<(&Value, &Value)> = dict.iter().collect();
                if self.style.sort_keys {
                    let cx = self.cx;
                    entries = super::operators::sort(cx, entries, |a, b| cx.less(a.0, b.0))?;
                }
                self.list_of('{', '}', depth, entries.len(), |json, index| {
                    let (key, value) = entries[index];
                    match key {
                        Value::Str(text) => json.string(&text.text)?,
                        Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
                            json.string(&json_scalar(key))?
                        }
                        _ => {
                            let kind = key.type_name();
                            return Err(error(format!("tojson: a {kind} cannot be a key")));
                        }
                    }
                    json.out.push_str(&json.style.key_separator)?;
                    json.value(value, depth + 1)
                })
            }
            Value::Undefined(message) => fail(format!("tojson: {message}")),
            _ => fail(format!("tojson: a {} is not JSON serializable", value.type_name())),
        }
    }

    fn list(&mut self, items: &[Value], depth: usize) -> Result<()> {
        self.list_of('[', ']', depth, items.len(), |json, index| {
            json.value(&items[index], depth + 1)
        })
    }

    fn list_of(
        &mut self,
        begin: char,
        end: char,
        depth: usize,
        count: usize,
        mut write: impl FnMut(&mut Self, usize) -> Result<()>,
    ) -> Result<()> {
        self.out.push(begin)?;
        for index in 0..count {
            if index > 0 {
                self.out.push_str(&self.style.item_separator)?;
            }
            self.new_line(depth + 1)?;
            write(self, index)?;
        }
        if count > 0 {
            self.new_line(depth)?;
        }
        self.out.push(end)
    }

    fn new_line(&mut self, depth: usize) -> Result<()> {
        if let Some(indent) = &self.style.indent {
            self.out.push('\n')?;
            self.out.repeat(indent, depth)?;
        }
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<()> {
        let ensure_ascii = self.style.ensure_ascii;
        self.out.push('"')?;
        self.out.push_escaped(text, |character| match character {
            '"' => Some("\\\"".into()),
            '\\' => Some("\\\\".into()),
            '\n' => Some("\\n".into()),
            '\r' => Some("\\r".into()),
            '\t' => Some("\\t".into()),
            '\u{8}' => Some("\\b".into()),
            '\u{c}' => Some("\\f".into()),
            ' '..='~' => None,
            _ if character >= ' ' && !ensure_ascii => None,
            _ => {
                let units = character.encode_utf16(&mut [0; 2]).to_vec();
                Some(units.iter().map(|unit| format!("\\u{unit:04x}")).collect())
            }
        })?;
        self.out.push('"')
    }
}

fn json_scalar(value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) if value.is_nan() => "NaN".into(),
        Value::Float(value) if value.is_infinite() => {
            if *value > 0.0 { "Infinity" } else { "-Infinity" }.into()
        }
        Value::Float(value) => float_repr(*value),
        _ => "null".into(),
    }
}
