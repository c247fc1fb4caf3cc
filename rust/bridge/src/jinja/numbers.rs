//! Filters that give or write numbers.

use super::arguments::{Argument, Arguments};
use super::budget::{fail, Result};
use super::interpreter::Context;
use super::text::is_space;
use super::value::{Number, Value};

/// int(text, base)
fn parse_int(text: &str, base: u32) -> Option<i128> {
    let text = text.trim_matches(is_space);
    let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
    let prefix = digits.get(..2).unwrap_or_default().to_ascii_lowercase();
    let named = match prefix.as_str() {
        "0b" => 2,
        "0o" => 8,
        "0x" => 16,
        _ => 0,
    };
    let base_or_named = if base == 0 { named.max(10) } else { base };
    let mut digits = if named == base_or_named && named > 0 { &digits[2..] } else { digits };
    if digits.len() < text.len() - sign.len() {
        digits = digits.strip_prefix('_').unwrap_or(digits);
    }
    let plain = digits.replace('_', "");
    let is_well_formed =
        !digits.starts_with('_') && !digits.ends_with('_') && !digits.contains("__");
    if !is_well_formed || plain.starts_with(['+', '-']) || !(2..=36).contains(&base_or_named) {
        return None;
    }
    i128::from_str_radix(&[sign, &plain].concat(), base_or_named).ok()
}

fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(is_space);
    let bytes = text.as_bytes();
    // An underscore stands between two digits.
    let is_misplaced = |at: usize| {
        let digit =
            |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
        bytes[at] == b'_' && !(digit(at.checked_sub(1)) && digit(Some(at + 1)))
    };
    if (0..bytes.len()).any(is_misplaced) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

pub fn to_int(value: &Value, base: i128) -> Option<i128> {
    match value {
        Value::Str(text) => {
            let base = u32::try_from(base).ok()?;
            // Jinja2 falls back on a number with a fraction.
            parse_int(&text.text, base).or_else(|| truncated(parse_float(&text.text)?))
        }
        _ => match value.number()? {
            Number::Int(value) => Some(value),
            Number::Float(value) => truncated(value),
        },
    }
}

fn truncated(value: f64) -> Option<i128> {
    (value.abs() < 1e38).then_some(value.trunc() as i128)
}

pub fn to_float(value: &Value) -> Option<f64> {
    match value {
        Value::Str(text) => parse_float(&text.text),
        _ => value.number().map(Number::to_f64),
    }
}

pub fn round(value: &Value, arguments: &Arguments) -> Result<Value> {
    let [precision, method] = arguments.bind("round", ["precision", "method"])?;
    let precision = precision.optional_int("precision")?.unwrap_or(0).clamp(-400, 400) as i32;
    let method = method.optional_text("method")?.unwrap_or_else(|| "common".into());
    let Some(number) = value.defined()?.number() else {
        return fail(format!("round: expected a number, found {}", value.type_name()));
    };
    let scale = 10f64.powi(precision);
    match (&*method, number) {
        ("common", Number::Int(value)) if precision >= 0 => Ok(Value::Int(value)),
        ("common", Number::Int(value)) => {
            // To even, as Python rounds halves.
            let Some(unit) = 10i128.checked_pow(precision.unsigned_abs()) else {
                return Ok(Value::Int(0));
            };
            let (below, rest) = (value.div_euclid(unit), value.rem_euclid(unit));
            let up = rest * 2 > unit || (rest * 2 == unit && below % 2 != 0);
            Ok(Value::Int((below + i128::from(up)).saturating_mul(unit)))
        }
        ("common", Number::Float(value)) if !value.is_finite() => Ok(Value::Float(value)),
        ("common", Number::Float(value)) if precision >= 0 => {
            let digits = precision.min(350) as usize;
            Ok(Value::Float(format!("{value:.digits$}").parse().unwrap_or(value)))
        }
        ("common", Number::Float(value)) => {
            Ok(Value::Float((value * scale).round_ties_even() / scale))
        }
        ("ceil", number) => Ok(Value::Float((number.to_f64() * scale).ceil() / scale)),
        ("floor", number) => Ok(Value::Float((number.to_f64() * scale).floor() / scale)),
        _ => fail("round: the method is common, ceil or floor"),
    }
}

pub fn file_size(cx: &Context, value: &Value, arguments: &Arguments) -> Result<Value> {
    let [binary] = arguments.bind("filesizeformat", ["binary"])?;
    let Some(bytes) = to_float(value.defined()?) else {
        return fail("filesizeformat: expected a number");
    };
    let (base, units) = match binary.flag(false) {
        true => (1024.0, ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"]),
        false => (1000.0, ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"]),
    };
    let text = if bytes == 1.0 {
        "1 Byte".into()
    } else if bytes < base {
        format!("{} Bytes", bytes as i128)
    } else {
        let mut unit = base * base;
        let mut name = 0;
        while name + 1 < units.len() && bytes >= unit {
            unit *= base;
            name += 1;
        }
        format!("{:.1} {}", base * bytes / unit, units[name])
    };
    Value::str(&cx.budget, text)
}
