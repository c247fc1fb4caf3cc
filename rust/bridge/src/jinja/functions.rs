//! The global functions: Jinja2's, and those that transformers adds.

use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::rc::Rc;

use super::arguments::{Argument, Arguments};
use super::budget::{fail, Error, Result};
use super::interpreter::{Context, Cyclic};
use super::print::to_str;
use super::text::known;
use super::value::{Dict, Key, Object, Range, Value};

const NAMES: &str = "cycler dict joiner namespace raise_exception range strftime_now";

/// Longer ranges are refused by Jinja2's sandbox, too.
const MAX_RANGE: usize = 100_000;

pub fn global(name: &str) -> Option<Value> {
    let name = known(NAMES, name)?;
    Some(Value::Object(Rc::new(Object::Function(name))))
}

pub fn call(cx: &Context, name: &str, arguments: &Arguments) -> Result<Value> {
    let object = |object: Object| Ok(Value::Object(Rc::new(object)));
    match name {
        "range" => range(arguments),
        "dict" => Value::dict(&cx.budget, make_dict(cx, arguments)?),
        "namespace" => {
            let namespace = Rc::new(Object::Namespace(RefCell::new(make_dict(cx, arguments)?)));
            cx.remember(Cyclic::Namespace(Rc::downgrade(&namespace)))?;
            Ok(Value::Object(namespace))
        }
        "cycler" => match arguments.positional.is_empty() {
            true => fail("cycler: no items"),
            false => object(Object::Cycler {
                items: arguments.positional.clone(),
                position: Cell::new(0),
            }),
        },
        "joiner" => {
            let [separator] = arguments.bind(name, ["sep"])?;
            let separator = separator.unwrap_or_else(|| Value::text(", "));
            object(Object::Joiner { separator, used: Cell::new(false) })
        }
        "strftime_now" => {
            let [format] = arguments.bind(name, ["format"])?;
            let format = format.text("format")?;
            let mut text = String::new();
            match write!(text, "{}", chrono::Local::now().format(&format)) {
                Ok(()) => Value::str(&cx.budget, text),
                Err(_) => fail(format!("strftime_now: {format:?}")),
            }
        }
        _ => {
            let [message] = arguments.bind(name, ["message"])?;
            Err(Error::Raised(to_str(cx, &message.required("message")?)?))
        }
    }
}

fn range(arguments: &Arguments) -> Result<Value> {
    let [first, second, third] = arguments.bind("range", ["start", "stop", "step"])?;
    let int = |value: Option<Value>| match value {
        None => Ok(None),
        given => given.int("range").map(Some),
    };
    let (first, second, step) = (int(first)?, int(second)?, int(third)?.unwrap_or(1));
    let (start, stop) = match (first, second) {
        (Some(start), Some(stop)) => (start, stop),
        (Some(stop), None) => (0, stop),
        _ => return fail("range: nothing to count to"),
    };
    if step == 0 {
        return fail("range: the step is zero");
    }
    let range = Range { start, stop, step };
    if range.len() > MAX_RANGE {
        return fail(format!("range: more than {MAX_RANGE} numbers"));
    }
    Ok(Value::Range(range.into()))
}

/// dict(pairs or mapping, key=value, …)
fn make_dict(cx: &Context, arguments: &Arguments) -> Result<Dict> {
    let mut dict = Dict::default();
    match &arguments.positional[..] {
        [] => {}
        [Value::Dict(from)] => dict = (**from).clone(),
        [pairs] => {
            for pair in pairs.items(&cx.budget)?.iter() {
                match &pair.items(&cx.budget)?[..] {
                    [key, value] => dict.insert(Key::new(&cx.budget, key)?, value.clone()),
                    _ => return fail("dict: expected pairs"),
                }
            }
        }
        _ => return fail("dict: expected at most one argument"),
    }
    for (name, value) in &arguments.keyword {
        dict.insert_str(name, value.clone());
    }
    Ok(dict)
}
