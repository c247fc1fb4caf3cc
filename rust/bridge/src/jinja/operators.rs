//! Python's operators: arithmetic, comparison, membership, indices and slices.

use std::rc::Rc;

use super::ast::{Comparison, Operator};
use super::budget::{fail, Result, Text};
use super::format;
use super::interpreter::Context;
use super::print;
use super::value::{Key, Number, Object, Str, Tuple, Value, MAX_VALUE_DEPTH, VALUE_BYTES};

fn symbol(operator: Operator) -> &'static str {
    match operator {
        Operator::Add => "+",
        Operator::Subtract => "-",
        Operator::Multiply => "*",
        Operator::Divide => "/",
        Operator::FloorDivide => "//",
        Operator::Modulo => "%",
        Operator::Power => "**",
    }
}

// --- arithmetic ---

pub fn arithmetic(cx: &Context, operator: Operator, a: &Value, b: &Value) -> Result<Value> {
    match (operator, a, b) {
        (Operator::Modulo, Value::Str(text), _) => return format::percent(cx, text, b),
        (_, Value::Undefined(message), _) | (_, _, Value::Undefined(message)) => {
            return fail(&**message)
        }
        (Operator::Add, Value::Str(a), Value::Str(b)) => return concat(cx, a, b),
        (Operator::Add, Value::List(a), Value::List(b)) => {
            cx.budget.make((a.len() + b.len()) * VALUE_BYTES)?;
            return Ok(Value::List(Rc::new([&a[..], &b[..]].concat())));
        }
        (Operator::Add, Value::Tuple(a), Value::Tuple(b)) => {
            return Value::tuple(&cx.budget, [&a.items[..], &b.items[..]].concat());
        }
        (Operator::Multiply, _, _) => {
            if let Some(count) = b.int() {
                if let Some(value) = repeat(cx, a, count)? {
                    return Ok(value);
                }
            }
            if let Some(count) = a.int() {
                if let Some(value) = repeat(cx, b, count)? {
                    return Ok(value);
                }
            }
        }
        _ => {}
    }
    let (Some(a_number), Some(b_number)) = (a.number(), b.number()) else {
        let (symbol, a, b) = (symbol(operator), a.type_name(), b.type_name());
        return fail(format!("{symbol} does not go with {a} and {b}"));
    };
    match (a_number, b_number) {
        (Number::Int(a), Number::Int(b)) => int_arithmetic(operator, a, b),
        _ => float_arithmetic(operator, a_number.to_f64(), b_number.to_f64()).map(Value::Float),
    }
}

/// a + b of strings: beside one that has been escaped the other is escaped, too.
fn concat(cx: &Context, a: &Str, b: &Str) -> Result<Value> {
    let mut out = Text::new(&cx.budget);
    let markup = a.markup || b.markup;
    for part in [a, b] {
        push_markup(cx, &mut out, part, markup)?;
    }
    Ok(Value::Str(Str { text: out.into_string().into(), markup }))
}

/// Adds `part` to a text that is `markup` or not.
pub fn push_markup(cx: &Context, out: &mut Text, part: &Str, markup: bool) -> Result<()> {
    match markup && !part.markup {
        true => out.push_str(&print::escape_html(&cx.budget, &part.text)?),
        false => out.push_str(&part.text),
    }
}

/// `value * count` of a string or a sequence; none for anything else.
fn repeat(cx: &Context, value: &Value, count: i128) -> Result<Option<Value>> {
    let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
    let items = match value {
        Value::Str(text) => {
            let mut out = Text::new(&cx.budget);
            out.repeat(&text.text, count)?;
            let text = Str { text: out.into_string().into(), markup: text.markup };
            return Ok(Some(Value::Str(text)));
        }
        Value::List(items) => items,
        Value::Tuple(tuple) => &tuple.items,
        _ => return Ok(None),
    };
    cx.budget.make(items.len().saturating_mul(count).saturating_mul(VALUE_BYTES))?;
    let count = if items.is_empty() { 0 } else { count };
    let repeated = Rc::new(
        std::iter::repeat_n(items, count).flat_map(|items| items.iter().cloned()).collect(),
    );
    Ok(Some(match value {
        Value::List(_) => Value::List(repeated),
        _ => Value::Tuple(Tuple { items: repeated, names: &[] }),
    }))
}

