//! Values of expressions, and calls.

use std::rc::Rc;

use super::arguments::Arguments;
use super::ast::{self, Expr, Operator, Suffix};
use super::budget::{error, fail, Result, Text};
use super::functions;
use super::interpreter::{Context, Scope};
use super::lookup::{self, find_attribute, find_item};
use super::operators;
use super::print::write_str;
use super::value::{Dict, Key, Object, Str, Value};
use super::{filters, predicates};

impl Context<'_> {
    pub fn eval(&self, expr: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        self.budget.step()?;
        match expr {
            Expr::None => Ok(Value::None),
            Expr::Bool(value) => Ok(Value::Bool(*value)),
            Expr::Int(value) => Ok(Value::Int(*value)),
            Expr::Float(value) => Ok(Value::Float(*value)),
            Expr::Str(text) => Value::str(&self.budget, text),
            Expr::Name(name) => Ok(self.variable(name, scope)),
            _ => self.budget.nested(|| self.eval_nested(expr, scope)),
        }
    }

    fn variable(&self, name: &str, scope: &Rc<Scope>) -> Value {
        scope
            .get(name)
            .or_else(|| functions::global(name))
            .unwrap_or_else(|| Value::undefined(format!("{name} is undefined")))
    }

    fn eval_nested(&self, expr: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        match expr {
            Expr::List(items) => Value::list(&self.budget, self.eval_all(items, scope)?),
            Expr::Tuple(items) => Value::tuple(&self.budget, self.eval_all(items, scope)?),
            Expr::Dict(entries) => {
                let mut dict = Dict::default();
                for (key, value) in entries {
                    let key = Key::new(&self.budget, &self.eval(key, scope)?)?;
                    dict.insert(key, self.eval(value, scope)?);
                }
                Value::dict(&self.budget, dict)
            }
            Expr::And(operands) => self.eval_until(operands, scope, false),
            Expr::Or(operands) => self.eval_until(operands, scope, true),
            Expr::Not(operand) => Ok(Value::Bool(!self.eval(operand, scope)?.is_true())),
            Expr::Negative(operand) => operators::negative(&self.eval(operand, scope)?),
            Expr::Positive(operand) => operators::positive(&self.eval(operand, scope)?),
            Expr::Arithmetic(first, rest) => {
                let mut value = self.eval(first, scope)?;
                let mut sum: Option<Text> = None; // a + b + c of strings, each of them copied once
                for (operator, operand) in rest {
                    let operand = self.eval(operand, scope)?;
                    if let (Operator::Add, Value::Str(Str { text, markup: false })) =
                        (operator, &operand)
                    {
                        if let Some(sum) = &mut sum {
                            sum.push_str(text)?;
                            continue;
                        }
                        if let Value::Str(Str { text: left, markup: false }) = &value {
                            let mut begun = Text::new(&self.budget);
                            begun.push_str(left)?;
                            begun.push_str(text)?;
                            sum = Some(begun);
                            continue;
                        }
                    }
                    if let Some(sum) = sum.take() {
                        value = Value::text(&sum.into_string());
                    }
                    value = operators::arithmetic(self, *operator, &value, &operand)?;
                }
                Ok(sum.map_or(value, |sum| Value::text(&sum.into_string())))
            }
            Expr::Compare(first, rest) => {
                let mut left = self.eval(first, scope)?;
                for (comparison, right) in rest {
                    let right = self.eval(right, scope)?;
                    if !operators::compare(self, *comparison, &left, &right)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Ok(Value::Bool(true))
            }
            Expr::Concat(operands) => self.concat(&self.eval_all(operands, scope)?),
            Expr::If(then, test, otherwise) => {
                if self.eval(test, scope)?.is_true() {
                    return self.eval(then, scope);
                }
                match otherwise {
                    Some(otherwise) => self.eval(otherwise, scope),
                    None => Ok(Value::undefined("an \"if\" without \"else\" is undefined")),
                }
            }
            Expr::Suffixed(base, suffixes) => {
                let mut value = self.eval(base, scope)?;
                for index in 0..suffixes.len() {
                    self.budget.step()?;
                    value = self.suffix(value, base, &suffixes[..=index], scope)?;
                }
                Ok(value)
            }
            _ => self.eval(expr, scope),
        }
    }

    fn eval_all(&self, exprs: &[Expr], scope: &Rc<Scope>) -> Result<Vec<Value>> {
        exprs.iter().map(|expr| self.eval(expr, scope)).collect()
    }

    /// The first value whose truth is `wanted`, or the last.
    fn eval_until(&self, operands: &[Expr], scope: &Rc<Scope>, wanted: bool) -> Result<Value> {
        let mut value = Value::None;
        for operand in operands {
            value = self.eval(operand, scope)?;
            if value.is_true() == wanted {
                break;
            }
        }
        Ok(value)
    }

    /// a ~ b: within {% autoescape %} one that has been escaped has the others escaped, too.
    fn concat(&self, values: &[Value]) -> Result<Value> {
        let markup = self.autoescape.get() && values.iter().any(Value::is_markup);
        let mut out = Text::new(&self.budget);
        for value in values {
            let mut text = Text::new(&self.budget);
            write_str(self, &mut text, value)?;
            let part = Str { text: text.into_string().into(), markup: value.is_markup() };
            operators::push_markup(self, &mut out, &part, markup)?;
        }
        Ok(Value::Str(Str { text: out.into_string().into(), markup }))
    }

    /// Applies the last of these suffixes to the value that the others gave.
    fn suffix(
        &self,
        value: Value,
        base: &Expr,
        path: &[Suffix],
        scope: &Rc<Scope>,
    ) -> Result<Value> {
        let undefined = || Value::undefined(format!("{} is undefined", describe(base, path)));
        match path.last() {
            None => Ok(value),
            Some(Suffix::Attribute(name)) => {
                Ok(find_attribute(self, &value, name)?.unwrap_or_else(undefined))
            }
            Some(Suffix::Item(index)) => {
                let index = self.eval(index, scope)?;
                Ok(find_item(self, &value, &index)?.unwrap_or_else(undefined))
            }
            Some(Suffix::Slice(bounds)) => {
                let bound = |bound: &Option<Expr>| {
                    bound.as_ref().map(|bound| self.eval(bound, scope)).transpose()
                };
                let bounds = [bound(&bounds[0])?, bound(&bounds[1])?, bound(&bounds[2])?];
                lookup::slice(self, &value, bounds)
            }
            Some(Suffix::Call(arguments)) => {
                let arguments = self.arguments(arguments, scope)?;
                self.call(&value, &arguments)
            }
            Some(Suffix::Filter(filter)) => {
                let arguments = self.arguments(&filter.arguments, scope)?;
                filters::apply(self, &filter.name, &value, &arguments)
            }
            Some(Suffix::Test { name, arguments, negated }) => {
                let arguments = self.arguments(arguments, scope)?;
                let passes = predicates::apply(self, name, &value, &arguments)?;
                Ok(Value::Bool(passes != *negated))
            }
        }
    }

    // --- calls ---

    pub fn arguments(&self, arguments: &ast::Arguments, scope: &Rc<Scope>) -> Result<Arguments> {
        let mut positional = self.eval_all(&arguments.positional, scope)?;
        let mut keyword: Vec<(Rc<str>, Value)> = Vec::new();
        if let Some(rest) = &arguments.rest {
            positional.extend(self.eval(rest, scope)?.items(&self.budget)?.iter().cloned());
        }
        for (name, expr) in &arguments.keyword {
            keyword.push((Rc::from(&**name), self.eval(expr, scope)?));
        }
        if let Some(keywords) = &arguments.keywords {
            let keywords = self.eval(keywords, scope)?;
            let Value::Dict(dict) = keywords.defined()? else {
                return fail(format!("**: expected a dict, found {}", keywords.type_name()));
            };
            for (name, value) in dict.iter() {
                let name =
                    name.as_str().ok_or_else(|| error("**: expected keys that are strings"))?;
                keyword.push((name.into(), value.clone()));
            }
        }
        let is_repeated =
            |index: usize| keyword[..index].iter().any(|known| known.0 == keyword[index].0);
        match (0..keyword.len()).find(|index| is_repeated(*index)) {
            Some(index) => fail(format!("the argument {} is given twice", keyword[index].0)),
            None => Ok(Arguments { positional, keyword }),
        }
    }

    pub fn call(&self, callee: &Value, arguments: &Arguments) -> Result<Value> {
        if let Value::Object(object) = callee.defined()? {
            match &**object {
                Object::Macro(index, scope) => return self.call_macro(*index, scope, arguments),
                Object::Function(name) => return functions::call(self, name, arguments),
                Object::Method(of, name) => {
                    return super::methods::call(self, of, name, arguments);
                }
                Object::Joiner { separator, used } => {
                    let is_first = !used.replace(true);
                    return Ok(if is_first { Value::text("") } else { separator.clone() });
                }
                Object::Loop(state) => {
                    let Some((index, scope)) = &state.recursion else {
                        return fail("loop(): the loop is not recursive");
                    };
                    let [items] = arguments.bind("loop", ["iterable"])?;
                    let items =
                        items.unwrap_or_else(|| Value::undefined("loop(): nothing to loop over"));
                    let mut out = Text::new(&self.budget);
                    self.run_loop(*index, items.defined()?, state.depth + 1, scope, &mut out)?;
                    return Value::str(&self.budget, out.as_str());
                }
                Object::Namespace(_) | Object::Cycler { .. } => {}
            }
        }
        fail(format!("a value of type {} cannot be called", callee.type_name()))
    }

    /// {% call f(…) %}: the call, with one argument more.
    pub fn eval_call_block(&self, call: &Expr, caller: Value, scope: &Rc<Scope>) -> Result<Value> {
        let Expr::Suffixed(base, suffixes) = call else {
            return fail("{% call %}: expected a call");
        };
        let Some((Suffix::Call(arguments), before)) = suffixes.split_last() else {
            return fail("{% call %}: expected a call");
        };
        let mut callee = self.eval(base, scope)?;
        for index in 0..before.len() {
            callee = self.suffix(callee, base, &before[..=index], scope)?;
        }
        let mut arguments = self.arguments(arguments, scope)?;
        arguments.keyword.push(("caller".into(), caller));
        self.call(&callee, &arguments)
    }

    fn call_macro(&self, index: usize, scope: &Rc<Scope>, arguments: &Arguments) -> Result<Value> {
        let called = &self.template.macros[index];
        let name = &called.name;
        let inner = Scope::new(Some(scope.clone()));
        let mut keyword = arguments.keyword.clone();
        let mut take = |wanted: &str| {
            let at = keyword.iter().position(|(name, _)| **name == *wanted)?;
            Some(keyword.remove(at).1)
        };
        let first_default = called.parameters.len() - called.defaults.len();
        for (place, parameter) in called.parameters.iter().enumerate() {
            let value = match (arguments.positional.get(place), take(parameter)) {
                (Some(_), Some(_)) => return fail(format!("{name}: {parameter} is given twice")),
                (Some(value), None) => value.clone(),
                (None, Some(value)) => value,
                (None, None) if place >= first_default => {
                    self.eval(&called.defaults[place - first_default], &inner)?
                }
                (None, None) => Value::undefined(format!("{name}: {parameter} was not given")),
            };
            inner.set(parameter, value);
        }
        if called.uses_caller && !called.parameters.iter().any(|name| **name == *"caller") {
            let caller = take("caller");
            inner.set("caller", caller.unwrap_or_else(|| Value::undefined("there is no caller")));
        }
        if called.uses_kwargs {
            let mut dict = Dict::default();
            for (name, value) in keyword.drain(..) {
                dict.insert_str(&name, value);
            }
            inner.set("kwargs", Value::dict(&self.budget, dict)?);
        }
        if let Some((unknown, _)) = keyword.first() {
            return fail(format!("{name}: there is no parameter {unknown}"));
        }
        let rest = arguments.positional.get(called.parameters.len()..).unwrap_or_default();
        if called.uses_varargs {
            inner.set("varargs", Value::tuple(&self.budget, rest.to_vec())?);
        } else if !rest.is_empty() {
            let (wanted, found) = (called.parameters.len(), arguments.positional.len());
            return fail(format!("{name}: expected at most {wanted} arguments, found {found}"));
        }
        let mut out = Text::new(&self.budget);
        self.run(&called.body, &inner, &mut out)?;
        Ok(Value::Str(Str { text: out.into_string().into(), markup: self.autoescape.get() }))
    }
}

/// base.x[1] as the template has it.
fn describe(base: &Expr, path: &[Suffix]) -> String {
    let mut text = match base {
        Expr::Name(name) => name.to_string(),
        _ => "(…)".into(),
    };
    for suffix in path {
        match suffix {
            Suffix::Attribute(name) => text += &format!(".{name}"),
            Suffix::Item(Expr::Str(key)) => text += &format!("['{key}']"),
            Suffix::Item(Expr::Int(index)) => text += &format!("[{index}]"),
            Suffix::Item(Expr::Name(name)) => text += &format!("[{name}]"),
            Suffix::Call(_) => text += "(…)",
            Suffix::Filter(filter) => text += &format!("|{}", filter.name),
            _ => text += "[…]",
        }
    }
    text
}
