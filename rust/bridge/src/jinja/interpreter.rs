//! Runs a template: statements print, expressions have values.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use super::ast::{self, Node, Statement, Target, Template};
use super::budget::{fail, Budget, Result, Text};
use super::filters;
use super::print::{escape_html, write_str};
use super::value::{Loop, Object, Str, Value, VALUE_BYTES};

/// What everything that runs needs.
pub struct Context<'a> {
    pub template: &'a Template,
    pub budget: Budget,
    /// Within {% autoescape %}.
    pub autoescape: Cell<bool>,
    /// The template's own variables, which blocks see.
    root: Rc<Scope>,
    /// What may come to hold itself: scopes with macros, and namespaces. Emptied in the end.
    cyclic: RefCell<Vec<Cyclic>>,
}

pub enum Cyclic {
    Scope(Weak<Scope>),
    Namespace(Weak<Object>),
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        for cyclic in self.cyclic.take() {
            match cyclic {
                Cyclic::Scope(scope) => {
                    let variables = scope.upgrade().map(|scope| scope.variables.take());
                    drop(variables);
                }
                Cyclic::Namespace(object) => {
                    if let Some(Object::Namespace(attributes)) = object.upgrade().as_deref() {
                        drop(attributes.take());
                    }
                }
            }
        }
    }
}

/// Variables, and the scope around them. What a loop or a macro sets is gone at its end.
pub struct Scope {
    variables: RefCell<Vec<(Rc<str>, Value)>>,
    parent: Option<Rc<Scope>>,
}

impl Scope {
    pub fn new(parent: Option<Rc<Scope>>) -> Rc<Scope> {
        Rc::new(Scope { variables: RefCell::default(), parent })
    }

    pub fn set(&self, name: &str, value: Value) {
        let mut variables = self.variables.borrow_mut();
        match variables.iter_mut().find(|(known, _)| **known == *name) {
            Some((_, place)) => *place = value,
            None => variables.push((name.into(), value)),
        }
    }

    pub fn get(&self, name: &str) -> Option<Value> {
        let mut scope = self;
        loop {
            let variables = scope.variables.borrow();
            if let Some((_, value)) = variables.iter().find(|(known, _)| **known == *name) {
                return Some(value.clone());
            }
            drop(variables);
            scope = scope.parent.as_deref()?;
        }
    }
}

/// How a list of statements ended.
#[derive(PartialEq)]
pub enum Flow {
    Next,
    Continue,
    Break,
}

pub fn render(
    template: &Template,
    variables: &serde_json::Map<String, serde_json::Value>,
) -> Result<String> {
    let root = Scope::new(None);
    for (name, value) in variables {
        root.set(name, Value::from_json(value));
    }
    let cx = Context {
        template,
        budget: Budget::default(),
        autoescape: Cell::new(false),
        root: root.clone(),
        cyclic: RefCell::default(),
    };
    let mut out = Text::new(&cx.budget);
    cx.run(&template.body, &root, &mut out)?;
    Ok(out.into_string())
}

