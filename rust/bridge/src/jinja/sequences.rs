//! Filters over the items of a value.

use std::rc::Rc;

use super::arguments::{dotted, Argument, Arguments};
use super::ast::Operator;
use super::budget::{error, fail, Result, Text};
use super::filters::{self, soft_str};
use super::interpreter::Context;
use super::methods;
use super::operators::{arithmetic, push_markup, sort};
use super::predicates;
use super::value::{Dict, Key, Tuple, Value, VALUE_BYTES};

/// What items are sorted or told apart by: themselves or attributes, strings without their case.
struct SortKey {
    attributes: Vec<Value>,
    fold: bool,
}

/// "a,b.c" names two.
fn attributes_of(attribute: Option<Value>) -> Vec<Value> {
    match attribute {
        None | Some(Value::None) => Vec::new(),
        Some(Value::Str(text)) => text.text.split(',').map(Value::text).collect(),
        Some(other) => vec![other],
    }
}

impl SortKey {
    fn folded(&self, cx: &Context, value: Value) -> Result<Value> {
        match value {
            Value::Str(text) if self.fold => Value::str(&cx.budget, text.text.to_lowercase()),
            other => Ok(other),
        }
    }

    fn of(&self, cx: &Context, item: &Value) -> Result<Value> {
        let keys: Result<Vec<Value>> = self
            .attributes
            .iter()
            .map(|attribute| self.folded(cx, dotted(cx, item, attribute)?))
            .collect();
        match &keys?[..] {
            [] => self.folded(cx, item.clone()),
            [one] => Ok(one.clone()),
            several => Value::list(&cx.budget, several.to_vec()),
        }
    }
}

fn sorted(cx: &Context, items: Vec<Value>, by: &SortKey, reverse: bool) -> Result<Vec<Value>> {
    let mut keyed = Vec::new();
    for item in items {
        keyed.push((by.of(cx, &item)?, item));
    }
    let keyed = sort(cx, keyed, |a: &(Value, Value), b: &(Value, Value)| match reverse {
        true => cx.less(&b.0, &a.0),
        false => cx.less(&a.0, &b.0),
    })?;
    Ok(keyed.into_iter().map(|(_, item)| item).collect())
}

pub fn dict_sort(cx: &Context, value: &Value, arguments: &Arguments) -> Result<Value> {
    let [case_sensitive, by, reverse] =
        arguments.bind("dictsort", ["case_sensitive", "by", "reverse"])?;
    let Value::Dict(_) = value.defined()? else {
        return fail(format!("dictsort: expected a dict, found {}", value.type_name()));
    };
    let place = match by.optional_text("by")?.as_deref() {
        None | Some("key") => 0,
        Some("value") => 1,
        _ => return fail("dictsort: by is key or value"),
    };
    let items = methods::call(cx, value, "items", &Arguments::default())?.items(&cx.budget)?;
    let by = SortKey { attributes: vec![Value::Int(place)], fold: !case_sensitive.flag(false) };
    Value::list(&cx.budget, sorted(cx, items.to_vec(), &by, reverse.int_flag("reverse")?)?)
}

pub fn group_by(cx: &Context, value: &Value, arguments: &Arguments) -> Result<Value> {
    let [attribute, default, case_sensitive] =
        arguments.bind("groupby", ["attribute", "default", "case_sensitive"])?;
    let attribute = attribute.required("attribute")?;
    let by = SortKey { attributes: Vec::new(), fold: !case_sensitive.flag(false) };
    let mut keyed = Vec::new();
    for item in value.items(&cx.budget)?.iter() {
        let key = match (dotted(cx, item, &attribute)?, &default) {
            (Value::Undefined(_), Some(default)) => default.clone(),
            (key, _) => key,
        };
        keyed.push((by.of(cx, &key)?, key, item.clone()));
    }
    type Keyed = (Value, Value, Value);
    let keyed = sort(cx, keyed, |a: &Keyed, b: &Keyed| cx.less(&a.0, &b.0))?;
    let mut groups: Vec<(Keyed, Vec<Value>)> = Vec::new();
    for entry in keyed {
        match groups.last_mut() {
            Some((first, items)) if cx.equal(&first.0, &entry.0)? => items.push(entry.2),
            _ => groups.push((entry.clone(), vec![entry.2])),
        }
    }
    let mut tuples = Vec::new();
    for ((_, key, _), items) in groups {
        let items = Rc::new(vec![key, Value::list(&cx.budget, items)?]);
        tuples.push(Value::Tuple(Tuple { items, names: &["grouper", "list"] }));
    }
    Value::list(&cx.budget, tuples)
}

