//! The nodes of a parsed template. Chains of operators and suffixes are flat lists, so that a tree is
//! no deeper than the parser allows nesting.

pub struct Template {
    pub body: Vec<Node>,
    /// Loops and macros are named by their index: a value that outlives its statement refers to it so.
    pub loops: Vec<For>,
    pub macros: Vec<Macro>,
}

pub struct Node {
    pub line: u32,
    pub statement: Statement,
}

pub enum Statement {
    Text(Box<str>),
    Print(Expr),
    For(usize),
    If(Vec<(Expr, Vec<Node>)>, Vec<Node>),
    With(Vec<(Target, Expr)>, Vec<Node>),
    Set(Target, Expr),
    /// {% set x | filter %}…{% endset %}
    SetBlock(Target, Vec<Filter>, Vec<Node>),
    FilterBlock(Vec<Filter>, Vec<Node>),
    Autoescape(Expr, Vec<Node>),
    /// {% block %} (true: scoped) sees the template's variables, not those around it.
    Block(bool, Vec<Node>),
    /// {% generation %}: prints its body, which has variables of its own.
    Scope(Vec<Node>),
    Macro(usize),
    /// {% call f() %}: the call, and the index of its body, a macro.
    Call(Expr, usize),
    Continue,
    Break,
    /// Of other templates, which there are none: include, import, from, extends.
    NoLoader,
}

pub struct For {
    pub target: Target,
    pub items: Expr,
    pub condition: Option<Expr>,
    pub recursive: bool,
    pub body: Vec<Node>,
    pub otherwise: Vec<Node>,
}

pub struct Macro {
    pub name: Box<str>,
    pub parameters: Vec<Box<str>>,
    /// Of the last parameters.
    pub defaults: Vec<Expr>,
    pub body: Vec<Node>,
    /// Which of the special names its body speaks of.
    pub uses_caller: bool,
    pub uses_varargs: bool,
    pub uses_kwargs: bool,
}

pub enum Target {
    Name(Box<str>),
    /// namespace.attribute
    Attribute(Box<str>, Box<str>),
    Tuple(Vec<Target>),
}

pub enum Expr {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Box<str>),
    Name(Box<str>),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    /// a + b - c, from the left.
    Arithmetic(Box<Expr>, Vec<(Operator, Expr)>),
    /// a < b <= c
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    /// a ~ b ~ c
    Concat(Vec<Expr>),
    /// then if test else otherwise
    If(Box<Expr>, Box<Expr>, Option<Box<Expr>>),
    /// base.x[1](2)|f
    Suffixed(Box<Expr>, Vec<Suffix>),
}

#[derive(Clone, Copy, PartialEq)]
pub enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Modulo,
    Power,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}

pub enum Suffix {
    Attribute(Box<str>),
    Item(Expr),
    Slice(Box<[Option<Expr>; 3]>),
    Call(Arguments),
    Filter(Filter),
    Test { name: Box<str>, arguments: Arguments, negated: bool },
}

pub struct Filter {
    pub name: Box<str>,
    pub arguments: Arguments,
}

#[derive(Default)]
pub struct Arguments {
    pub positional: Vec<Expr>,
    pub keyword: Vec<(Box<str>, Expr)>,
    /// *rest
    pub rest: Option<Box<Expr>>,
    /// **keywords
    pub keywords: Option<Box<Expr>>,
}
