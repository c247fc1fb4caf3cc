//! The values of templates: Python's, as far as a template sees them. Only a namespace and an
//! iterator change; everything else is shared.

use std::cell::{Cell, RefCell};
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use indexmap::{Equivalent, IndexMap};

use super::budget::{error, fail, Budget, Result};
use super::interpreter::Scope;

/// What one value costs in a list.
pub const VALUE_BYTES: usize = 32;
/// What a list takes beside its items, in values: its count, its vector, two allocations.
const LIST_VALUES: usize = 4;
/// Deeper values are not compared or written: both are recursive.
pub const MAX_VALUE_DEPTH: usize = 200;

#[derive(Clone)]
pub enum Value {
    /// With what to say where it is used.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Str),
    List(Rc<Vec<Value>>),
    Tuple(Tuple),
    Dict(Rc<Dict>),
    /// dict.keys() and its like
    View(View, Rc<Dict>),
    Range(Rc<Range>),
    /// What filters that select or map give: each item once.
    Iterator(Rc<Items>),
    Object(Rc<Object>),
}

/// A string; `markup` is one that has been escaped, as the library of that name marks it.
#[derive(Clone)]
pub struct Str {
    pub text: Rc<str>,
    pub markup: bool,
}

#[derive(Clone)]
pub struct Tuple {
    pub items: Rc<Vec<Value>>,
    /// Attributes of a named tuple.
    pub names: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq)]
pub enum View {
    Keys,
    Values,
    Items,
}

#[derive(Clone, Copy, PartialEq)]
pub struct Range {
    pub start: i128,
    pub stop: i128,
    pub step: i128,
}

pub struct Items {
    pub items: Rc<Vec<Value>>,
    pub position: Cell<usize>,
}

pub enum Object {
    Namespace(RefCell<Dict>),
    /// The index of its declaration, and the variables it sees.
    Macro(usize, Rc<Scope>),
    Loop(Loop),
    Cycler {
        items: Vec<Value>,
        position: Cell<usize>,
    },
    Joiner {
        separator: Value,
        used: Cell<bool>,
    },
    /// A global function.
    Function(&'static str),
    /// A method of a value.
    Method(Value, &'static str),
}

/// The variable `loop`.
pub struct Loop {
    pub items: Rc<Vec<Value>>,
    pub index: Cell<usize>,
    pub depth: usize,
    pub last_changed: RefCell<Option<Value>>,
    /// A recursive loop: its index, and the scope around it.
    pub recursion: Option<(usize, Rc<Scope>)>,
}

impl Range {
    pub fn len(&self) -> usize {
        let (from, to) =
            if self.step > 0 { (self.start, self.stop) } else { (self.stop, self.start) };
        let distance = to.saturating_sub(from).max(0) as u128;
        usize::try_from(distance.div_ceil(self.step.unsigned_abs())).unwrap_or(usize::MAX)
    }

    pub fn items(&self) -> impl Iterator<Item = i128> + '_ {
        (0..self.len()).map(|index| self.start + self.step * index as i128)
    }
}

impl Items {
    /// The items that are left; there are none left then.
    pub fn take(&self) -> Vec<Value> {
        let position = self.position.replace(self.items.len());
        self.items[position..].to_vec()
    }
}

// --- dict ---

/// A hashable value. 1, 1.0 and true are one key, as in Python.
#[derive(Clone)]
pub struct Key(Value);

#[derive(Clone, Default)]
pub struct Dict {
    map: IndexMap<Key, Value>,
}

impl Key {
    pub fn new(budget: &Budget, value: &Value) -> Result<Key> {
        fn check(budget: &Budget, value: &Value, depth: usize) -> Result<()> {
            budget.read(VALUE_BYTES)?; // it is walked again to be hashed
            match value {
                Value::List(_) | Value::Dict(_) | Value::View(..) => {
                    fail(format!("unhashable type: {}", value.type_name()))
                }
                Value::Tuple(_) if depth > MAX_VALUE_DEPTH => fail("a key nested too deeply"),
                Value::Tuple(tuple) => {
                    tuple.items.iter().try_for_each(|item| check(budget, item, depth + 1))
                }
                _ => Ok(()),
            }
        }
        check(budget, value, 0)?;
        Ok(Key(value.clone()))
    }

    pub fn value(&self) -> &Value {
        &self.0
    }
}

fn is_equal_key(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Str(a), Value::Str(b)) => a.text == b.text,
        (Value::None, Value::None) | (Value::Undefined(_), Value::Undefined(_)) => true,
        (Value::Range(a), Value::Range(b)) => a == b,
        (Value::Tuple(a), Value::Tuple(b)) => {
            a.items.len() == b.items.len()
                && a.items.iter().zip(b.items.iter()).all(|(a, b)| is_equal_key(a, b))
        }
        (Value::Object(a), Value::Object(b)) => Rc::ptr_eq(a, b),
        (Value::Iterator(a), Value::Iterator(b)) => Rc::ptr_eq(a, b),
        _ => matches!((a.number(), b.number()), (Some(a), Some(b)) if a.equals(b)),
    }
}

