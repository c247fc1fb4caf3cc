//! Jinja2's filters, and tojson as transformers has it.

use std::rc::Rc;

use super::arguments::{count, dotted, Argument, Arguments};
use super::budget::{fail, Result, Text};
use super::format;
use super::interpreter::Context;
use super::lookup::find_attribute;
use super::markup;
use super::methods;
use super::numbers;
use super::print::{escape_html, json_dumps, to_str, JsonStyle};
use super::sequences;
use super::strings;
use super::text::{byte_of, is_space, is_word, length, split_lines};
use super::value::{Dict, Number, Str, Value};
use super::wrap;

/// Every filter; one that is missing here does not exist.
pub const NAMES: &str =
    "abs attr batch capitalize center count d default dictsort e escape filesizeformat first \
    float forceescape format groupby indent int items join last length list lower map max \
    min pprint reject rejectattr replace reverse round safe select selectattr slice sort \
    string striptags sum title tojson trim truncate unique upper urlencode urlize wordcount \
    wordwrap xmlattr";

pub fn apply(cx: &Context, name: &str, value: &Value, arguments: &Arguments) -> Result<Value> {
    let budget = &cx.budget;
    match name {
        "abs" => match value.defined()?.number() {
            Some(Number::Int(value)) => Ok(Value::Int(value.saturating_abs())),
            Some(Number::Float(value)) => Ok(Value::Float(value.abs())),
            None => fail(format!("abs: expected a number, found {}", value.type_name())),
        },
        "attr" => {
            let [name] = arguments.bind("attr", ["name"])?;
            let name = to_str(cx, &name.required("name")?)?;
            let found = match value {
                Value::Dict(_) => methods::attribute(value, &name),
                _ => find_attribute(cx, value, &name)?,
            };
            Ok(found.unwrap_or_else(|| {
                Value::undefined(format!("a {} has no attribute {name:?}", value.type_name()))
            }))
        }
        "batch" => sequences::batch(cx, value, arguments),
        "capitalize" | "lower" | "upper" => {
            arguments.none(name)?;
            methods::call(cx, &soft_str(cx, value)?, name, arguments)
        }
        "center" => {
            let [width] = arguments.bind("center", ["width"])?;
            let width = count(width.or(Some(Value::Int(80))).int("width")?);
            let text = to_str(cx, value)?;
            Value::str(budget, strings::pad(cx, &text, "center", width, ' ')?)
        }
        "count" | "length" => {
            arguments.none(name)?;
            budget.read(value.as_str().map_or(0, str::len))?;
            match value.len() {
                Some(length) => Ok(Value::Int(length as i128)),
                None => fail(format!("a value of type {} has no length", value.type_name())),
            }
        }
        "d" | "default" => {
            let [default, boolean] = arguments.bind(name, ["default_value", "boolean"])?;
            let is_missing = value.is_undefined() || (boolean.flag(false) && !value.is_true());
            Ok(match is_missing {
                true => default.unwrap_or_else(|| Value::text("")),
                false => value.clone(),
            })
        }
        "dictsort" => sequences::dict_sort(cx, value, arguments),
        "e" | "escape" | "forceescape" => {
            arguments.none(name)?;
            if value.is_markup() && name != "forceescape" {
                return Ok(value.clone());
            }
            let text = escape_html(budget, &to_str(cx, value)?)?;
            Ok(Value::Str(Str { text: text.into(), markup: true }))
        }
        "filesizeformat" => numbers::file_size(cx, value, arguments),
        "first" => {
            arguments.none(name)?;
            let items = value.items(budget)?;
            Ok(items.first().cloned().unwrap_or_else(|| Value::undefined("first of no items")))
        }
        "last" => {
            arguments.none(name)?;
            let items = reversible(cx, value)?;
            Ok(items.last().cloned().unwrap_or_else(|| Value::undefined("last of no items")))
        }
        "float" => {
            let [default] = arguments.bind("float", ["default"])?;
            Ok(match numbers::to_float(value.defined()?) {
                Some(value) => Value::Float(value),
                None => default.unwrap_or(Value::Float(0.0)),
            })
        }
        "format" => {
            let given = match arguments.keyword.is_empty() {
                true => Value::tuple(budget, arguments.positional.clone())?,
                false if !arguments.positional.is_empty() => {
                    return fail("format: positional and named arguments at once");
                }
                false => {
                    let mut named = Dict::default();
                    for (name, value) in &arguments.keyword {
                        named.insert_str(name, value.clone());
                    }
                    Value::dict(budget, named)?
                }
            };
            match soft_str(cx, value)? {
                Value::Str(text) => format::percent(cx, &text, &given),
                _ => unreachable!("soft_str gives strings"),
            }
        }
        "groupby" => sequences::group_by(cx, value, arguments),
        "indent" => indent(cx, value, arguments),
        "int" => {
            let [default, base] = arguments.bind("int", ["default", "base"])?;
            let base = base.and_then(|base| base.int()).unwrap_or(10);
            Ok(match numbers::to_int(value.defined()?, base) {
                Some(value) => Value::Int(value),
                None => default.unwrap_or(Value::Int(0)),
            })
        }
        "items" => match value {
            Value::Undefined(_) => Value::iterator(budget, Vec::new()),
            Value::Dict(_) => {
                let items = methods::call(cx, value, "items", arguments)?.items(budget)?;
                Value::iterator(budget, items.to_vec())
            }
            _ => fail(format!("items: expected a dict, found {}", value.type_name())),
        },
        "join" => sequences::join(cx, value, arguments),
        "list" => {
            arguments.none(name)?;
            Value::list(budget, value.items(budget)?.to_vec())
        }
        "map" => sequences::map(cx, value, arguments),
        "max" | "min" => sequences::extreme(cx, name, value, arguments),
        "pprint" => {
            arguments.none(name)?;
            Value::str(budget, wrap::pretty(cx, value)?)
        }
        "reject" | "select" => {
            let wanted = name == "select";
            sequences::select(cx, value, arguments, wanted, |item| Ok(item.clone()))
        }
        "rejectattr" | "selectattr" => {
            let Some(attribute) = arguments.positional.first() else {
                return fail(format!("{name}: expected the name of an attribute"));
            };
            let wanted = name == "selectattr";
            sequences::select(cx, value, &arguments.after(1), wanted, |item| {
                dotted(cx, item, attribute)
            })
        }
        "replace" => {
            let [old, new, limit] = arguments.bind("replace", ["old", "new", "count"])?;
            let old = to_str(cx, &old.required("old")?)?;
            let new = to_str(cx, &new.required("new")?)?;
            let limit = limit.optional_int("count")?.and_then(|limit| usize::try_from(limit).ok());
            Value::str(budget, strings::replace(cx, &to_str(cx, value)?, &old, &new, limit)?)
        }
        "reverse" => {
            arguments.none(name)?;
            if let Value::Str(text) = value {
                let reversed: String = text.text.chars().rev().collect();
                return Value::str(budget, reversed);
            }
            let items = reversible(cx, value)?;
            Value::iterator(budget, items.iter().rev().cloned().collect())
        }
        "round" => numbers::round(value, arguments),
        // Jinja2's `safe` makes a string that escapes what is joined to it, which no prompt wants.
        "safe" => arguments.none(name).and_then(|()| Value::str(budget, to_str(cx, value)?)),
        "slice" => sequences::slice(cx, value, arguments),
        "sort" => sequences::sort_items(cx, value, arguments),
        "string" => arguments.none(name).and_then(|()| soft_str(cx, value)),
        "striptags" => {
            arguments.none(name)?;
            Value::str(budget, markup::strip_tags(cx, &to_str(cx, value)?)?)
        }
        "sum" => sequences::sum(cx, value, arguments),
        "title" => {
            arguments.none(name)?;
            let text = to_str(cx, value)?;
            let mut out = Text::new(budget);
            let begins = |c: char| is_space(c) || "-({[<".contains(c);
            for word in text.split_inclusive(begins) {
                let first = word.chars().next().map_or(0, char::len_utf8);
                out.push_str(&word[..first].to_uppercase())?;
                out.push_str(&word[first..].to_lowercase())?;
            }
            Value::str(budget, out.as_str())
        }
        "tojson" => to_json(cx, value, arguments),
        "trim" => {
            let [characters] = arguments.bind("trim", ["chars"])?;
            let positional = characters.into_iter().collect();
            let arguments = Arguments { positional, keyword: Vec::new() };
            methods::call(cx, &soft_str(cx, value)?, "strip", &arguments)
        }
        "truncate" => truncate(cx, value, arguments),
        "unique" => sequences::unique(cx, value, arguments),
        "urlencode" => markup::url_encode(cx, value, arguments),
        "urlize" => markup::urlize(cx, value, arguments),
        "wordcount" => {
            arguments.none(name)?;
            let text = to_str(cx, value)?;
            let words = text.split(|c| !is_word(c)).filter(|word| !word.is_empty()).count();
            Ok(Value::Int(words as i128))
        }
        "wordwrap" => wrap::word_wrap(cx, value, arguments),
        "xmlattr" => markup::xml_attributes(cx, value, arguments),
        "random" => fail("the filter random is not supported: a prompt has to be reproducible"),
        _ => fail(format!("there is no filter {name}")),
    }
}

