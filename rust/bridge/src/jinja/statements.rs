//! The parser's statements.

use super::ast::*;
use super::budget::{fail, Result};
use super::lexer::Token;
use super::parser::{assignable, Parser, SpecialNames};

impl Parser<'_> {
    /// Up to a statement that begins with one of `ends`, which is left to the caller.
    pub fn statements(&mut self, ends: &[&str]) -> Result<Vec<Node>> {
        let mut nodes = Vec::new();
        loop {
            let line = self.line();
            let statement = match self.current() {
                Token::Data(text) => {
                    let text = Statement::Text((*text).into());
                    self.advance();
                    text
                }
                Token::VariableBegin => {
                    self.advance();
                    let expr = self.tuple(true, &[])?;
                    self.expect(Token::VariableEnd)?;
                    Statement::Print(expr)
                }
                Token::BlockBegin => {
                    self.advance();
                    if ends.iter().any(|end| self.is_name(end)) {
                        return Ok(nodes);
                    }
                    let statement = self.nested(Self::statement)?;
                    self.expect(Token::BlockEnd)?;
                    statement
                }
                _ if ends.is_empty() => return Ok(nodes),
                _ => return self.unexpected(&format!("{{% {} %}}", ends.join(" %} or {% "))),
            };
            nodes.push(Node { line, statement });
        }
    }

    /// The body of a statement, from the end of its head to one of `ends`.
    fn body(&mut self, ends: &[&str]) -> Result<Vec<Node>> {
        self.skip(":");
        self.expect(Token::BlockEnd)?;
        self.statements(ends)
    }

    /// The body up to {% END %}, END included.
    fn body_to(&mut self, end: &str) -> Result<Vec<Node>> {
        let body = self.body(&[end])?;
        self.advance();
        Ok(body)
    }

    fn statement(&mut self) -> Result<Statement> {
        let name = self.expect_name()?;
        match name {
            "for" => self.for_loop(),
            "if" => self.condition(),
            "set" => self.set(),
            "with" => self.with(),
            "macro" => {
                let name = self.expect_name()?;
                let (parameters, defaults) = self.parameters()?;
                Ok(Statement::Macro(self.macro_body(name, parameters, defaults, "endmacro")?))
            }
            "call" => {
                let (parameters, defaults) =
                    if self.is("(") { self.parameters()? } else { (Vec::new(), Vec::new()) };
                let call = self.expression()?;
                if !matches!(&call, Expr::Suffixed(_, suffixes)
                    if matches!(suffixes.last(), Some(Suffix::Call(_))))
                {
                    return fail("{% call %}: expected a call");
                }
                let body = self.macro_body("caller", parameters, defaults, "endcall")?;
                Ok(Statement::Call(call, body))
            }
            "filter" => {
                let filters = self.filters()?;
                Ok(Statement::FilterBlock(filters, self.body_to("endfilter")?))
            }
            "autoescape" => {
                let enabled = self.expression()?;
                Ok(Statement::Autoescape(enabled, self.body_to("endautoescape")?))
            }
            "generation" => Ok(Statement::Scope(self.body_to("endgeneration")?)),
            "block" => {
                self.expect_name()?;
                let scoped = self.skip_name("scoped");
                self.skip_name("required");
                let loops = std::mem::take(&mut self.loops);
                let body = self.body_to("endblock")?;
                self.loops = loops;
                if matches!(self.current(), Token::Name(_)) {
                    self.advance(); // the name may be said again
                }
                Ok(Statement::Block(scoped, body))
            }
            "print" => {
                let mut all = vec![self.expression()?];
                while self.skip(",") {
                    all.push(self.expression()?);
                }
                Ok(Statement::Print(Expr::Concat(all)))
            }
            "break" | "continue" if self.loops == 0 => {
                fail(format!("{{% {name} %}} outside a loop"))
            }
            "break" => Ok(Statement::Break),
            "continue" => Ok(Statement::Continue),
            "include" | "import" | "from" | "extends" => {
                while *self.current() != Token::BlockEnd && *self.current() != Token::End {
                    self.advance();
                }
                Ok(Statement::NoLoader)
            }
            _ => fail(format!("unknown statement {{% {name} %}}")),
        }
    }

    fn for_loop(&mut self) -> Result<Statement> {
        let target = self.targets(&["in"])?;
        if !self.skip_name("in") {
            return self.unexpected("\"in\"");
        }
        let items = self.tuple(false, &["recursive"])?;
        let condition = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        self.loops += 1;
        let body = self.body(&["endfor", "else"])?;
        self.loops -= 1;
        let otherwise =
            if self.skip_name("else") { self.body_to("endfor")? } else { self.end_of_body() };
        self.template.loops.push(For { target, items, condition, recursive, body, otherwise });
        Ok(Statement::For(self.template.loops.len() - 1))
    }

    fn end_of_body(&mut self) -> Vec<Node> {
        self.advance();
        Vec::new()
    }

    fn condition(&mut self) -> Result<Statement> {
        let mut branches = Vec::new();
        loop {
            let test = self.tuple(false, &[])?;
            branches.push((test, self.body(&["elif", "else", "endif"])?));
            if self.skip_name("elif") {
                continue;
            }
            let otherwise =
                if self.skip_name("else") { self.body_to("endif")? } else { self.end_of_body() };
            return Ok(Statement::If(branches, otherwise));
        }
    }

    fn set(&mut self) -> Result<Statement> {
        let target = self.targets(&[])?;
        if self.skip("=") {
            return Ok(Statement::Set(target, self.tuple(true, &[])?));
        }
        let filters = if self.skip("|") { self.filters()? } else { Vec::new() };
        Ok(Statement::SetBlock(target, filters, self.body_to("endset")?))
    }

    fn with(&mut self) -> Result<Statement> {
        let mut assignments = Vec::new();
        while *self.current() != Token::BlockEnd {
            if !assignments.is_empty() {
                self.expect(Token::Operator(","))?;
            }
            let target = self.target()?;
            self.expect(Token::Operator("="))?;
            assignments.push((target, self.expression()?));
        }
        Ok(Statement::With(assignments, self.body_to("endwith")?))
    }

    fn parameters(&mut self) -> Result<(Vec<Box<str>>, Vec<Expr>)> {
        let (mut parameters, mut defaults) = (Vec::new(), Vec::new());
        self.expect(Token::Operator("("))?;
        while !self.skip(")") {
            if !parameters.is_empty() {
                self.expect(Token::Operator(","))?;
            }
            let name = self.expect_name()?;
            assignable(name)?;
            parameters.push(name.into());
            if self.skip("=") {
                defaults.push(self.expression()?);
            } else if !defaults.is_empty() {
                return fail(format!("the parameter {name} has no default, but one before it has"));
            }
        }
        Ok((parameters, defaults))
    }

    fn macro_body(
        &mut self,
        name: &str,
        parameters: Vec<Box<str>>,
        defaults: Vec<Expr>,
        end: &str,
    ) -> Result<usize> {
        let loops = std::mem::take(&mut self.loops);
        self.special_names.push(SpecialNames::default());
        let body = self.body_to(end)?;
        let used = self.special_names.pop().unwrap_or_default();
        self.loops = loops;
        self.template.macros.push(Macro {
            name: name.into(),
            parameters,
            defaults,
            body,
            uses_caller: used.caller,
            uses_varargs: used.varargs,
            uses_kwargs: used.kwargs,
        });
        Ok(self.template.macros.len() - 1)
    }

    /// name|filter(…)|…, the first without its bar.
    fn filters(&mut self) -> Result<Vec<Filter>> {
        let mut filters = vec![self.filter()?];
        while self.skip("|") {
            filters.push(self.filter()?);
        }
        Ok(filters)
    }

    // --- targets of assignments ---

    /// One, or several with commas, up to one of `ends` or the end of the statement.
    fn targets(&mut self, ends: &[&str]) -> Result<Target> {
        let mut targets = Vec::new();
        loop {
            if self.is_tuple_end(ends) || self.is("=") {
                break;
            }
            targets.push(self.target()?);
            if !self.skip(",") {
                if targets.len() == 1 {
                    return Ok(targets.remove(0));
                }
                break;
            }
        }
        if targets.is_empty() {
            return self.unexpected("a name to assign to");
        }
        Ok(Target::Tuple(targets))
    }

    fn target(&mut self) -> Result<Target> {
        if self.skip("(") {
            let targets = self.nested(|parser| parser.targets(&[]))?;
            self.expect(Token::Operator(")"))?;
            return Ok(targets);
        }
        let name = self.expect_name()?;
        assignable(name)?;
        if self.skip(".") {
            return Ok(Target::Attribute(name.into(), self.expect_name()?.into()));
        }
        Ok(Target::Name(name.into()))
    }
}