fn hash_key<H: Hasher>(value: &Value, state: &mut H) {
    match value {
        Value::Str(text) => text.text.hash(state),
        Value::Tuple(tuple) => tuple.items.iter().for_each(|item| hash_key(item, state)),
        Value::Object(object) => Rc::as_ptr(object).hash(state),
        Value::Iterator(items) => Rc::as_ptr(items).hash(state),
        _ => match value.number() {
            Some(Number::Int(value)) => value.hash(state),
            Some(Number::Float(value)) if value.fract() == 0.0 => (value as i128).hash(state),
            Some(Number::Float(value)) => value.to_bits().hash(state),
            None => {} // few, and told apart by is_equal_key
        },
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        is_equal_key(&self.0, &other.0)
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_key(&self.0, state);
    }
}

impl Equivalent<Key> for str {
    fn equivalent(&self, key: &Key) -> bool {
        matches!(&key.0, Value::Str(text) if *text.text == *self)
    }
}

impl Dict {
    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn get(&self, key: &Key) -> Option<&Value> {
        self.map.get(key)
    }

    pub fn get_str(&self, key: &str) -> Option<&Value> {
        self.map.get(key)
    }

    pub fn insert(&mut self, key: Key, value: Value) {
        self.map.insert(key, value);
    }

    pub fn insert_str(&mut self, key: &str, value: Value) {
        self.map.insert(Key(Value::text(key)), value);
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Value, &Value)> {
        self.map.iter().map(|(key, value)| (&key.0, value))
    }
}

// --- numbers ---

#[derive(Clone, Copy)]
pub enum Number {
    Int(i128),
    Float(f64),
}

impl Number {
    pub fn to_f64(self) -> f64 {
        match self {
            Number::Int(value) => value as f64,
            Number::Float(value) => value,
        }
    }

    pub fn equals(self, other: Number) -> bool {
        match (self, other) {
            (Number::Int(a), Number::Int(b)) => a == b,
            (Number::Float(a), Number::Float(b)) => a == b,
            (Number::Int(int), Number::Float(float)) | (Number::Float(float), Number::Int(int)) => {
                float.fract() == 0.0 && float.abs() < 1e38 && float as i128 == int
            }
        }
    }
}

// --- values ---

impl Value {
    /// Of a string that is as long as something that was paid for.
    pub fn text(text: &str) -> Value {
        Value::Str(Str { text: text.into(), markup: false })
    }

    pub fn str(budget: &Budget, text: impl AsRef<str>) -> Result<Value> {
        budget.make(text.as_ref().len() + 2 * VALUE_BYTES)?;
        Ok(Value::text(text.as_ref()))
    }

    pub fn list(budget: &Budget, items: Vec<Value>) -> Result<Value> {
        budget.make((items.len() + LIST_VALUES) * VALUE_BYTES)?;
        Ok(Value::List(Rc::new(items)))
    }

    pub fn tuple(budget: &Budget, items: Vec<Value>) -> Result<Value> {
        budget.make((items.len() + LIST_VALUES) * VALUE_BYTES)?;
        Ok(Value::Tuple(Tuple { items: Rc::new(items), names: &[] }))
    }

    pub fn dict(budget: &Budget, dict: Dict) -> Result<Value> {
        budget.make(dict.len() * 4 * VALUE_BYTES)?;
        Ok(Value::Dict(Rc::new(dict)))
    }

    pub fn iterator(budget: &Budget, items: Vec<Value>) -> Result<Value> {
        budget.make((items.len() + LIST_VALUES) * VALUE_BYTES)?;
        Ok(Value::Iterator(Rc::new(Items { items: Rc::new(items), position: Cell::new(0) })))
    }

    pub fn undefined(message: impl AsRef<str>) -> Value {
        Value::Undefined(message.as_ref().into())
    }

    pub fn method(of: &Value, name: &'static str) -> Value {
        Value::Object(Rc::new(Object::Method(of.clone(), name)))
    }

