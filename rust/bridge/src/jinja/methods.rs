//! Methods and attributes of Python's values, as far as its sandbox lets a template use them.

use super::arguments::{Argument, Arguments};
use super::budget::{fail, Result};
use super::interpreter::Context;
use super::strings;
use super::text::{clip, known};
use super::value::{Dict, Key, Number, Object, Value, View};

const SEQUENCE: &str = "count index";
const LIST: &str = "copy count index";
const DICT: &str = "copy fromkeys get items keys values";
const INT: &str = "as_integer_ratio bit_count bit_length conjugate is_integer";
const FLOAT: &str = "as_integer_ratio conjugate hex is_integer";
const LOOP: &str = "changed cycle";
const CYCLER: &str = "next reset";
/// Python has them; the sandbox does not let a template change values.
const MUTATORS: &str =
    "append clear extend insert pop popitem remove reverse setdefault sort update";

/// value.name as Python's getattr finds it; none where it raises AttributeError.
pub fn attribute(value: &Value, name: &str) -> Option<Value> {
    let methods = match value {
        Value::Str(_) => strings::METHODS,
        Value::List(_) => LIST,
        Value::Tuple(tuple) => {
            if let Some(index) = tuple.names.iter().position(|known| *known == name) {
                return tuple.items.get(index).cloned();
            }
            SEQUENCE
        }
        Value::Range(range) => match name {
            "start" => return Some(Value::Int(range.start)),
            "stop" => return Some(Value::Int(range.stop)),
            "step" => return Some(Value::Int(range.step)),
            _ => SEQUENCE,
        },
        Value::Dict(_) => DICT,
        Value::Bool(_) | Value::Int(_) => match name {
            "real" | "numerator" => return value.int().map(Value::Int),
            "imag" => return Some(Value::Int(0)),
            "denominator" => return Some(Value::Int(1)),
            _ => INT,
        },
        Value::Float(number) => match name {
            "real" => return Some(Value::Float(*number)),
            "imag" => return Some(Value::Float(0.0)),
            _ => FLOAT,
        },
        Value::Object(object) => match &**object {
            Object::Loop(_) => return loop_attribute(value, object, name),
            Object::Cycler { items, position } => match name {
                "current" => return items.get(position.get()).cloned(),
                _ => CYCLER,
            },
            _ => "",
        },
        _ => "",
    };
    if let Some(method) = known(methods, name) {
        return Some(Value::method(value, method));
    }
    if matches!(value, Value::List(_) | Value::Dict(_)) && known(MUTATORS, name).is_some() {
        return Some(Value::undefined(format!(
            "{name} is not allowed: a template changes no values"
        )));
    }
    None
}

fn loop_attribute(value: &Value, object: &Object, name: &str) -> Option<Value> {
    let Object::Loop(state) = object else {
        return None;
    };
    let (index, length) = (state.index.get(), state.items.len());
    let number = |number: usize| Some(Value::Int(number as i128));
    let neighbour = |at: Option<usize>, what: &str| {
        let item = at.and_then(|at| state.items.get(at)).cloned();
        Some(item.unwrap_or_else(|| Value::undefined(format!("there is no {what} item"))))
    };
    match name {
        "index" => number(index + 1),
        "index0" => number(index),
        "revindex" => number(length - index),
        "revindex0" => number(length - index - 1),
        "first" => Some(Value::Bool(index == 0)),
        "last" => Some(Value::Bool(index + 1 == length)),
        "length" => number(length),
        "depth" => number(state.depth + 1),
        "depth0" => number(state.depth),
        "previtem" => neighbour(index.checked_sub(1), "previous"),
        "nextitem" => neighbour(Some(index + 1), "next"),
        _ => known(LOOP, name).map(|method| Value::method(value, method)),
    }
}

/// Adds the attributes of a macro, which are those of its declaration.
pub fn macro_attribute(cx: &Context, index: usize, name: &str) -> Option<Value> {
    let declared = &cx.template.macros[index];
    match name {
        "name" => Some(Value::text(&declared.name)),
        "arguments" => {
            let parameters = declared.parameters.iter().map(|name| Value::text(name)).collect();
            Value::tuple(&cx.budget, parameters).ok()
        }
        "caller" => Some(Value::Bool(declared.uses_caller)),
        "catch_kwargs" => Some(Value::Bool(declared.uses_kwargs)),
        "catch_varargs" => Some(Value::Bool(declared.uses_varargs)),
        _ => None,
    }
}