/// The value as a string; one that is a string stays what it is.
pub fn soft_str(cx: &Context, value: &Value) -> Result<Value> {
    match value {
        Value::Str(_) => Ok(value.clone()),
        _ => Value::str(&cx.budget, to_str(cx, value)?),
    }
}

/// What Python's reversed() takes.
fn reversible(cx: &Context, value: &Value) -> Result<Rc<Vec<Value>>> {
    match value {
        Value::Iterator(_) => fail("an iterator cannot be reversed"),
        _ => value.items(&cx.budget),
    }
}

// --- text ---

fn indent(cx: &Context, value: &Value, arguments: &Arguments) -> Result<Value> {
    let [width, first, blank] = arguments.bind("indent", ["width", "first", "blank"])?;
    let width = match width {
        Some(Value::Str(text)) => text.text,
        other => {
            let mut spaces = Text::new(&cx.budget);
            spaces.fill(' ', count(other.or(Some(Value::Int(4))).int("width")?))?;
            spaces.into_string().into()
        }
    };
    let text = Some(value.clone()).text("indent")?;
    let text = [&text, "\n"].concat(); // a last newline is no line of its own
    let mut out = Text::new(&cx.budget);
    for (index, line) in split_lines(&text, false).into_iter().enumerate() {
        if index > 0 {
            out.push('\n')?;
        }
        let is_indented = match index {
            0 => first.as_ref().is_some_and(Value::is_true),
            _ => !line.is_empty() || blank.as_ref().is_some_and(Value::is_true),
        };
        if is_indented {
            out.push_str(&width)?;
        }
        out.push_str(line)?;
    }
    Value::str(&cx.budget, out.as_str())
}