impl Context<'_> {
    pub fn remember(&self, cyclic: Cyclic) -> Result<()> {
        self.budget.make(4 * VALUE_BYTES)?;
        self.cyclic.borrow_mut().push(cyclic);
        Ok(())
    }

    // --- statements ---

    pub fn run(&self, nodes: &[Node], scope: &Rc<Scope>, out: &mut Text) -> Result<Flow> {
        self.budget.nested(|| {
            for node in nodes {
                self.budget.step()?;
                let flow = self.statement(&node.statement, scope, out);
                let flow = flow.map_err(|error| error.at(node.line))?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
            }
            Ok(Flow::Next)
        })
    }

    fn statement(&self, statement: &Statement, scope: &Rc<Scope>, out: &mut Text) -> Result<Flow> {
        match statement {
            Statement::Text(text) => out.push_str(text)?,
            Statement::Print(expr) => {
                let value = self.eval(expr, scope)?;
                self.print(&value, out)?;
            }
            Statement::If(branches, otherwise) => {
                for (test, body) in branches {
                    if self.eval(test, scope)?.is_true() {
                        return self.run(body, scope, out);
                    }
                }
                return self.run(otherwise, scope, out);
            }
            Statement::For(index) => {
                let items = self.eval(&self.template.loops[*index].items, scope)?;
                self.run_loop(*index, &items, 0, scope, out)?;
            }
            Statement::Set(target, expr) => self.assign(target, self.eval(expr, scope)?, scope)?,
            Statement::SetBlock(target, filters, body) => {
                let text = self.capture(body, scope)?;
                self.assign(target, self.filtered(text, filters, scope)?, scope)?;
            }
            Statement::FilterBlock(filters, body) => {
                let text = self.capture(body, scope)?;
                self.print(&self.filtered(text, filters, scope)?, out)?;
            }
            Statement::With(assignments, body) => {
                let inner = Scope::new(Some(scope.clone()));
                for (target, expr) in assignments {
                    self.assign(target, self.eval(expr, scope)?, &inner)?;
                }
                return self.run(body, &inner, out);
            }
            Statement::Autoescape(enabled, body) => {
                let enabled = self.eval(enabled, scope)?.is_true();
                let before = self.autoescape.replace(enabled);
                let flow = self.run(body, &Scope::new(Some(scope.clone())), out);
                self.autoescape.set(before);
                return flow;
            }
            Statement::Block(scoped, body) => {
                let around = if *scoped { scope } else { &self.root };
                self.run(body, &Scope::new(Some(around.clone())), out)?;
            }
            Statement::Scope(body) => {
                return self.run(body, &Scope::new(Some(scope.clone())), out);
            }
            Statement::Macro(index) => {
                let declared = Value::Object(Rc::new(Object::Macro(*index, scope.clone())));
                self.remember(Cyclic::Scope(Rc::downgrade(scope)))?;
                scope.set(&self.template.macros[*index].name, declared);
            }
            Statement::Call(call, body) => {
                let caller = Value::Object(Rc::new(Object::Macro(*body, scope.clone())));
                let value = self.eval_call_block(call, caller, scope)?;
                self.print(&value, out)?;
            }
            Statement::Continue => return Ok(Flow::Continue),
            Statement::Break => return Ok(Flow::Break),
            Statement::NoLoader => return fail("a chat template cannot load other templates"),
        }
        Ok(Flow::Next)
    }

    fn print(&self, value: &Value, out: &mut Text) -> Result<()> {
        if !self.autoescape.get() || value.is_markup() {
            return write_str(self, out, value);
        }
        let mut text = Text::new(&self.budget);
        write_str(self, &mut text, value)?;
        out.push_str(&escape_html(&self.budget, text.as_str())?)
    }

    /// What a body prints, as a value.
    fn capture(&self, body: &[Node], scope: &Rc<Scope>) -> Result<Value> {
        let mut out = Text::new(&self.budget);
        self.run(body, &Scope::new(Some(scope.clone())), &mut out)?;
        Ok(Value::Str(Str { text: out.into_string().into(), markup: self.autoescape.get() }))
    }

    fn filtered(&self, value: Value, filters: &[ast::Filter], scope: &Rc<Scope>) -> Result<Value> {
        filters.iter().try_fold(value, |value, filter| {
            let arguments = self.arguments(&filter.arguments, scope)?;
            filters::apply(self, &filter.name, &value, &arguments)
        })
    }

    fn assign(&self, target: &Target, value: Value, scope: &Rc<Scope>) -> Result<()> {
        match target {
            Target::Name(name) => scope.set(name, value),
            Target::Attribute(name, attribute) => match scope.get(name) {
                Some(Value::Object(object)) => match &*object {
                    Object::Namespace(attributes) => {
                        attributes.borrow_mut().insert_str(attribute, value);
                    }
                    _ => return fail(format!("{name} is not a namespace")),
                },
                _ => return fail(format!("{name} is not a namespace")),
            },
            Target::Tuple(targets) => {
                let items = value.items(&self.budget)?;
                if items.len() != targets.len() {
                    let (wanted, found) = (targets.len(), items.len());
                    return fail(format!("{wanted} names, but {found} values to assign to them"));
                }
                for (target, item) in targets.iter().zip(items.iter()) {
                    self.assign(target, item.clone(), scope)?;
                }
            }
        }
        Ok(())
    }

    pub fn run_loop(
        &self,
        index: usize,
        items: &Value,
        depth: usize,
        scope: &Rc<Scope>,
        out: &mut Text,
    ) -> Result<()> {
        let node = &self.template.loops[index];
        let mut items = items.items(&self.budget)?;
        if let Some(condition) = &node.condition {
            let mut kept = Vec::new();
            for item in items.iter() {
                let inner = Scope::new(Some(scope.clone()));
                self.assign(&node.target, item.clone(), &inner)?;
                if self.eval(condition, &inner)?.is_true() {
                    kept.push(item.clone());
                }
            }
            items = Rc::new(kept);
        }
        if items.is_empty() {
            self.run(&node.otherwise, &Scope::new(Some(scope.clone())), out)?;
            return Ok(());
        }
        let state = Rc::new(Object::Loop(Loop {
            items: items.clone(),
            index: Cell::new(0),
            depth,
            last_changed: RefCell::default(),
            recursion: node.recursive.then(|| (index, scope.clone())),
        }));
        for (position, item) in items.iter().enumerate() {
            self.budget.step()?;
            if let Object::Loop(state) = &*state {
                state.index.set(position);
            }
            let inner = Scope::new(Some(scope.clone()));
            inner.set("loop", Value::Object(state.clone()));
            self.assign(&node.target, item.clone(), &inner)?;
            if self.run(&node.body, &inner, out)? == Flow::Break {
                break;
            }
        }
        if let Object::Loop(state) = &*state {
            state.last_changed.take(); // which may be the loop itself
        }
        Ok(())
    }
}