pub fn join(cx: &Context, value: &Value, arguments: &Arguments) -> Result<Value> {
    let [separator, attribute] = arguments.bind("join", ["d", "attribute"])?;
    let separator = match separator {
        Some(separator) => soft_str(cx, &separator)?,
        None => Value::text(""),
    };
    let mut parts = Vec::new();
    for item in value.items(&cx.budget)?.iter() {
        let item = match &attribute {
            None | Some(Value::None) => item.clone(),
            Some(attribute) => dotted(cx, item, attribute)?,
        };
        parts.push(soft_str(cx, &item)?);
    }
    let mut out = Text::new(&cx.budget);
    for (index, part) in parts.iter().enumerate() {
        for text in [&separator, part].into_iter().skip(usize::from(index == 0)) {
            if let Value::Str(text) = text {
                push_markup(cx, &mut out, text, false)?;
            }
        }
    }
    Value::str(&cx.budget, out.as_str())
}

pub fn map(cx: &Context, value: &Value, arguments: &Arguments) -> Result<Value> {
    let items = value.items(&cx.budget)?;
    let mut mapped = Vec::with_capacity(items.len());
    if let Some(filter) = arguments.positional.first() {
        let name = Some(filter.clone()).text("map")?;
        let rest = arguments.after(1);
        for item in items.iter() {
            cx.budget.step()?;
            mapped.push(filters::apply(cx, &name, item, &rest)?);
        }
    } else {
        let [attribute, default] = arguments.bind("map", ["attribute", "default"])?;
        let Some(attribute) = attribute else {
            return fail("map: expected a filter or attribute=");
        };
        for item in items.iter() {
            mapped.push(match (dotted(cx, item, &attribute)?, &default) {
                (Value::Undefined(_), Some(default)) => default.clone(),
                (found, _) => found,
            });
        }
    }
    Value::iterator(&cx.budget, mapped)
}

/// The items whose `part` passes a test, or is true without one; or those that do not.
pub fn select(
    cx: &Context,
    value: &Value,
    arguments: &Arguments,
    wanted: bool,
    part: impl Fn(&Value) -> Result<Value>,
) -> Result<Value> {
    let rest = arguments.after(1);
    let test = arguments.positional.first();
    let mut kept = Vec::new();
    for item in value.items(&cx.budget)?.iter() {
        cx.budget.step()?;
        let part = part(item)?;
        let passes = match test {
            Some(Value::Str(test)) => predicates::apply(cx, &test.text, &part, &rest)?,
            Some(other) => {
                let kind = other.type_name();
                return fail(format!("expected the name of a test, found {kind}"));
            }
            None => part.is_true(),
        };
        if passes == wanted {
            kept.push(item.clone());
        }
    }
    Value::iterator(&cx.budget, kept)
}

pub fn extreme(cx: &Context, name: &str, value: &Value, arguments: &Arguments) -> Result<Value> {
    let [case_sensitive, attribute] = arguments.bind(name, ["case_sensitive", "attribute"])?;
    let attributes = match attribute {
        None | Some(Value::None) => Vec::new(),
        Some(attribute) => vec![attribute],
    };
    let by = SortKey { attributes, fold: !case_sensitive.flag(false) };
    let mut best: Option<(Value, Value)> = None;
    for item in value.items(&cx.budget)?.iter() {
        let key = by.of(cx, item)?;
        let is_better = match &best {
            None => true,
            Some((best, _)) if name == "max" => cx.less(best, &key)?,
            Some((best, _)) => cx.less(&key, best)?,
        };
        if is_better {
            best = Some((key, item.clone()));
        }
    }
    Ok(best.map_or_else(|| Value::undefined(format!("{name} of no items")), |(_, item)| item))
}

