//! Python's two ways to format: "%s" % x, and "{}".format(x).

use std::rc::Rc;

use super::arguments::Arguments;
use super::budget::{fail, Result, Text};
use super::interpreter::Context;
use super::lookup;
use super::print::{ascii, escape_html, repr, to_str};
use super::spec::{self, number, Spec};
use super::text::length;
use super::value::{Number, Str, Value};

// --- "…" % value ---

/// The values that a format takes, in order or by name.
struct Values<'a> {
    value: &'a Value,
    items: Rc<Vec<Value>>,
    next: usize,
}

impl Values<'_> {
    fn next(&mut self) -> Result<Value> {
        let Some(value) = self.items.get(self.next) else {
            return fail("not enough arguments for the format");
        };
        self.next += 1;
        Ok(value.clone())
    }

    fn next_int(&mut self) -> Result<i128> {
        match self.next()?.int() {
            Some(value) => Ok(value),
            None => fail("*: expected an int"),
        }
    }
}

pub fn percent(cx: &Context, format: &Str, value: &Value) -> Result<Value> {
    let items = match value {
        Value::Tuple(tuple) => tuple.items.clone(),
        _ => Rc::new(vec![value.clone()]),
    };
    let mut values = Values { value, items, next: 0 };
    let mut out = Text::new(&cx.budget);
    let mut rest = &*format.text;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at])?;
        rest = &rest[at + 1..];
        rest = percent_one(cx, &mut out, rest, &mut values, format.markup)?;
    }
    out.push_str(rest)?;
    let takes_rest = matches!(value, Value::Dict(_) | Value::List(_) | Value::Undefined(_));
    if values.next < values.items.len() && !takes_rest {
        return fail("not all arguments of the format are used");
    }
    Ok(Value::Str(Str { text: out.into_string().into(), markup: format.markup }))
}

/// One conversion, whose text begins behind its "%"; gives what follows it.
fn percent_one<'a>(
    cx: &Context,
    out: &mut Text,
    format: &'a str,
    values: &mut Values,
    markup: bool,
) -> Result<&'a str> {
    if let Some(rest) = format.strip_prefix('%') {
        out.push('%')?;
        return Ok(rest);
    }
    let mut rest = format;
    let mut named = None;
    if let Some(inside) = rest.strip_prefix('(') {
        let mut open = 1;
        let end = inside.char_indices().find(|(_, c)| {
            open += i32::from(*c == '(') - i32::from(*c == ')');
            open == 0
        });
        let Some((end, _)) = end else {
            return fail("a format with an open (");
        };
        let Value::Dict(dict) = values.value else {
            return fail("a format with names takes a dict");
        };
        named = Some(match dict.get_str(&inside[..end]) {
            Some(value) => value.clone(),
            None => return fail(format!("the format's value has no key {:?}", &inside[..end])),
        });
        rest = &inside[end + 1..];
    }
    let mut spec = Spec::default();
    let mut is_left = false;
    while let Some(flag) = rest.chars().next().filter(|c| "-+ #0".contains(*c)) {
        match flag {
            '-' => is_left = true,
            '+' => spec.sign = Some('+'),
            ' ' => spec.sign = spec.sign.or(Some(' ')),
            '#' => spec.alternate = true,
            _ => spec.zero = true,
        }
        rest = &rest[1..];
    }
    if let Some(after) = rest.strip_prefix('*') {
        let width = values.next_int()?;
        is_left |= width < 0;
        spec.width = usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX);
        rest = after;
    } else {
        (spec.width, rest) = number(rest)?;
    }
    if let Some(after) = rest.strip_prefix('.') {
        if let Some(after) = after.strip_prefix('*') {
            spec.precision = Some(super::arguments::count(values.next_int()?));
            rest = after;
        } else {
            let (precision, after) = number(after)?;
            spec.precision = Some(precision);
            rest = after;
        }
    }
    rest = rest.strip_prefix(['h', 'l', 'L']).unwrap_or(rest);
    let Some(kind) = rest.chars().next() else {
        return fail("an incomplete format");
    };
    rest = &rest[kind.len_utf8()..];
    if is_left {
        (spec.align, spec.zero) = (Some('<'), false);
    }
    let value = match named {
        Some(value) => value,
        None => values.next()?,
    };
    spec.kind = Some(kind);
    percent_value(cx, out, &mut spec, &value, markup)?;
    Ok(rest)
}

