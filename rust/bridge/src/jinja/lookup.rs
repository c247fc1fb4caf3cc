//! Items, slices and attributes of values.

use std::rc::Rc;

use super::budget::{fail, Result};
use super::interpreter::Context;
use super::methods;
use super::print;
use super::text::{byte_of, clip, length};
use super::value::{Key, Object, Range, Str, Value};

// --- indices and slices ---

/// value[index], or none where Python raises LookupError or TypeError.
pub fn item(cx: &Context, value: &Value, index: &Value) -> Result<Option<Value>> {
    let at = |length: usize| {
        let index = index.int()?;
        let index = if index < 0 { index + length as i128 } else { index };
        usize::try_from(index).ok().filter(|index| *index < length)
    };
    Ok(match value {
        Value::List(items) => at(items.len()).map(|index| items[index].clone()),
        Value::Tuple(tuple) => at(tuple.items.len()).map(|index| tuple.items[index].clone()),
        Value::Dict(dict) => {
            Key::new(&cx.budget, index).ok().and_then(|key| dict.get(&key).cloned())
        }
        Value::Range(range) => {
            at(range.len()).map(|index| Value::Int(range.start + range.step * index as i128))
        }
        Value::Str(text) => {
            cx.budget.read(text.text.len())?;
            match at(length(&text.text)) {
                Some(index) => {
                    let rest = &text.text[byte_of(&text.text, index)..];
                    let character = rest.chars().take(1).collect::<String>();
                    let text = Str { text: character.into(), markup: text.markup };
                    Some(Value::Str(text))
                }
                None => None,
            }
        }
        _ => None,
    })
}

pub fn slice(cx: &Context, value: &Value, bounds: [Option<Value>; 3]) -> Result<Value> {
    let bound = |value: &Option<Value>| match value {
        None | Some(Value::None) => Ok(None),
        Some(value) => match value.int() {
            Some(value) => Ok(Some(value)),
            None => fail(format!("a slice by {}: expected an int", value.type_name())),
        },
    };
    let (start, stop) = (bound(&bounds[0])?, bound(&bounds[1])?);
    let step = bound(&bounds[2])?.unwrap_or(1);
    if step == 0 {
        return fail("a slice with a step of zero");
    }
    match value.defined()? {
        Value::Str(text) => {
            cx.budget.make(text.text.len())?;
            let sliced: String = if step == 1 {
                let (start, stop) = clip(start, stop, length(&text.text));
                let (start, stop) = (byte_of(&text.text, start), byte_of(&text.text, stop));
                text.text.get(start..stop).unwrap_or_default().into()
            } else {
                let characters: Vec<char> = text.text.chars().collect();
                positions(start, stop, step, characters.len()).map(|at| characters[at]).collect()
            };
            Ok(Value::Str(Str { text: sliced.into(), markup: text.markup }))
        }
        Value::List(items) => Value::list(&cx.budget, pick(items, start, stop, step)),
        Value::Tuple(tuple) => Value::tuple(&cx.budget, pick(&tuple.items, start, stop, step)),
        Value::Range(range) => {
            let mut at = positions(start, stop, step, range.len());
            let count = at.len();
            let first = at.next().unwrap_or(0) as i128;
            let start = range.start + range.step * first;
            let step = range.step * step;
            Ok(Value::Range(Rc::new(Range { start, stop: start + step * count as i128, step })))
        }
        _ => fail(format!("a {} cannot be sliced", value.type_name())),
    }
}

fn pick(items: &[Value], start: Option<i128>, stop: Option<i128>, step: i128) -> Vec<Value> {
    positions(start, stop, step, items.len()).map(|at| items[at].clone()).collect()
}

/// The indices of a slice.
fn positions(
    start: Option<i128>,
    stop: Option<i128>,
    step: i128,
    length: usize,
) -> impl ExactSizeIterator<Item = usize> {
    let last = length as i128;
    // As PySlice_AdjustIndices: a backward slice may end before the first item.
    let bound = |value: i128| {
        let value = if value < 0 { value.saturating_add(last) } else { value };
        if step > 0 {
            value.clamp(0, last)
        } else {
            value.clamp(-1, last - 1)
        }
    };
    let (first, end) = if step > 0 { (0, last) } else { (last - 1, -1) };
    let start = start.map_or(first, bound);
    let stop = stop.map_or(end, bound);
    let distance = if step > 0 { stop - start } else { start - stop };
    let width = step.unsigned_abs().min(i128::MAX as u128) as i128;
    let count = if distance > 0 { (distance - 1) / width + 1 } else { 0 };
    (0..count as usize).map(move |index| (start + step * index as i128) as usize)
}

// --- attributes and items, as Jinja2's environment finds them ---

/// value.name: an attribute, or else the item of that name.
pub fn find_attribute(cx: &Context, value: &Value, name: &str) -> Result<Option<Value>> {
    let found = match value.defined()? {
        Value::Object(object) => match &**object {
            Object::Namespace(attributes) => return Ok(attributes.borrow().get_str(name).cloned()),
            Object::Macro(index, _) => methods::macro_attribute(cx, *index, name),
            _ => methods::attribute(value, name),
        },
        Value::Dict(dict) => {
            methods::attribute(value, name).or_else(|| dict.get_str(name).cloned())
        }
        _ => methods::attribute(value, name),
    };
    Ok(found)
}

/// value[index]: an item, or else the attribute of that name.
pub fn find_item(cx: &Context, value: &Value, index: &Value) -> Result<Option<Value>> {
    if let Some(found) = item(cx, value.defined()?, index)? {
        return Ok(Some(found));
    }
    match index {
        Value::Str(name) => find_attribute(cx, value, &name.text),
        _ => Ok(None),
    }
}

pub fn lookup(cx: &Context, value: &Value, index: &Value) -> Result<Value> {
    Ok(match find_item(cx, value, index)? {
        Some(found) => found,
        None => {
            let index = print::repr(cx, index)?;
            Value::undefined(format!("a {} has no item {index}", value.type_name()))
        }
    })
}