fn int_arithmetic(operator: Operator, a: i128, b: i128) -> Result<Value> {
    if b == 0 && matches!(operator, Operator::Divide | Operator::FloorDivide | Operator::Modulo) {
        return fail("division by zero");
    }
    let floor_div = |a: i128, b: i128| {
        let quotient = a.checked_div(b)?;
        let is_below = a % b != 0 && (a < 0) != (b < 0);
        Some(if is_below { quotient - 1 } else { quotient })
    };
    let value = match operator {
        Operator::Add => a.checked_add(b),
        Operator::Subtract => a.checked_sub(b),
        Operator::Multiply => a.checked_mul(b),
        Operator::Divide => return Ok(Value::Float(a as f64 / b as f64)),
        Operator::FloorDivide => floor_div(a, b),
        Operator::Modulo => floor_div(a, b).map(|quotient| a - quotient * b),
        Operator::Power if b < 0 => {
            return float_arithmetic(operator, a as f64, b as f64).map(Value::Float)
        }
        Operator::Power => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
    };
    match value {
        Some(value) => Ok(Value::Int(value)),
        None => fail(format!("{a} {} {b} has more than 127 bits", symbol(operator))),
    }
}

fn float_arithmetic(operator: Operator, a: f64, b: f64) -> Result<f64> {
    let divides = matches!(operator, Operator::Divide | Operator::FloorDivide | Operator::Modulo);
    if (b == 0.0 && divides) || (operator == Operator::Power && a == 0.0 && b < 0.0) {
        return fail("division by zero");
    }
    // The remainder has the sign of the divisor, the quotient goes with it.
    let modulo = || {
        let remainder = a % b;
        match remainder != 0.0 && (remainder < 0.0) != (b < 0.0) {
            true => remainder + b,
            false if remainder == 0.0 => 0f64.copysign(b),
            false => remainder,
        }
    };
    Ok(match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide => a / b,
        Operator::FloorDivide => {
            let quotient = (a - modulo()) / b;
            let floor = quotient.floor();
            if quotient - floor > 0.5 {
                floor + 1.0
            } else {
                floor
            }
        }
        Operator::Modulo => modulo(),
        Operator::Power if a < 0.0 && b.fract() != 0.0 => return fail("a complex number"),
        Operator::Power => {
            let power = a.powf(b);
            if power.is_infinite() && a.is_finite() && b.is_finite() {
                return fail("result too large");
            }
            power
        }
    })
}

pub fn negative(value: &Value) -> Result<Value> {
    match value.defined()?.number() {
        Some(Number::Int(value)) => int_arithmetic(Operator::Subtract, 0, value),
        Some(Number::Float(value)) => Ok(Value::Float(-value)),
        None => fail(format!("- does not go with {}", value.type_name())),
    }
}

pub fn positive(value: &Value) -> Result<Value> {
    match value.defined()?.number() {
        Some(Number::Int(value)) => Ok(Value::Int(value)),
        Some(Number::Float(value)) => Ok(Value::Float(value)),
        None => fail(format!("+ does not go with {}", value.type_name())),
    }
}

// --- comparison ---

/// What comparing two values costs: shared ones may be met again and again.
const COMPARISON_BYTES: usize = 8;