fn percent_value(
    cx: &Context,
    out: &mut Text,
    spec: &mut Spec,
    value: &Value,
    markup: bool,
) -> Result<()> {
    let kind = spec.kind.unwrap_or('s');
    let wrong =
        |expected: &str| fail(format!("%{kind}: expected {expected}, found {}", value.type_name()));
    match kind {
        's' | 'r' | 'a' | 'c' => {
            spec.zero = false;
            spec.align = spec.align.or(Some('>'));
            let mut text = match kind {
                'r' => repr(cx, value)?,
                'a' => ascii(cx, value)?,
                's' => to_str(cx, value)?,
                _ => match (value, value.int()) {
                    (Value::Str(text), _) if length(&text.text) == 1 => text.text.to_string(),
                    (_, Some(code)) => match u32::try_from(code).ok().and_then(char::from_u32) {
                        Some(c) => c.into(),
                        None => return fail("%c: not the code of a character"),
                    },
                    _ => return wrong("an int or one character"),
                },
            };
            if markup && !value.is_markup() {
                text = escape_html(&cx.budget, &text)?;
            }
            spec.precision = spec.precision.filter(|_| kind != 'c');
            spec.string(out, &text)
        }
        'd' | 'i' | 'u' | 'o' | 'x' | 'X' => {
            let integer = match (value.defined()?.number(), kind) {
                (Some(Number::Int(value)), _) => value,
                (Some(Number::Float(value)), 'd' | 'i' | 'u') if value.is_finite() => value as i128,
                _ => return wrong("a number"),
            };
            spec.kind = Some(if matches!(kind, 'i' | 'u') { 'd' } else { kind });
            spec.int(cx, out, integer)
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => match value.defined()?.number() {
            Some(number) => spec.float(cx, out, number.to_f64()),
            None => wrong("a number"),
        },
        _ => fail(format!("%{kind}: no such conversion")),
    }
}

// --- "…".format(…) ---

/// How deep "{:{}}" may go.
const MAX_FORMAT_DEPTH: usize = 2;

pub fn format(cx: &Context, format: &Str, arguments: &Arguments) -> Result<Value> {
    let mut out = Text::new(&cx.budget);
    let mut fields = Fields { cx, arguments, next: Some(0), markup: format.markup };
    fields.write(&mut out, &format.text, MAX_FORMAT_DEPTH)?;
    Ok(Value::Str(Str { text: out.into_string().into(), markup: format.markup }))
}

struct Fields<'a> {
    cx: &'a Context<'a>,
    arguments: &'a Arguments,
    /// The index of the next "{}"; none once a field had a number.
    next: Option<usize>,
    markup: bool,
}