pub fn unique(cx: &Context, value: &Value, arguments: &Arguments) -> Result<Value> {
    let [case_sensitive, attribute] = arguments.bind("unique", ["case_sensitive", "attribute"])?;
    let attributes = attribute.filter(|value| !matches!(value, Value::None)).into_iter().collect();
    let by = SortKey { attributes, fold: !case_sensitive.flag(false) };
    let mut seen = Dict::default();
    let mut kept = Vec::new();
    for item in value.items(&cx.budget)?.iter() {
        let key = Key::new(&cx.budget, &by.of(cx, item)?)?;
        if seen.get(&key).is_none() {
            seen.insert(key, Value::None);
            kept.push(item.clone());
        }
    }
    Value::iterator(&cx.budget, kept)
}

pub fn slice(cx: &Context, value: &Value, arguments: &Arguments) -> Result<Value> {
    let [slices, fill] = arguments.bind("slice", ["slices", "fill_with"])?;
    let items = value.items(&cx.budget)?;
    let count = usize::try_from(slices.int("slices")?).unwrap_or(0);
    if count == 0 {
        return fail("slice: expected a positive number");
    }
    cx.budget.make(count.saturating_mul(super::value::VALUE_BYTES))?;
    let (size, longer) = (items.len() / count, items.len() % count);
    let mut rows = Vec::new();
    let mut rest = &items[..];
    for index in 0..count {
        let (row, after) = rest.split_at(size + usize::from(index < longer));
        rest = after;
        let mut row = row.to_vec();
        if let Some(fill) = fill.as_ref().filter(|fill| !matches!(fill, Value::None)) {
            if index >= longer {
                row.push(fill.clone());
            }
        }
        rows.push(Value::list(&cx.budget, row)?);
    }
    Value::iterator(&cx.budget, rows)
}

fn pad_row(cx: &Context, row: &mut Vec<Value>, size: usize, fill: &Value) -> Result<()> {
    cx.budget.make((size - row.len()).saturating_mul(VALUE_BYTES))?;
    row.resize(size, fill.clone());
    Ok(())
}

pub fn batch(cx: &Context, value: &Value, arguments: &Arguments) -> Result<Value> {
    let budget = &cx.budget;
    let [size, fill] = arguments.bind("batch", ["linecount", "fill_with"])?;
    let size = usize::try_from(size.int("linecount")?).ok().filter(|size| *size > 0);
    let size = size.ok_or_else(|| error("batch: expected a positive size"))?;
    let items = value.items(budget)?;
    let mut rows = Vec::new();
    for row in items.chunks(size) {
        let mut row = row.to_vec();
        if let Some(fill) = fill.as_ref().filter(|fill| !matches!(fill, Value::None)) {
            pad_row(cx, &mut row, size, fill)?;
        }
        rows.push(Value::list(budget, row)?);
    }
    Value::iterator(budget, rows)
}

pub fn sort_items(cx: &Context, value: &Value, arguments: &Arguments) -> Result<Value> {
    let budget = &cx.budget;
    let [reverse, case_sensitive, attribute] =
        arguments.bind("sort", ["reverse", "case_sensitive", "attribute"])?;
    let items = value.items(budget)?.to_vec();
    let by = SortKey { attributes: attributes_of(attribute), fold: !case_sensitive.flag(false) };
    let sorted = sorted(cx, items, &by, reverse.int_flag("reverse")?)?;
    Value::list(budget, sorted)
}

pub fn sum(cx: &Context, value: &Value, arguments: &Arguments) -> Result<Value> {
    let budget = &cx.budget;
    let [attribute, start] = arguments.bind("sum", ["attribute", "start"])?;
    let mut sum = start.unwrap_or(Value::Int(0));
    for item in value.items(budget)?.iter() {
        let item = match &attribute {
            None | Some(Value::None) => item.clone(),
            Some(attribute) => dotted(cx, item, attribute)?,
        };
        sum = arithmetic(cx, Operator::Add, &sum, &item)?;
    }
    Ok(sum)
}
