//! Tokens → tree, by Jinja2's grammar with the loop controls and transformers' {% generation %}.

use super::ast::*;
use super::budget::{fail, Result};
use super::lexer::{tokenize, Token};

/// Of brackets and statements within each other, as Python allows.
const MAX_NESTING: usize = 200;

pub fn parse(source: &str) -> Result<Template> {
    let template = Template { body: Vec::new(), loops: Vec::new(), macros: Vec::new() };
    let tokens = tokenize(source)?;
    let mut parser =
        Parser { tokens, position: 0, template, nesting: 0, loops: 0, special_names: Vec::new() };
    match parser.statements(&[]) {
        Ok(body) => Ok(Template { body, ..parser.template }),
        Err(error) => Err(error.at(parser.line())),
    }
}

/// Which special names the body of a macro speaks of.
#[derive(Default)]
pub struct SpecialNames {
    pub caller: bool,
    pub varargs: bool,
    pub kwargs: bool,
}

pub struct Parser<'a> {
    tokens: Vec<(Token<'a>, u32)>,
    position: usize,
    pub template: Template,
    nesting: usize,
    /// Around this place, within the same macro.
    pub loops: usize,
    /// Of the macros around this place.
    pub special_names: Vec<SpecialNames>,
}

impl<'a> Parser<'a> {
    // --- the stream of tokens ---