    pub fn from_json(json: &serde_json::Value) -> Value {
        match json {
            serde_json::Value::Null => Value::None,
            serde_json::Value::Bool(value) => Value::Bool(*value),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => Value::Int(value.into()),
                (_, Some(value)) => Value::Int(value.into()),
                _ => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(text) => Value::text(text),
            serde_json::Value::Array(items) => {
                Value::List(Rc::new(items.iter().map(Value::from_json).collect()))
            }
            serde_json::Value::Object(entries) => {
                let mut dict = Dict::default();
                for (key, value) in entries {
                    dict.insert_str(key, Value::from_json(value));
                }
                Value::Dict(Rc::new(dict))
            }
        }
    }

    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "undefined",
            Value::None => "None",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Str(_) => "str",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::Dict(_) => "dict",
            Value::View(View::Keys, _) => "dict_keys",
            Value::View(View::Values, _) => "dict_values",
            Value::View(View::Items, _) => "dict_items",
            Value::Range(_) => "range",
            Value::Iterator(_) => "iterator",
            Value::Object(object) => match **object {
                Object::Namespace(_) => "namespace",
                Object::Macro(..) => "macro",
                Object::Loop(_) => "loop",
                Object::Cycler { .. } => "cycler",
                Object::Joiner { .. } => "joiner",
                Object::Function(_) => "function",
                Object::Method(..) => "method",
            },
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(text) => Some(&text.text),
            _ => None,
        }
    }

    pub fn is_undefined(&self) -> bool {
        matches!(self, Value::Undefined(_))
    }

    pub fn is_markup(&self) -> bool {
        matches!(self, Value::Str(text) if text.markup)
    }

    /// A number; bool is one.
    pub fn number(&self) -> Option<Number> {
        match self {
            Value::Bool(value) => Some(Number::Int((*value).into())),
            Value::Int(value) => Some(Number::Int(*value)),
            Value::Float(value) => Some(Number::Float(*value)),
            _ => None,
        }
    }

    /// An integer; bool is one.
    pub fn int(&self) -> Option<i128> {
        match self.number() {
            Some(Number::Int(value)) => Some(value),
            _ => None,
        }
    }

    pub fn is_callable(&self) -> bool {
        match self {
            Value::Object(object) => match &**object {
                Object::Namespace(_) | Object::Cycler { .. } => false,
                _ => true,
            },
            _ => self.is_undefined(), // to be called is what it refuses
        }
    }

    pub fn is_true(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::Str(text) => !text.text.is_empty(),
            Value::Iterator(_) | Value::Object(_) => true,
            _ => self.len().is_some_and(|length| length > 0),
        }
    }

    /// len(value); none for what has no length.
    pub fn len(&self) -> Option<usize> {
        Some(match self {
            Value::Undefined(_) => 0,
            Value::Str(text) => text.text.chars().count(),
            Value::List(items) => items.len(),
            Value::Tuple(tuple) => tuple.items.len(),
            Value::Dict(dict) | Value::View(_, dict) => dict.len(),
            Value::Range(range) => range.len(),
            Value::Object(object) => match &**object {
                Object::Loop(state) => state.items.len(),
                _ => return None,
            },
            _ => return None,
        })
    }

    /// What a loop over the value sees. An iterator is used up.
    pub fn items(&self, budget: &Budget) -> Result<Rc<Vec<Value>>> {
        let items: Vec<Value> = match self {
            Value::List(items) => return Ok(items.clone()),
            Value::Tuple(tuple) => return Ok(tuple.items.clone()),
            Value::Undefined(_) => Vec::new(),
            Value::Str(text) => {
                budget.make(text.text.len().saturating_mul(2 * VALUE_BYTES))?;
                let mut bytes = [0; 4];
                text.text.chars().map(|c| Value::text(c.encode_utf8(&mut bytes))).collect()
            }
            Value::Dict(dict) => dict.iter().map(|(key, _)| key.clone()).collect(),
            Value::View(view, dict) => return dict_view(budget, *view, dict),
            Value::Range(range) => {
                budget.make(range.len().saturating_mul(VALUE_BYTES))?;
                range.items().map(Value::Int).collect()
            }
            Value::Iterator(items) => items.take(),
            _ => return fail(format!("a value of type {} is not iterable", self.type_name())),
        };
        budget.make(items.len() * VALUE_BYTES)?;
        Ok(Rc::new(items))
    }

    /// The error of an operation on something undefined.
    pub fn defined(&self) -> Result<&Value> {
        match self {
            Value::Undefined(message) => Err(error(&**message)),
            _ => Ok(self),
        }
    }
}

fn dict_view(budget: &Budget, view: View, dict: &Dict) -> Result<Rc<Vec<Value>>> {
    budget.make(dict.len() * VALUE_BYTES)?;
    let items: Result<Vec<Value>> = dict
        .iter()
        .map(|(key, value)| match view {
            View::Keys => Ok(key.clone()),
            View::Values => Ok(value.clone()),
            View::Items => Value::tuple(budget, vec![key.clone(), value.clone()]),
        })
        .collect();
    Ok(Rc::new(items?))
}
