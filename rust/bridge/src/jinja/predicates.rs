//! Jinja2's tests: what stands behind "is".

use std::rc::Rc;

use super::arguments::{Argument, Arguments};
use super::ast::{Comparison, Operator};
use super::budget::{fail, Result};
use super::filters;
use super::interpreter::Context;
use super::methods;
use super::operators::{arithmetic, compare};
use super::print::to_str;
use super::text::known;
use super::value::Value;

pub const NAMES: &str =
    "!= < <= == > >= boolean callable defined divisibleby eq equalto escaped even false \
    filter float ge greaterthan gt in integer iterable le lessthan lower lt mapping ne none \
    number odd sameas sequence string test true undefined upper";

pub fn apply(cx: &Context, name: &str, value: &Value, arguments: &Arguments) -> Result<bool> {
    let comparison = match name {
        "eq" | "==" | "equalto" => Some(Comparison::Equal),
        "ne" | "!=" => Some(Comparison::NotEqual),
        "lt" | "<" | "lessthan" => Some(Comparison::Less),
        "le" | "<=" => Some(Comparison::LessOrEqual),
        "gt" | ">" | "greaterthan" => Some(Comparison::Greater),
        "ge" | ">=" => Some(Comparison::GreaterOrEqual),
        "in" => Some(Comparison::In),
        _ => None,
    };
    if let Some(comparison) = comparison {
        let [other] = arguments.bind(name, ["other"])?;
        return compare(cx, comparison, value, &other.required("other")?);
    }
    match name {
        "divisibleby" => {
            let [divisor] = arguments.bind(name, ["num"])?;
            is_remainder(cx, value, &divisor.required("num")?, 0)
        }
        "sameas" => {
            let [other] = arguments.bind(name, ["other"])?;
            is_same(cx, value, &other.required("other")?)
        }
        "even" => arguments.none(name).and_then(|()| is_remainder(cx, value, &Value::Int(2), 0)),
        "odd" => arguments.none(name).and_then(|()| is_remainder(cx, value, &Value::Int(2), 1)),
        "filter" | "test" => {
            let names = if name == "filter" { filters::NAMES } else { NAMES };
            arguments
                .none(name)
                .map(|()| value.as_str().is_some_and(|value| known(names, value).is_some()))
        }
        "lower" | "upper" => {
            arguments.none(name)?;
            let text = Value::str(&cx.budget, to_str(cx, value)?)?;
            let test = if name == "lower" { "islower" } else { "isupper" };
            methods::call(cx, &text, test, arguments).map(|found| found.is_true())
        }
        _ => arguments.none(name).and_then(|()| of_kind(name, value)),
    }
}

/// Tests of the type alone.
fn of_kind(name: &str, value: &Value) -> Result<bool> {
    Ok(match name {
        "boolean" => matches!(value, Value::Bool(_)),
        "callable" => value.is_callable(),
        "defined" => !value.is_undefined(),
        "escaped" => value.is_markup(),
        "false" => matches!(value, Value::Bool(false)),
        "float" => matches!(value, Value::Float(_)),
        "integer" => matches!(value, Value::Int(_)),
        "iterable" => !matches!(
            value,
            Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Object(_)
        ),
        "mapping" => matches!(value, Value::Dict(_)),
        "none" => matches!(value, Value::None),
        "number" => value.number().is_some(),
        // What has a length and an index.
        "sequence" => matches!(
            value,
            Value::Undefined(_)
                | Value::Str(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Range(_)
        ),
        "string" => matches!(value, Value::Str(_)),
        "true" => matches!(value, Value::Bool(true)),
        "undefined" => value.is_undefined(),
        _ => return fail(format!("there is no test {name}")),
    })
}

fn is_remainder(cx: &Context, value: &Value, divisor: &Value, wanted: i128) -> Result<bool> {
    let remainder = arithmetic(cx, Operator::Modulo, value, divisor)?;
    cx.equal(&remainder, &Value::Int(wanted))
}

/// a is b
fn is_same(cx: &Context, a: &Value, b: &Value) -> Result<bool> {
    Ok(match (a, b) {
        (Value::List(a), Value::List(b)) => Rc::ptr_eq(a, b),
        (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b),
        (Value::Tuple(a), Value::Tuple(b)) => Rc::ptr_eq(&a.items, &b.items),
        _ => a.type_name() == b.type_name() && cx.equal(a, b)?,
    })
}