/// Calls a method that `attribute` found.
pub fn call(cx: &Context, of: &Value, name: &str, arguments: &Arguments) -> Result<Value> {
    match of {
        Value::Str(text) => strings::call(cx, text, name, arguments),
        Value::List(_) if name == "copy" => arguments.none(name).map(|()| of.clone()),
        Value::List(_) | Value::Tuple(_) | Value::Range(_) => {
            sequence_method(cx, of, name, arguments)
        }
        Value::Dict(dict) => dict_method(cx, of, dict, name, arguments),
        Value::Object(object) => match &**object {
            Object::Loop(state) if name == "cycle" => match &arguments.positional[..] {
                [] => fail("loop.cycle: no items"),
                items => Ok(items[state.index.get() % items.len()].clone()),
            },
            Object::Loop(state) => {
                let now = Value::tuple(&cx.budget, arguments.positional.clone())?;
                let before = state.last_changed.borrow().clone();
                let changed = match &before {
                    Some(before) => !cx.equal(before, &now)?,
                    None => true,
                };
                *state.last_changed.borrow_mut() = Some(now);
                Ok(Value::Bool(changed))
            }
            Object::Cycler { items, position } => {
                let current = position.get();
                position.set(if name == "next" { (current + 1) % items.len() } else { 0 });
                Ok(if name == "next" { items[current].clone() } else { Value::None })
            }
            _ => fail(format!("{name} cannot be called")),
        },
        _ => number_method(of, name, arguments),
    }
}

fn number_method(of: &Value, name: &str, arguments: &Arguments) -> Result<Value> {
    arguments.none(name)?;
    match (name, of.number()) {
        ("bit_length", Some(Number::Int(value))) => {
            Ok(Value::Int((128 - value.unsigned_abs().leading_zeros()).into()))
        }
        ("bit_count", Some(Number::Int(value))) => {
            Ok(Value::Int(value.unsigned_abs().count_ones().into()))
        }
        ("conjugate", Some(Number::Int(value))) => Ok(Value::Int(value)),
        ("conjugate", Some(Number::Float(value))) => Ok(Value::Float(value)),
        ("is_integer", Some(Number::Int(_))) => Ok(Value::Bool(true)),
        ("is_integer", Some(Number::Float(value))) => Ok(Value::Bool(value.fract() == 0.0)),
        _ => fail(format!("{name} of a {} is not supported", of.type_name())),
    }
}

fn sequence_method(cx: &Context, of: &Value, name: &str, arguments: &Arguments) -> Result<Value> {
    let [wanted, start, stop] = arguments.bind(name, ["value", "start", "stop"])?;
    let wanted = wanted.required("value")?;
    let items = of.items(&cx.budget)?;
    if name == "count" {
        let mut found = 0;
        for item in items.iter() {
            found += i128::from(cx.equal(item, &wanted)?);
        }
        return Ok(Value::Int(found));
    }
    let (start, stop) = clip(start.optional_int("start")?, stop.optional_int("stop")?, items.len());
    for (index, item) in items.iter().enumerate().take(stop).skip(start) {
        if cx.equal(item, &wanted)? {
            return Ok(Value::Int(index as i128));
        }
    }
    fail(format!("index: the value is not in the {}", of.type_name()))
}

fn dict_method(
    cx: &Context,
    of: &Value,
    dict: &std::rc::Rc<Dict>,
    name: &str,
    arguments: &Arguments,
) -> Result<Value> {
    let view = match name {
        "get" => {
            let [key, default] = arguments.bind(name, ["key", "default"])?;
            let key = Key::new(&cx.budget, &key.required("key")?)?;
            return Ok(dict.get(&key).cloned().or(default).unwrap_or(Value::None));
        }
        "copy" => return arguments.none(name).map(|()| of.clone()),
        "fromkeys" => {
            let [keys, value] = arguments.bind(name, ["iterable", "value"])?;
            let value = value.unwrap_or(Value::None);
            let mut made = Dict::default();
            for key in keys.required("iterable")?.items(&cx.budget)?.iter() {
                made.insert(Key::new(&cx.budget, key)?, value.clone());
            }
            return Value::dict(&cx.budget, made);
        }
        "keys" => View::Keys,
        "values" => View::Values,
        _ => View::Items,
    };
    arguments.none(name)?;
    Ok(Value::View(view, dict.clone()))
}
