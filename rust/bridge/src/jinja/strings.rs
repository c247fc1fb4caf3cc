//! The methods of str.

use super::arguments::{count, Argument, Arguments};
use super::budget::{fail, Result, Text};
use super::format;
use super::interpreter::Context;
use super::lookup;
use super::operators;
use super::print::to_str;
use super::text::*;
use super::value::{Dict, Key, Str, Value, VALUE_BYTES};

pub const METHODS: &str =
    "capitalize casefold center count endswith expandtabs find format format_map index \
    isalnum isalpha isascii isdecimal isdigit isidentifier islower isnumeric isprintable \
    isspace istitle isupper join ljust lower lstrip maketrans partition removeprefix \
    removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines \
    startswith strip swapcase title translate upper zfill";

pub fn call(cx: &Context, of: &Str, name: &str, arguments: &Arguments) -> Result<Value> {
    let text = &*of.text;
    cx.budget.read(text.len())?;
    let string = |text: String| -> Result<Value> {
        cx.budget.make(text.len() + 2 * VALUE_BYTES)?;
        Ok(Value::Str(Str { text: text.into(), markup: of.markup }))
    };
    let part = |part: &str| string(part.into());
    let parts =
        |found: &[&str]| -> Result<Vec<Value>> { found.iter().map(|text| part(text)).collect() };
    let all = |test: fn(char) -> bool| {
        arguments.none(name)?;
        Ok(Value::Bool(!text.is_empty() && text.chars().all(test)))
    };
    let convert = |convert: fn(&str) -> String| {
        arguments.none(name)?;
        string(convert(text))
    };
    match name {
        "capitalize" => convert(capitalize),
        "casefold" => convert(case_fold),
        "lower" => convert(str::to_lowercase),
        "upper" => convert(str::to_uppercase),
        "swapcase" => convert(swap_case),
        "title" => convert(title),
        "isalnum" => all(is_alnum),
        "isalpha" => all(is_alpha),
        "isdecimal" => all(is_decimal),
        "isdigit" => all(is_digit),
        "isnumeric" => all(is_numeric),
        "isspace" => all(is_space),
        "isascii" => arguments.none(name).map(|()| Value::Bool(text.is_ascii())),
        "isprintable" => arguments.none(name).map(|()| Value::Bool(text.chars().all(is_printable))),
        "isidentifier" => arguments.none(name).map(|()| Value::Bool(is_identifier(text))),
        "istitle" => arguments.none(name).map(|()| Value::Bool(is_titled(text))),
        "islower" => arguments.none(name).map(|()| {
            Value::Bool(has_case(text, char::is_lowercase, |c| c.is_uppercase() || is_title(c)))
        }),
        "isupper" => arguments.none(name).map(|()| {
            Value::Bool(has_case(text, char::is_uppercase, |c| c.is_lowercase() || is_title(c)))
        }),
        "startswith" | "endswith" => {
            let [affix, start, stop] = arguments.bind(name, ["prefix", "start", "end"])?;
            let affixes = match affix.required("prefix")? {
                Value::Tuple(tuple) => tuple.items.to_vec(),
                one => vec![one],
            };
            let (start, stop) = (start.optional_int("start")?, stop.optional_int("end")?);
            let within = slice_of(text, start, stop);
            for affix in affixes {
                let affix = Some(affix).text(name)?;
                let found = within.is_some_and(|text| match name {
                    "startswith" => text.starts_with(&*affix),
                    _ => text.ends_with(&*affix),
                });
                if found {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        "count" | "find" | "index" | "rfind" | "rindex" => find(text, name, arguments),
        "strip" | "lstrip" | "rstrip" => {
            let [characters] = arguments.bind(name, ["chars"])?;
            let characters = characters.optional_text(name)?;
            let is_stripped = |c: char| match &characters {
                Some(characters) => characters.contains(c),
                None => is_space(c),
            };
            part(match name {
                "strip" => text.trim_matches(is_stripped),
                "lstrip" => text.trim_start_matches(is_stripped),
                _ => text.trim_end_matches(is_stripped),
            })
        }
        "removeprefix" | "removesuffix" => {
            let [affix] = arguments.bind(name, ["affix"])?;
            let affix = affix.text(name)?;
            let rest = match name {
                "removeprefix" => text.strip_prefix(&*affix),
                _ => text.strip_suffix(&*affix),
            };
            part(rest.unwrap_or(text))
        }
        "split" | "rsplit" => {
            let [separator, limit] = arguments.bind(name, ["sep", "maxsplit"])?;
            let limit = limit.or(Some(Value::Int(-1))).int("maxsplit")?;
            let limit = usize::try_from(limit).ok();
            let separator = separator.optional_text("sep")?;
            let limited = limit.map_or(usize::MAX, |limit| limit.saturating_add(1));
            cx.budget.make(text.len())?;
            let found: Vec<&str> = match separator.as_deref() {
                Some("") => return fail(format!("{name}: the separator is empty")),
                Some(separator) if name == "split" => text.splitn(limited, separator).collect(),
                Some(separator) => {
                    let mut found: Vec<&str> = text.rsplitn(limited, separator).collect();
                    found.reverse();
                    found
                }
                None if name == "split" => split_space(text, limit),
                None => rsplit_space(text, limit),
            };
            Value::list(&cx.budget, parts(&found)?)
        }
        "splitlines" => {
            let [keep_ends] = arguments.bind(name, ["keepends"])?;
            Value::list(&cx.budget, parts(&split_lines(text, keep_ends.int_flag("keepends")?))?)
        }
        "partition" | "rpartition" => {
            let [separator] = arguments.bind(name, ["sep"])?;
            let separator = separator.text(name)?;
            if separator.is_empty() {
                return fail(format!("{name}: the separator is empty"));
            }
            let found = match name {
                "partition" => text.split_once(&*separator),
                _ => text.rsplit_once(&*separator),
            };
            let found = match found {
                Some((before, after)) => [before, &separator, after],
                None if name == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            Value::tuple(&cx.budget, parts(&found)?)
        }
        "join" => {
            let [items] = arguments.bind(name, ["iterable"])?;
            let items = items.required("iterable")?.items(&cx.budget)?;
            let mut out = Text::new(&cx.budget);
            for (index, item) in items.iter().enumerate() {
                let Value::Str(item) = item else {
                    let kind = item.type_name();
                    return fail(format!("join: item {index}: expected a str, found {kind}"));
                };
                if index > 0 {
                    out.push_str(text)?;
                }
                operators::push_markup(cx, &mut out, item, of.markup)?;
            }
            Ok(Value::Str(Str { text: out.into_string().into(), markup: of.markup }))
        }
        "replace" => {
            let [old, new, limit] = arguments.bind(name, ["old", "new", "count"])?;
            let limit = limit.or(Some(Value::Int(-1))).int("count")?;
            let limit = usize::try_from(limit).ok();
            string(replace(cx, text, &old.text("old")?, &new.text("new")?, limit)?)
        }
        "center" | "ljust" | "rjust" => {
            let [width, fill] = arguments.bind(name, ["width", "fillchar"])?;
            let width = count(width.int("width")?);
            let fill = fill.or_else(|| Some(Value::text(" "))).text("fillchar")?;
            let mut characters = fill.chars();
            let (Some(fill), None) = (characters.next(), characters.next()) else {
                return fail(format!("{name}: expected one character to fill with"));
            };
            string(pad(cx, text, name, width, fill)?)
        }
        "zfill" => {
            let [width] = arguments.bind(name, ["width"])?;
            let width = count(width.int("width")?);
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            let mut out = Text::new(&cx.budget);
            out.push_str(sign)?;
            out.fill('0', width.saturating_sub(length(text)))?;
            out.push_str(digits)?;
            string(out.into_string())
        }
        "expandtabs" => {
            let [size] = arguments.bind(name, ["tabsize"])?;
            let size = count(size.or(Some(Value::Int(8))).int("tabsize")?);
            let mut out = Text::new(&cx.budget);
            let mut column = 0usize;
            for c in text.chars() {
                match c {
                    '\t' if size == 0 => {}
                    '\t' => {
                        let width = size - column % size;
                        out.fill(' ', width)?;
                        column += width;
                    }
                    _ => {
                        out.push(c)?;
                        column = if c == '\n' || c == '\r' { 0 } else { column + 1 };
                    }
                }
            }
            string(out.into_string())
        }
        "format" => format::format(cx, of, arguments),
        "format_map" => {
            let [map] = arguments.bind(name, ["mapping"])?;
            let Some(Value::Dict(dict)) = map else {
                return fail("format_map: expected a dict");
            };
            let mut named = Arguments::default();
            for (key, value) in dict.iter() {
                named.keyword.push((to_str(cx, key)?.into(), value.clone()));
            }
            format::format(cx, of, &named)
        }
        "maketrans" => make_translation(cx, arguments),
        "translate" => {
            let [table] = arguments.bind(name, ["table"])?;
            let table = table.required("table")?;
            let mut out = Text::new(&cx.budget);
            for c in text.chars() {
                match lookup::item(cx, &table, &Value::Int(u32::from(c).into()))? {
                    None => out.push(c)?,
                    Some(Value::None) => {}
                    Some(Value::Str(text)) => out.push_str(&text.text)?,
                    Some(value) => {
                        let code = value.int().and_then(|code| u32::try_from(code).ok());
                        match code.and_then(char::from_u32) {
                            Some(c) => out.push(c)?,
                            None => return fail("translate: expected a str, an int or None"),
                        }
                    }
                }
            }
            string(out.into_string())
        }
        _ => fail(format!("a str has no method {name}")),
    }
}

/// text[start:stop], or none where start is beyond the end.
fn slice_of(text: &str, start: Option<i128>, stop: Option<i128>) -> Option<&str> {
    if start.is_none() && stop.is_none() {
        return Some(text);
    }
    let all = length(text);
    let (begin, end) = clip(start, stop, all);
    if start.is_some_and(|start| start > all as i128) {
        return None;
    }
    text.get(byte_of(text, begin)..byte_of(text, end))
}

fn find(text: &str, name: &str, arguments: &Arguments) -> Result<Value> {
    let [part, start, stop] = arguments.bind(name, ["sub", "start", "end"])?;
    let part = part.text(name)?;
    let (start, stop) = (start.optional_int("start")?, stop.optional_int("end")?);
    let within = slice_of(text, start, stop);
    if name == "count" {
        let found = within.map_or(0, |within| match part.is_empty() {
            true => length(within) + 1,
            false => within.matches(&*part).count(),
        });
        return Ok(Value::Int(found as i128));
    }
    let found = within.and_then(|within| match name.starts_with('r') {
        true => within.rfind(&*part),
        false => within.find(&*part),
    });
    match (within, found) {
        (Some(within), Some(at)) => {
            let skipped = clip(start, stop, length(text)).0;
            Ok(Value::Int((skipped + length(&within[..at])) as i128))
        }
        _ if name.ends_with("find") => Ok(Value::Int(-1)),
        _ => fail(format!("{name}: the part is not in the str")),
    }
}

/// str.replace(); no limit: all.
pub fn replace(
    cx: &Context,
    text: &str,
    old: &str,
    new: &str,
    limit: Option<usize>,
) -> Result<String> {
    let mut out = Text::new(&cx.budget);
    let mut rest = text;
    for (at, found) in text.match_indices(old).take(limit.unwrap_or(usize::MAX)) {
        let begin = text.len() - rest.len();
        out.push_str(&text[begin..at])?;
        out.push_str(new)?;
        rest = &text[at + found.len()..];
    }
    out.push_str(rest)?;
    Ok(out.into_string())
}

/// str.center(), ljust and rjust.
pub fn pad(cx: &Context, text: &str, name: &str, width: usize, fill: char) -> Result<String> {
    let missing = width.saturating_sub(length(text));
    let left = match name {
        "center" => missing / 2 + (missing & width & 1),
        "rjust" => missing,
        _ => 0,
    };
    let mut out = Text::new(&cx.budget);
    out.fill(fill, left)?;
    out.push_str(text)?;
    out.fill(fill, missing - left)?;
    Ok(out.into_string())
}

/// str.maketrans()
fn make_translation(cx: &Context, arguments: &Arguments) -> Result<Value> {
    let [from, to, deleted] = arguments.bind("maketrans", ["x", "y", "z"])?;
    let code = |c: char| Key::new(&cx.budget, &Value::Int(u32::from(c).into()));
    let mut table = Dict::default();
    match (from.required("x")?, to) {
        (Value::Dict(dict), None) => {
            for (key, value) in dict.iter() {
                let mut characters = key.as_str().unwrap_or_default().chars();
                let key = match (key, characters.next(), characters.next()) {
                    (Value::Int(_), _, _) => Key::new(&cx.budget, key)?,
                    (_, Some(c), None) => code(c)?,
                    _ => return fail("maketrans: expected keys of one character"),
                };
                table.insert(key, value.clone());
            }
        }
        (from, Some(to)) => {
            let (from, to) = (Some(from).text("x")?, Some(to).text("y")?);
            if length(&from) != length(&to) {
                return fail("maketrans: expected two strings of one length");
            }
            for (from, to) in from.chars().zip(to.chars()) {
                table.insert(code(from)?, Value::Int(u32::from(to).into()));
            }
            for c in deleted.optional_text("z")?.unwrap_or_default().chars() {
                table.insert(code(c)?, Value::None);
            }
        }
        _ => return fail("maketrans: expected a dict"),
    }
    Value::dict(&cx.budget, table)
}