fn truncate(cx: &Context, value: &Value, arguments: &Arguments) -> Result<Value> {
    let [limit, kill_words, end, leeway] =
        arguments.bind("truncate", ["length", "killwords", "end", "leeway"])?;
    let limit = limit.or(Some(Value::Int(255))).int("length")?;
    let leeway = leeway.optional_int("leeway")?.unwrap_or(5);
    let end = end.printed(cx, "...")?;
    if limit < length(&end) as i128 || leeway < 0 {
        return fail("truncate: the length is at least that of the end, the leeway not negative");
    }
    let Some(text) = value.defined()?.as_str() else {
        return fail(format!("truncate: expected a str, found {}", value.type_name()));
    };
    if length(text) as i128 <= limit.saturating_add(leeway) {
        return Ok(value.clone());
    }
    let mut kept = &text[..byte_of(text, count(limit) - length(&end))];
    if !kill_words.flag(false) {
        kept = kept.rsplit_once(' ').map_or(kept, |(before, _)| before);
    }
    Value::str(&cx.budget, kept.to_owned() + &end)
}

/// json.dumps; Jinja2's own filter would escape for HTML, transformers replaces it.
fn to_json(cx: &Context, value: &Value, arguments: &Arguments) -> Result<Value> {
    let parameters = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ensure_ascii, indent, separators, sort_keys] = arguments.bind("tojson", parameters)?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Str(text)) => Some(text.text.to_string()),
        Some(width) => {
            let mut spaces = Text::new(&cx.budget);
            spaces.fill(' ', count(Some(width).int("indent")?))?;
            Some(spaces.into_string())
        }
    };
    let (item, key) = match separators {
        None | Some(Value::None) if indent.is_some() => (",".into(), ": ".into()),
        None | Some(Value::None) => (", ".into(), ": ".into()),
        Some(pair) => match &pair.items(&cx.budget)?[..] {
            [Value::Str(item), Value::Str(key)] => (item.text.to_string(), key.text.to_string()),
            _ => return fail("tojson: separators must be a pair"),
        },
    };
    let style = JsonStyle {
        ensure_ascii: ensure_ascii.flag(false),
        indent,
        item_separator: item,
        key_separator: key,
        sort_keys: sort_keys.flag(false),
    };
    Value::str(&cx.budget, json_dumps(cx, value, &style)?)
}
