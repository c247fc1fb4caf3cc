//! Source → tokens, as Jinja2 with trim_blocks and lstrip_blocks cuts it.

use super::budget::{error, fail, Error, Result};
use super::text::is_space;

#[derive(Clone, Debug, PartialEq)]
pub enum Token<'a> {
    Data(&'a str),
    BlockBegin,
    BlockEnd,
    VariableBegin,
    VariableEnd,
    Name(&'a str),
    Str(String),
    Int(i128),
    Float(f64),
    Operator(&'static str),
    End,
}

impl Token<'_> {
    pub fn describe(&self) -> String {
        match self {
            Token::Data(_) => "text".into(),
            Token::BlockBegin => "\"{%\"".into(),
            Token::BlockEnd => "the end of the statement".into(),
            Token::VariableBegin => "\"{{\"".into(),
            Token::VariableEnd => "the end of the expression".into(),
            Token::Name(name) => format!("\"{name}\""),
            Token::Str(_) => "a string".into(),
            Token::Int(_) | Token::Float(_) => "a number".into(),
            Token::Operator(operator) => format!("\"{operator}\""),
            Token::End => "the end of the template".into(),
        }
    }
}

const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",", ";",
];

/// The tokens with their lines, `Token::End` last.
pub fn tokenize(source: &str) -> Result<Vec<(Token<'_>, u32)>> {
    let mut lexer = Lexer { rest: source, line: 1, tokens: Vec::new(), at_line_start: true };
    lexer.template().map_err(|error| error.at(lexer.line))?;
    lexer.push(Token::End);
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    rest: &'a str,
    line: u32,
    tokens: Vec<(Token<'a>, u32)>,
    /// Whether the last thing taken ended with a newline.
    at_line_start: bool,
}

impl<'a> Lexer<'a> {
    fn push(&mut self, token: Token<'a>) {
        self.tokens.push((token, self.line));
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        self.line += taken.matches('\n').count() as u32;
        if !taken.is_empty() {
            self.at_line_start = taken.ends_with('\n');
        }
        taken
    }

    fn template(&mut self) -> Result<()> {
        loop {
            let Some(begin) = find_tag(self.rest) else {
                let text = self.take(self.rest.len());
                self.data(text, "", false);
                return Ok(());
            };
            let at_line_start = self.at_line_start;
            let text = self.take(begin);
            let kind = &self.rest[1..2];
            let sign = sign_of(&self.rest[2..]);
            // Space before a statement or comment that stands first on its line goes with it.
            let strips_line = at_line_start || text.contains('\n');
            self.data(text, sign, kind != "{" && strips_line);
            let raw = if kind == "%" { self.raw_begin() } else { None };
            self.take(2 + sign.len());
            match (kind, raw) {
                ("#", _) => self.comment()?,
                ("{", _) => self.inside(Token::VariableBegin)?,
                (_, Some(bytes)) => {
                    self.take(bytes - 2 - sign.len());
                    self.raw()?;
                }
                _ => self.inside(Token::BlockBegin)?,
            }
        }
    }

    /// Text before a tag with this sign.
    fn data(&mut self, text: &'a str, sign: &str, strips_line: bool) {
        let text = match sign {
            "-" => text.trim_end_matches(is_space),
            "" if strips_line => {
                let line = text.rfind('\n').map_or(0, |at| at + 1);
                if text[line..].chars().all(is_space) {
                    &text[..line]
                } else {
                    text
                }
            }
            _ => text,
        };
        if !text.is_empty() {
            self.push(Token::Data(text));
        }
    }

    /// The length of {% raw %}, if that is what comes.
    fn raw_begin(&self) -> Option<usize> {
        let rest = &self.rest[2 + sign_of(&self.rest[2..]).len()..];
        let rest = rest.trim_start_matches(is_space).strip_prefix("raw")?;
        let rest = rest.trim_start_matches(is_space);
        let rest = match rest.strip_prefix("-%}") {
            Some(rest) => rest.trim_start_matches(is_space),
            None => rest.strip_prefix("%}")?,
        };
        Some(self.rest.len() - rest.len())
    }

    fn raw(&mut self) -> Result<()> {
        let at_line_start = self.at_line_start;
        let mut from = 0;
        while let Some(found) = self.rest[from..].find("{%") {
            let begin = from + found;
            let sign = sign_of(&self.rest[begin + 2..]);
            let rest = self.rest[begin + 2 + sign.len()..].trim_start_matches(is_space);
            let end = rest.strip_prefix("endraw").and_then(|rest| {
                let rest = rest.trim_start_matches(is_space);
                block_end(rest).map(|bytes| self.rest.len() - rest.len() + bytes)
            });
            if let Some(end) = end {
                let text = self.take(begin);
                self.data(text, sign, at_line_start || text.contains('\n'));
                self.take(end - begin);
                return Ok(());
            }
            from = begin + 2;
        }
        fail("{% raw %} without {% endraw %}")
    }

    fn comment(&mut self) -> Result<()> {
        let Some(end) = self.rest.find("#}") else {
            return fail("a comment without its end: expected \"#}\"");
        };
        let sign = self.rest[..end].chars().next_back();
        self.take(end + 2);
        let rest = self.rest;
        match sign {
            Some('-') => self.take(rest.len() - rest.trim_start_matches(is_space).len()),
            Some('+') => "",
            _ => self.take(usize::from(rest.starts_with('\n'))),
        };
        Ok(())
    }

    /// The tokens of a statement or expression, its two ends among them.
    fn inside(&mut self, begin: Token<'a>) -> Result<()> {
        let is_block = begin == Token::BlockBegin;
        self.push(begin);
        let mut open = Vec::new(); // brackets
        loop {
            let end = if is_block { block_end(self.rest) } else { variable_end(self.rest) };
            if let (Some(bytes), true) = (end, open.is_empty()) {
                self.push(if is_block { Token::BlockEnd } else { Token::VariableEnd });
                self.take(bytes);
                return Ok(());
            }
            let Some(first) = self.rest.chars().next() else {
                return Ok(()); // the parser says what it expected
            };
            if is_space(first) {
                self.take(first.len_utf8());
            } else if first.is_ascii_digit() {
                self.number()?;
            } else if first == '\'' || first == '"' {
                self.string(first)?;
            } else if first == '_' || first.is_alphanumeric() {
                let is_part = |c: char| c == '_' || c.is_alphanumeric();
                let name = self.take(self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len()));
                self.push(Token::Name(name));
            } else {
                let Some(operator) = OPERATORS.iter().find(|text| self.rest.starts_with(**text))
                else {
                    return fail(format!("unexpected character {first:?}"));
                };
                match *operator {
                    "(" => open.push(")"),
                    "[" => open.push("]"),
                    "{" => open.push("}"),
                    ")" | "]" | "}" if open.pop() != Some(*operator) => {
                        return fail(format!("unexpected \"{operator}\""));
                    }
                    _ => {}
                }
                self.push(Token::Operator(operator));
                self.take(operator.len());
            }
        }
    }

    fn number(&mut self) -> Result<()> {
        let after_dot = matches!(self.tokens.last(), Some((Token::Operator("."), _)));
        let float = if after_dot { 0 } else { float_length(self.rest) };
        if float > 0 {
            let text = self.take(float).replace('_', "");
            self.push(Token::Float(text.parse().map_err(|_| error("not a number"))?));
            return Ok(());
        }
        let lower = self.rest.get(..2).unwrap_or_default().to_ascii_lowercase();
        let (prefix, radix) = match lower.as_str() {
            "0b" => (2, 2),
            "0o" => (2, 8),
            "0x" => (2, 16),
            _ => (0, 10),
        };
        let digits = digits_length(&self.rest[prefix..], radix);
        let text = self.take(if digits > 0 { prefix + digits } else { 1 }).replace('_', "");
        let text = if digits > 0 { &text[prefix..] } else { &text };
        if radix == 10 && text.starts_with('0') && text.bytes().any(|digit| digit != b'0') {
            return fail("a number may not begin with 0");
        }
        let value = i128::from_str_radix(text, radix).map_err(|_| error("too large a number"))?;
        self.push(Token::Int(value));
        Ok(())
    }

    fn string(&mut self, quote: char) -> Result<()> {
        let mut escaped = false;
        let end = self.rest.char_indices().skip(1).find(|(_, c)| {
            let ends = *c == quote && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        let Some((end, _)) = end else {
            return fail("a string without its end");
        };
        let text = &self.take(end + 1)[1..end];
        self.push(Token::Str(unescape(text)?));
        Ok(())
    }
}

fn find_tag(text: &str) -> Option<usize> {
    let is_tag = |at: &usize| matches!(text.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#'));
    text.match_indices('{').map(|(at, _)| at).find(is_tag)
}

fn sign_of(text: &str) -> &str {
    if text.starts_with(['-', '+']) {
        &text[..1]
    } else {
        ""
    }
}

/// The length of the end of a statement at the front of `rest`, with the space that goes with it.
fn block_end(rest: &str) -> Option<usize> {
    if let Some(after) = rest.strip_prefix("-%}") {
        return Some(rest.len() - after.trim_start_matches(is_space).len());
    }
    if rest.starts_with("+%}") {
        return Some(3);
    }
    let after = rest.strip_prefix("%}")?;
    Some(2 + usize::from(after.starts_with('\n')))
}

fn variable_end(rest: &str) -> Option<usize> {
    if let Some(after) = rest.strip_prefix("-}}") {
        return Some(rest.len() - after.trim_start_matches(is_space).len());
    }
    rest.starts_with("}}").then_some(2)
}

/// Digits with single underscores between them.
fn digits_length(text: &str, radix: u32) -> usize {
    let mut length = 0;
    for (at, character) in text.char_indices() {
        if character.is_digit(radix) {
            length = at + 1;
        } else if character != '_' || at + 1 > length + 1 || (at == 0 && radix == 10) {
            break;
        }
    }
    length
}

/// 1.5, 1e5, 1.5e-3; 0 if the number at the front is none of them.
fn float_length(text: &str) -> usize {
    let mut length = digits_length(text, 10);
    let mut is_float = false;
    if let Some(fraction) = text[length..].strip_prefix('.') {
        let digits = digits_length(fraction, 10);
        if digits > 0 {
            length += 1 + digits;
            is_float = true;
        }
    }
    if let Some(exponent) = text[length..].strip_prefix(['e', 'E']) {
        let sign = sign_of(exponent).len();
        let digits = digits_length(&exponent[sign..], 10);
        if digits > 0 {
            length += 1 + sign + digits;
            is_float = true;
        }
    }
    if is_float {
        length
    } else {
        0
    }
}

/// Python's escapes. One that means nothing stays as it is.
fn unescape(text: &str) -> Result<String> {
    let invalid =
        || -> Error { error(format!("a string has an escape that is no character: {text:?}")) };
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(kind) = rest.chars().next() else {
            return Err(invalid());
        };
        let after = &rest[kind.len_utf8()..];
        let (digits, radix) = match kind {
            'x' => (2, 16),
            'u' => (4, 16),
            'U' => (8, 16),
            '0'..='7' => {
                (rest.bytes().take(3).take_while(|b| (b'0'..=b'7').contains(b)).count(), 8)
            }
            'N' => return fail("\\N{…} in a string: character names are not known"),
            _ => (0, 0),
        };
        if digits > 0 {
            let code = if radix == 8 { rest } else { after };
            let code = code.get(..digits).filter(|code| code.chars().all(|c| c.is_digit(radix)));
            let code = code.ok_or_else(invalid)?;
            let value = u32::from_str_radix(code, radix).map_err(|_| invalid())?;
            out.push(char::from_u32(value).ok_or_else(invalid)?);
            rest = if radix == 8 { &rest[digits..] } else { &after[digits..] };
            continue;
        }
        match kind {
            '\n' => {}
            'a' => out.push('\u{7}'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\u{b}'),
            '\\' | '\'' | '"' => out.push(kind),
            _ => out.extend(['\\', kind]),
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}