impl Context<'_> {
    pub fn equal(&self, a: &Value, b: &Value) -> Result<bool> {
        self.equal_at(a, b, 0)
    }

    fn equal_at(&self, a: &Value, b: &Value, depth: usize) -> Result<bool> {
        self.budget.make(COMPARISON_BYTES)?;
        if depth > MAX_VALUE_DEPTH {
            return fail(format!("values nested deeper than {MAX_VALUE_DEPTH} levels"));
        }
        Ok(match (a, b) {
            (Value::Str(a), Value::Str(b)) => {
                self.budget.read(a.text.len())?;
                a.text == b.text
            }
            (Value::None, Value::None) | (Value::Undefined(_), Value::Undefined(_)) => true,
            (Value::List(a), Value::List(b)) => self.all_equal(a, b, depth)?,
            (Value::Tuple(a), Value::Tuple(b)) => self.all_equal(&a.items, &b.items, depth)?,
            (Value::Range(a), Value::Range(b)) => a.items().eq(b.items()),
            (Value::Dict(a), Value::Dict(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for (key, value) in a.iter() {
                    match b.get(&Key::new(&self.budget, key)?) {
                        Some(other) if self.equal_at(value, other, depth + 1)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (Value::Object(a), Value::Object(b)) => match (&**a, &**b) {
                (Object::Function(a), Object::Function(b)) => a == b,
                _ => Rc::ptr_eq(a, b),
            },
            (Value::Iterator(a), Value::Iterator(b)) => Rc::ptr_eq(a, b),
            _ => matches!((a.number(), b.number()), (Some(a), Some(b)) if a.equals(b)),
        })
    }

    fn all_equal(&self, a: &[Value], b: &[Value], depth: usize) -> Result<bool> {
        if a.len() != b.len() {
            return Ok(false);
        }
        for (a, b) in a.iter().zip(b) {
            if !self.equal_at(a, b, depth + 1)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// a < b
    pub fn less(&self, a: &Value, b: &Value) -> Result<bool> {
        self.less_at(a, b, 0)
    }

    fn less_at(&self, a: &Value, b: &Value, depth: usize) -> Result<bool> {
        self.budget.make(COMPARISON_BYTES)?;
        if depth > MAX_VALUE_DEPTH {
            return fail(format!("values nested deeper than {MAX_VALUE_DEPTH} levels"));
        }
        let (a_items, b_items) = match (a.defined()?, b.defined()?) {
            (Value::Str(a), Value::Str(b)) => {
                self.budget.read(a.text.len().min(b.text.len()))?;
                return Ok(a.text < b.text);
            }
            (Value::List(a), Value::List(b)) => (a, b),
            (Value::Tuple(a), Value::Tuple(b)) => (&a.items, &b.items),
            _ => match (a.number(), b.number()) {
                (Some(Number::Int(a)), Some(Number::Int(b))) => return Ok(a < b),
                (Some(a), Some(b)) => return Ok(a.to_f64() < b.to_f64()),
                _ => {
                    let (a, b) = (a.type_name(), b.type_name());
                    return fail(format!("{a} and {b} have no order"));
                }
            },
        };
        for (a, b) in a_items.iter().zip(b_items.iter()) {
            if !self.equal_at(a, b, depth + 1)? {
                return self.less_at(a, b, depth + 1);
            }
        }
        Ok(a_items.len() < b_items.len())
    }
}

pub fn compare(cx: &Context, comparison: Comparison, a: &Value, b: &Value) -> Result<bool> {
    let is_nan = |value: &Value| matches!(value, Value::Float(value) if value.is_nan());
    match comparison {
        Comparison::Equal => cx.equal(a, b),
        Comparison::NotEqual => Ok(!cx.equal(a, b)?),
        Comparison::Less => cx.less(a, b),
        Comparison::Greater => cx.less(b, a),
        Comparison::LessOrEqual => Ok(!cx.less(b, a)? && !is_nan(a) && !is_nan(b)),
        Comparison::GreaterOrEqual => Ok(!cx.less(a, b)? && !is_nan(a) && !is_nan(b)),
        Comparison::In => contains(cx, b, a),
        Comparison::NotIn => Ok(!contains(cx, b, a)?),
    }
}

/// `item in container`
pub fn contains(cx: &Context, container: &Value, item: &Value) -> Result<bool> {
    match container {
        Value::Str(text) => match item {
            Value::Str(part) => {
                cx.budget.read(text.text.len())?;
                Ok(text.text.contains(&*part.text))
            }
            _ => fail(format!("a str has no {} in it", item.type_name())),
        },
        Value::Dict(dict) => Ok(dict.get(&Key::new(&cx.budget, item)?).is_some()),
        Value::Range(range) => Ok(item.int().is_some_and(|value| {
            let offset = value.saturating_sub(range.start);
            let index = offset / range.step;
            offset % range.step == 0 && index >= 0 && (index as usize) < range.len()
        })),
        _ => {
            for found in container.items(&cx.budget)?.iter() {
                if cx.equal(found, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}

/// Stable, by an order that may fail.
pub fn sort<T>(
    cx: &Context,
    items: Vec<T>,
    less: impl Fn(&T, &T) -> Result<bool>,
) -> Result<Vec<T>> {
    cx.budget.make(items.len() * VALUE_BYTES)?;
    let mut order: Vec<usize> = (0..items.len()).collect();
    let mut width = 1;
    while width < items.len() {
        let mut merged = Vec::with_capacity(items.len());
        for pair in order.chunks(2 * width) {
            let (mut first, mut second) = pair.split_at(width.min(pair.len()));
            while let ([a, first_rest @ ..], [b, second_rest @ ..]) = (first, second) {
                if less(&items[*b], &items[*a])? {
                    merged.push(*b);
                    second = second_rest;
                } else {
                    merged.push(*a);
                    first = first_rest;
                }
            }
            merged.extend_from_slice(first);
            merged.extend_from_slice(second);
        }
        order = merged;
        width *= 2;
    }
    let mut items: Vec<Option<T>> = items.into_iter().map(Some).collect();
    Ok(order.into_iter().filter_map(|index| items[index].take()).collect())
}