impl Fields<'_> {
    fn write(&mut self, out: &mut Text, format: &str, depth: usize) -> Result<()> {
        if depth == 0 {
            return fail("format: fields within fields within fields");
        }
        let mut rest = format;
        while let Some(at) = rest.find(['{', '}']) {
            out.push_str(&rest[..at])?;
            let brace = &rest[at..at + 1];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                out.push_str(brace)?;
                rest = after;
                continue;
            }
            if brace == "}" {
                return fail("format: a single \"}\"");
            }
            let mut open = 1;
            let mut in_index = false;
            let end = rest.char_indices().find(|(_, c)| {
                in_index = (in_index || (*c == '[' && open == 1)) && *c != ']';
                open += i32::from(*c == '{' && !in_index) - i32::from(*c == '}' && !in_index);
                open == 0
            });
            let Some((end, _)) = end else {
                return fail("format: expected \"}\"");
            };
            self.field(out, &rest[..end], depth)?;
            rest = &rest[end + 1..];
        }
        out.push_str(rest)
    }

    /// name!conversion:spec
    fn field(&mut self, out: &mut Text, field: &str, depth: usize) -> Result<()> {
        let mut in_index = false;
        let end = field.find(|c| {
            in_index = (in_index || c == '[') && c != ']';
            !in_index && (c == '!' || c == ':')
        });
        let (name, mut rest) = field.split_at(end.unwrap_or(field.len()));
        let mut value = self.value(name)?;
        if let Some(after) = rest.strip_prefix('!') {
            let Some(conversion) = after.chars().next() else {
                return fail("format: expected a conversion behind \"!\"");
            };
            let text = match conversion {
                's' => to_str(self.cx, &value)?,
                'r' => repr(self.cx, &value)?,
                'a' => ascii(self.cx, &value)?,
                _ => return fail(format!("format: no conversion !{conversion}")),
            };
            value = Value::str(&self.cx.budget, text)?;
            rest = &after[1..];
            if !rest.is_empty() && !rest.starts_with(':') {
                return fail("format: expected \":\" behind the conversion");
            }
        }
        let mut spec = Text::new(&self.cx.budget);
        let asked = rest.strip_prefix(':').unwrap_or_default();
        if asked.contains(['{', '}']) {
            self.write(&mut spec, asked, depth - 1)?;
        } else {
            spec.push_str(asked)?;
        }
        let mut text = Text::new(&self.cx.budget);
        format_value(self.cx, &mut text, &value, spec.as_str())?;
        match self.markup && !value.is_markup() {
            true => out.push_str(&escape_html(&self.cx.budget, text.as_str())?),
            false => out.push_str(text.as_str()),
        }
    }

    /// 0.attribute[item]
    fn value(&mut self, name: &str) -> Result<Value> {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut rest) = name.split_at(end);
        if first.is_empty() && !rest.is_empty() {
            return fail("format: an attribute or item of nothing");
        }
        let mut value = match first.parse::<usize>() {
            Ok(index) => {
                if self.next.is_some_and(|next| next > 0) {
                    return fail("format: numbered and plain fields in one string");
                }
                self.next = None;
                self.positional(index)?
            }
            Err(_) if first.is_empty() => {
                let Some(index) = self.next else {
                    return fail("format: numbered and plain fields in one string");
                };
                self.next = Some(index + 1);
                self.positional(index)?
            }
            Err(_) => match self.arguments.keyword.iter().find(|(name, _)| **name == *first) {
                Some((_, value)) => value.clone(),
                None => return fail(format!("format: there is no argument {first}")),
            },
        };
        while !rest.is_empty() {
            let found = if let Some(after) = rest.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                rest = &after[end..];
                lookup::find_attribute(self.cx, &value, &after[..end])?
            } else {
                let inside = rest.strip_prefix('[').and_then(|inside| inside.split_once(']'));
                let Some((index, after)) = inside else {
                    return fail("format: expected \".\" or \"[…]\"");
                };
                rest = after;
                let index = match index.parse::<i128>() {
                    Ok(number) if !index.starts_with(['-', '+']) => Value::Int(number),
                    _ => Value::str(&self.cx.budget, index)?,
                };
                lookup::find_item(self.cx, &value, &index)?
            };
            value = found.unwrap_or_else(|| Value::undefined(format!("{name} is undefined")));
        }
        Ok(value)
    }

    fn positional(&self, index: usize) -> Result<Value> {
        match self.arguments.positional.get(index) {
            Some(value) => Ok(value.clone()),
            None => fail(format!("format: there is no argument {index}")),
        }
    }
}

/// format(value, spec)
fn format_value(cx: &Context, out: &mut Text, value: &Value, spec: &str) -> Result<()> {
    if spec.is_empty() {
        return super::print::write_str(cx, out, value);
    }
    let spec = spec::parse(spec)?;
    let wrong = |kind: char| {
        fail(format!("format: {kind:?} does not go with a value of type {}", value.type_name()))
    };
    match (value, spec.kind) {
        (Value::Str(text), None | Some('s')) => {
            if spec.align == Some('=') || spec.sign.is_some() || spec.grouping.is_some() {
                return fail("format: signs and groups are for numbers");
            }
            let align = spec.align.or(if spec.zero { Some('<') } else { None });
            Spec { align, ..spec }.string(out, &text.text)
        }
        (Value::Str(_), Some(kind)) => wrong(kind),
        _ => match (value.number(), spec.kind) {
            (Some(Number::Int(code)), Some('c')) => {
                match u32::try_from(code).ok().and_then(char::from_u32) {
                    Some(c) => spec.pad(out, "", c.encode_utf8(&mut [0; 4]), '<'),
                    None => fail("format: not the code of a character"),
                }
            }
            (Some(Number::Int(value)), None | Some('b' | 'd' | 'n' | 'o' | 'x' | 'X')) => {
                if spec.precision.is_some() {
                    return fail("format: an int has no precision");
                }
                spec.int(cx, out, value)
            }
            (Some(number), None | Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | 'n' | '%')) => {
                spec.float(cx, out, number.to_f64())
            }
            (_, kind) => wrong(kind.unwrap_or('s')),
        },
    }
}
