//! What a filter, test, function or method is called with.

use std::rc::Rc;

use super::budget::{fail, Result};
use super::interpreter::Context;
use super::lookup;
use super::print;
use super::value::Value;

#[derive(Clone, Default)]
pub struct Arguments {
    pub positional: Vec<Value>,
    pub keyword: Vec<(Rc<str>, Value)>,
}

impl Arguments {
    /// Each parameter's value, by position or name, as Python binds them.
    pub fn bind<const N: usize>(
        &self,
        callee: &str,
        parameters: [&str; N],
    ) -> Result<[Option<Value>; N]> {
        if self.positional.len() > N {
            let given = self.positional.len();
            return fail(format!("{callee}: expected at most {N} arguments, found {given}"));
        }
        let mut bound = [const { None }; N];
        for (place, value) in bound.iter_mut().zip(&self.positional) {
            *place = Some(value.clone());
        }
        for (name, value) in &self.keyword {
            let Some(index) = parameters.iter().position(|parameter| *parameter == &**name) else {
                return fail(format!("{callee}: there is no parameter {name}"));
            };
            if bound[index].is_some() {
                return fail(format!("{callee}: {name} is given twice"));
            }
            bound[index] = Some(value.clone());
        }
        Ok(bound)
    }

    pub fn none(&self, callee: &str) -> Result<()> {
        self.bind(callee, []).map(|[]| ())
    }

    /// Without the first `count` positional ones.
    pub fn after(&self, count: usize) -> Arguments {
        let positional = self.positional.iter().skip(count).cloned().collect();
        Arguments { positional, keyword: self.keyword.clone() }
    }
}

/// An argument by the type that is wanted.
pub trait Argument {
    fn required(self, name: &str) -> Result<Value>;
    /// An int that has to be given.
    fn int(self, name: &str) -> Result<i128>;
    /// None, the value, is as if nothing were given.
    fn optional_int(self, name: &str) -> Result<Option<i128>>;
    /// A str that has to be given.
    fn text(self, name: &str) -> Result<Rc<str>>;
    fn optional_text(self, name: &str) -> Result<Option<Rc<str>>>;
    fn flag(self, default: bool) -> bool;
    /// What Python counts as an int, by its truth.
    fn int_flag(self, name: &str) -> Result<bool>;
    /// str(argument), or the default.
    fn printed(self, cx: &Context, default: &str) -> Result<String>;
}

impl Argument for Option<Value> {
    fn required(self, name: &str) -> Result<Value> {
        match self {
            Some(value) => Ok(value),
            None => fail(format!("{name} is missing")),
        }
    }

    fn int(self, name: &str) -> Result<i128> {
        let value = self.required(name)?;
        match value.defined()?.int() {
            Some(value) => Ok(value),
            None => fail(format!("{name}: expected an int, found {}", value.type_name())),
        }
    }

    fn optional_int(self, name: &str) -> Result<Option<i128>> {
        match self {
            None | Some(Value::None) => Ok(None),
            given => given.int(name).map(Some),
        }
    }

    fn text(self, name: &str) -> Result<Rc<str>> {
        match self.required(name)? {
            Value::Str(text) => Ok(text.text),
            other => fail(format!("{name}: expected a str, found {}", other.type_name())),
        }
    }

    fn optional_text(self, name: &str) -> Result<Option<Rc<str>>> {
        match self {
            None | Some(Value::None) => Ok(None),
            given => given.text(name).map(Some),
        }
    }

    fn flag(self, default: bool) -> bool {
        self.map_or(default, |value| value.is_true())
    }

    fn int_flag(self, name: &str) -> Result<bool> {
        Ok(self.or(Some(Value::Int(0))).int(name)? != 0)
    }

    fn printed(self, cx: &Context, default: &str) -> Result<String> {
        match self {
            Some(value) => print::to_str(cx, &value),
            None => Ok(default.into()),
        }
    }
}

/// A count that may be negative, which is none.
pub fn count(value: i128) -> usize {
    usize::try_from(value.max(0)).unwrap_or(usize::MAX)
}

/// value[index] where `index` may be an attribute: what filters take as attribute= and "a.0.b".
pub fn dotted(cx: &Context, value: &Value, path: &Value) -> Result<Value> {
    let Value::Str(path) = path else {
        return lookup::lookup(cx, value, path);
    };
    let mut value = value.clone();
    for part in path.text.split('.') {
        let index = match part.parse::<i128>() {
            Ok(index) if part.bytes().all(|byte| byte.is_ascii_digit()) => Value::Int(index),
            _ => Value::str(&cx.budget, part)?,
        };
        value = lookup::lookup(cx, &value, &index)?;
    }
    Ok(value)
}