    pub fn current(&self) -> &Token<'a> {
        &self.tokens[self.position].0
    }

    pub fn following(&self) -> &Token<'a> {
        self.tokens.get(self.position + 1).map_or(&Token::End, |(token, _)| token)
    }

    pub fn line(&self) -> u32 {
        self.tokens[self.position].1
    }

    pub fn advance(&mut self) {
        self.position = (self.position + 1).min(self.tokens.len() - 1);
    }

    pub fn is(&self, operator: &'static str) -> bool {
        *self.current() == Token::Operator(operator)
    }

    pub fn is_name(&self, name: &str) -> bool {
        matches!(self.current(), Token::Name(found) if *found == name)
    }

    pub fn skip(&mut self, operator: &'static str) -> bool {
        let found = self.is(operator);
        if found {
            self.advance();
        }
        found
    }

    pub fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        if found {
            self.advance();
        }
        found
    }

    pub fn unexpected<T>(&self, expected: &str) -> Result<T> {
        fail(format!("expected {expected}, found {}", self.current().describe()))
    }

    pub fn expect(&mut self, token: Token<'a>) -> Result<()> {
        if *self.current() != token {
            return self.unexpected(&token.describe());
        }
        self.advance();
        Ok(())
    }

    pub fn expect_name(&mut self) -> Result<&'a str> {
        let Token::Name(name) = *self.current() else {
            return self.unexpected("a name");
        };
        self.advance();
        Ok(name)
    }

    pub fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.nesting == MAX_NESTING {
            return fail(format!("nested deeper than {MAX_NESTING} levels"));
        }
        self.nesting += 1;
        let result = parse(self);
        self.nesting -= 1;
        result
    }

    // --- expressions, from the loosest to the tightest ---

    pub fn is_tuple_end(&self, ends: &[&str]) -> bool {
        matches!(self.current(), Token::VariableEnd | Token::BlockEnd | Token::Operator(")"))
            || ends.iter().any(|end| self.is_name(end))
    }

    /// An expression, or several with commas. `with_if` allows a conditional one.
    pub fn tuple(&mut self, with_if: bool, ends: &[&str]) -> Result<Expr> {
        let mut items = Vec::new();
        loop {
            if self.is_tuple_end(ends) {
                break;
            }
            items.push(if with_if { self.expression()? } else { self.nested(Self::or)? });
            if !self.skip(",") {
                if items.len() == 1 {
                    return Ok(items.remove(0));
                }
                break;
            }
        }
        if items.is_empty() {
            return self.unexpected("an expression");
        }
        Ok(Expr::Tuple(items))
    }

    pub fn expression(&mut self) -> Result<Expr> {
        self.nested(|parser| {
            let mut expr = parser.or()?;
            let mut ifs = 0;
            while parser.skip_name("if") {
                ifs += 1;
                if ifs > MAX_NESTING {
                    return fail(format!("more than {MAX_NESTING} conditions in a row"));
                }
                let test = parser.or()?;
                let otherwise = match parser.skip_name("else") {
                    true => Some(Box::new(parser.expression()?)),
                    false => None,
                };
                expr = Expr::If(Box::new(expr), Box::new(test), otherwise);
            }
            Ok(expr)
        })
    }

    fn or(&mut self) -> Result<Expr> {
        let first = self.and()?;
        if !self.is_name("or") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.skip_name("or") {
            all.push(self.and()?);
        }
        Ok(Expr::Or(all))
    }

    fn and(&mut self) -> Result<Expr> {
        let first = self.not()?;
        if !self.is_name("and") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.skip_name("and") {
            all.push(self.not()?);
        }
        Ok(Expr::And(all))
    }

    fn not(&mut self) -> Result<Expr> {
        if self.skip_name("not") {
            return Ok(Expr::Not(Box::new(self.nested(Self::not)?)));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Expr> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let comparison = match self.current() {
                Token::Operator("==") => Comparison::Equal,
                Token::Operator("!=") => Comparison::NotEqual,
                Token::Operator("<") => Comparison::Less,
                Token::Operator("<=") => Comparison::LessOrEqual,
                Token::Operator(">") => Comparison::Greater,
                Token::Operator(">=") => Comparison::GreaterOrEqual,
                Token::Name("in") => Comparison::In,
                Token::Name("not") if *self.following() == Token::Name("in") => {
                    self.advance();
                    Comparison::NotIn
                }
                _ if rest.is_empty() => return Ok(first),
                _ => return Ok(Expr::Compare(Box::new(first), rest)),
            };
            self.advance();
            rest.push((comparison, self.sum()?));
        }
    }

    fn sum(&mut self) -> Result<Expr> {
        self.arithmetic(&[("+", Operator::Add), ("-", Operator::Subtract)], Self::concat)
    }

    fn concat(&mut self) -> Result<Expr> {
        let first = self.product()?;
        if !self.is("~") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.skip("~") {
            all.push(self.product()?);
        }
        Ok(Expr::Concat(all))
    }

    fn product(&mut self) -> Result<Expr> {
        let operators = [
            ("*", Operator::Multiply),
            ("/", Operator::Divide),
            ("//", Operator::FloorDivide),
            ("%", Operator::Modulo),
        ];
        self.arithmetic(&operators, Self::power)
    }

    fn power(&mut self) -> Result<Expr> {
        self.arithmetic(&[("**", Operator::Power)], |parser| parser.unary(true))
    }

    fn arithmetic(
        &mut self,
        operators: &[(&'static str, Operator)],
        operand: fn(&mut Self) -> Result<Expr>,
    ) -> Result<Expr> {
        let first = operand(self)?;
        let mut rest = Vec::new();
        while let Some((text, operator)) = operators.iter().find(|(text, _)| self.is(text)) {
            self.skip(text);
            rest.push((*operator, operand(self)?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Arithmetic(Box::new(first), rest) })
    }

    /// -x.y|f is (-(x.y))|f.
    fn unary(&mut self, with_filters: bool) -> Result<Expr> {
        let base = if self.skip("-") {
            Expr::Negative(Box::new(self.nested(|parser| parser.unary(false))?))
        } else if self.skip("+") {
            Expr::Positive(Box::new(self.nested(|parser| parser.unary(false))?))
        } else {
            self.primary()?
        };
        let mut suffixes = Vec::new();
        self.postfix(&mut suffixes)?;
        while with_filters {
            if self.skip("|") {
                suffixes.push(Suffix::Filter(self.filter()?));
            } else if self.skip_name("is") {
                suffixes.push(self.test()?);
            } else if self.is("(") {
                suffixes.push(Suffix::Call(self.arguments()?));
            } else {
                break;
            }
        }
        Ok(if suffixes.is_empty() { base } else { Expr::Suffixed(Box::new(base), suffixes) })
    }

    fn primary(&mut self) -> Result<Expr> {
        let token = self.current().clone();
        match token {
            Token::Name(name) => {
                self.advance();
                for used in &mut self.special_names {
                    used.caller |= name == "caller";
                    used.varargs |= name == "varargs";
                    used.kwargs |= name == "kwargs";
                }
                Ok(match name {
                    "true" | "True" => Expr::Bool(true),
                    "false" | "False" => Expr::Bool(false),
                    "none" | "None" => Expr::None,
                    _ => Expr::Name(name.into()),
                })
            }
            Token::Str(mut text) => {
                self.advance();
                while let Token::Str(more) = self.current() {
                    text.push_str(more);
                    self.advance();
                }
                Ok(Expr::Str(text.into()))
            }
            Token::Int(value) => {
                self.advance();
                Ok(Expr::Int(value))
            }
            Token::Float(value) => {
                self.advance();
                Ok(Expr::Float(value))
            }
            Token::Operator("(") => {
                self.advance();
                if self.skip(")") {
                    return Ok(Expr::Tuple(Vec::new()));
                }
                let tuple = self.tuple(true, &[])?;
                self.expect(Token::Operator(")"))?;
                Ok(tuple)
            }
            Token::Operator("[") => {
                self.advance();
                Ok(Expr::List(self.items("]", Self::expression)?))
            }
            Token::Operator("{") => {
                self.advance();
                let entries = self.items("}", |parser| {
                    let key = parser.expression()?;
                    parser.expect(Token::Operator(":"))?;
                    Ok((key, parser.expression()?))
                })?;
                Ok(Expr::Dict(entries))
            }
            _ => self.unexpected("an expression"),
        }
    }

    /// Items with commas between them, and perhaps one behind, up to `end`.
    fn items<T>(&mut self, end: &'static str, item: fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut items = Vec::new();
        while !self.skip(end) {
            if !items.is_empty() {
                self.expect(Token::Operator(","))?;
                if self.skip(end) {
                    break;
                }
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn postfix(&mut self, suffixes: &mut Vec<Suffix>) -> Result<()> {
        loop {
            if self.skip(".") {
                let suffix = match *self.current() {
                    Token::Name(name) => Suffix::Attribute(name.into()),
                    Token::Int(index) => Suffix::Item(Expr::Int(index)),
                    _ => return self.unexpected("a name or an index"),
                };
                self.advance();
                suffixes.push(suffix);
            } else if self.skip("[") {
                suffixes.push(self.subscript()?);
                self.expect(Token::Operator("]"))?;
            } else if self.is("(") {
                suffixes.push(Suffix::Call(self.arguments()?));
            } else {
                return Ok(());
            }
        }
    }

    fn subscript(&mut self) -> Result<Suffix> {
        let mut bounds = [None, None, None];
        for (index, bound) in bounds.iter_mut().enumerate() {
            if !self.is(":") && !self.is("]") {
                let expr = self.expression()?;
                if index == 0 && self.is(",") {
                    let mut items = vec![expr];
                    while self.skip(",") {
                        items.push(self.expression()?);
                    }
                    return Ok(Suffix::Item(Expr::Tuple(items)));
                }
                if index == 0 && !self.is(":") {
                    return Ok(Suffix::Item(expr));
                }
                *bound = Some(expr);
            }
            if !self.skip(":") {
                if index == 0 {
                    return self.unexpected("an index");
                }
                break;
            }
        }
        Ok(Suffix::Slice(Box::new(bounds)))
    }

    pub fn arguments(&mut self) -> Result<Arguments> {
        let mut arguments = Arguments::default();
        self.expect(Token::Operator("("))?;
        let mut is_first = true;
        while !self.skip(")") {
            if !is_first {
                self.expect(Token::Operator(","))?;
                if self.skip(")") {
                    break;
                }
            }
            is_first = false;
            let repeated = || fail("arguments in an order that Python does not know");
            if self.skip("*") {
                if arguments.rest.is_some() || arguments.keywords.is_some() {
                    return repeated();
                }
                arguments.rest = Some(Box::new(self.expression()?));
            } else if self.skip("**") {
                if arguments.keywords.is_some() {
                    return repeated();
                }
                arguments.keywords = Some(Box::new(self.expression()?));
            } else if let (Token::Name(name), Token::Operator("=")) =
                (self.current().clone(), self.following())
            {
                if arguments.keywords.is_some() {
                    return repeated();
                }
                self.advance();
                self.advance();
                arguments.keyword.push((name.into(), self.expression()?));
            } else {
                let later = arguments.rest.is_some() || arguments.keywords.is_some();
                if later || !arguments.keyword.is_empty() {
                    return repeated();
                }
                arguments.positional.push(self.expression()?);
            }
        }
        Ok(arguments)
    }

    pub fn filter(&mut self) -> Result<Filter> {
        let name = self.dotted_name()?;
        let arguments = if self.is("(") { self.arguments()? } else { Arguments::default() };
        Ok(Filter { name, arguments })
    }

    fn dotted_name(&mut self) -> Result<Box<str>> {
        let mut name = self.expect_name()?.to_owned();
        while self.skip(".") {
            name.push('.');
            name.push_str(self.expect_name()?);
        }
        Ok(name.into())
    }

    /// What follows "is".
    fn test(&mut self) -> Result<Suffix> {
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        let mut arguments = Arguments::default();
        if self.is("(") {
            arguments = self.arguments()?;
        } else {
            let begins = match self.current() {
                Token::Name("is") => return fail("tests cannot be chained with \"is\""),
                Token::Name(word) => !["else", "or", "and"].contains(word),
                Token::Str(_) | Token::Int(_) | Token::Float(_) => true,
                Token::Operator(operator) => ["[", "{"].contains(operator),
                _ => false,
            };
            if begins {
                let base = self.nested(Self::primary)?;
                let mut suffixes = Vec::new();
                self.postfix(&mut suffixes)?;
                arguments.positional.push(match suffixes.is_empty() {
                    true => base,
                    false => Expr::Suffixed(Box::new(base), suffixes),
                });
            }
        }
        Ok(Suffix::Test { name, arguments, negated })
    }
}

pub fn assignable(name: &str) -> Result<()> {
    if ["true", "false", "none", "True", "False", "None"].contains(&name) {
        return fail(format!("cannot assign to {name}"));
    }
    Ok(())
}
