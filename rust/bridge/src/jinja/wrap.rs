//! Text within a width: Python's textwrap and pprint.

use super::arguments::{count, Argument, Arguments};
use super::budget::{fail, Result, Text};
use super::interpreter::Context;
use super::operators::sort;
use super::print::repr;
use super::text::{byte_of, is_alpha, is_space, is_word, length, split_lines};
use super::value::{Dict, Key, Value, MAX_VALUE_DEPTH, VALUE_BYTES};

// --- textwrap.wrap ---

pub fn word_wrap(cx: &Context, value: &Value, arguments: &Arguments) -> Result<Value> {
    let parameters = ["width", "break_long_words", "wrapstring", "break_on_hyphens"];
    let [width, break_long, line_end, on_hyphens] = arguments.bind("wordwrap", parameters)?;
    let wrap = Wrap {
        width: count(width.or(Some(Value::Int(79))).int("width")?),
        break_long: break_long.flag(true),
        on_hyphens: on_hyphens.flag(true),
    };
    if wrap.width == 0 {
        return fail("wordwrap: expected a positive width");
    }
    let line_end = line_end.optional_text("wrapstring")?.unwrap_or_else(|| "\n".into());
    let text = Some(value.clone()).text("wordwrap")?;
    let mut out = Text::new(&cx.budget);
    for (index, line) in split_lines(&text, false).into_iter().enumerate() {
        if index > 0 {
            out.push_str(&line_end)?;
        }
        wrap.line(&mut out, line, &line_end)?;
    }
    Value::str(&cx.budget, out.as_str())
}

struct Wrap {
    width: usize,
    break_long: bool,
    on_hyphens: bool,
}

/// The white space that separates words; a no-break space does not.
fn separates(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// Whether `text` has at most `width` characters; reads no more of it.
fn fits(text: &str, width: usize) -> bool {
    text.chars().nth(width).is_none()
}

fn is_blank(text: &str) -> bool {
    text.chars().all(is_space)
}

impl Wrap {
    fn line(&self, out: &mut Text, text: &str, line_end: &str) -> Result<()> {
        let mut chunks = self.chunks(out, text)?;
        chunks.reverse();
        let mut is_first = true;
        while let Some(next) = chunks.last() {
            if is_blank(next) && !is_first {
                chunks.pop();
            }
            let (mut line, mut used) = (Vec::new(), 0);
            while let Some(chunk) = chunks.last().filter(|chunk| fits(chunk, self.width - used)) {
                used += length(chunk);
                line.push(*chunk);
                chunks.pop();
            }
            if let Some(long) = chunks.last_mut().filter(|chunk| !fits(chunk, self.width)) {
                if self.break_long {
                    let (head, tail) = long.split_at(self.break_at(long, self.width - used));
                    line.push(head);
                    *long = tail;
                } else if line.is_empty() {
                    line.extend(chunks.pop());
                }
            }
            if line.last().is_some_and(|chunk| is_blank(chunk)) {
                line.pop();
            }
            if line.is_empty() {
                continue;
            }
            if !is_first {
                out.push_str(line_end)?;
            }
            is_first = false;
            for chunk in line {
                out.push_str(chunk)?;
            }
        }
        Ok(())
    }

    /// Where a word that is too long is cut: after its last hyphen that fits, or when full.
    fn break_at(&self, word: &str, left: usize) -> usize {
        let end = byte_of(word, left);
        let hyphen = word[..end].rfind('-').filter(|at| word[..*at].contains(|c| c != '-'));
        match hyphen {
            Some(at) if self.on_hyphens => at + 1,
            _ => end,
        }
    }

    /// Words, parts of hyphenated ones, dashes and the white space between them.
    fn chunks<'a>(&self, out: &Text, text: &'a str) -> Result<Vec<&'a str>> {
        let mut chunks = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (word, space) = (rest.find(separates), rest.find(|c| !separates(c)));
            let end = match (word, space) {
                (Some(0), space) => space.unwrap_or(rest.len()),
                (end, _) => {
                    let word = &rest[..end.unwrap_or(rest.len())];
                    let before = text[..text.len() - rest.len()].chars().next_back();
                    if self.on_hyphens {
                        out.budget().make(word.len())?;
                        part_of_word(word, before)
                    } else {
                        word.len()
                    }
                }
            };
            out.budget().make(end + VALUE_BYTES)?;
            let (chunk, after) = rest.split_at(end);
            chunks.push(chunk);
            rest = after;
        }
        Ok(chunks)
    }
}

/// The length of what may stand on a line of its own at the front of `word`, which follows `before`.
fn part_of_word(word: &str, before: Option<char>) -> usize {
    let is_mark = |c: char| is_word(c) || "!\"'&.,?".contains(c);
    let is_letter = |c: char| is_alpha(c) || (is_word(c) && !c.is_numeric());
    let characters: Vec<(usize, char)> = word.char_indices().collect();
    let at = |index: usize| characters.get(index).map(|(_, c)| *c);
    // The number of hyphens from here on, if there are at least two and a word follows them.
    let dash = |index: usize| {
        let hyphens = characters[index..].iter().take_while(|(_, c)| *c == '-').count();
        (hyphens >= 2 && at(index + hyphens).is_some_and(is_word)).then_some(hyphens)
    };
    let byte = |index: usize| characters.get(index).map_or(word.len(), |(byte, _)| *byte);
    if let (Some(hyphens), true) = (dash(0), before.is_some_and(is_mark)) {
        return byte(hyphens);
    }
    for index in 1..characters.len() {
        let previous = at(index - 1).unwrap_or_default();
        if at(index) != Some('-') {
            continue;
        }
        if is_mark(previous) && dash(index).is_some() {
            return byte(index);
        }
        let second = if index >= 2 { at(index - 2) } else { before };
        let third = if index >= 3 { at(index - 3) } else { None };
        let joins = (is_letter(previous) && second.is_some_and(is_letter))
            || (previous != '-'
                && is_mark(previous)
                && second == Some('-')
                && third.is_some_and(is_letter));
        let follows = match (at(index + 1), at(index + 2), at(index + 3)) {
            (Some(a), Some('-'), Some(b)) | (Some(a), Some(b), _) => is_letter(a) && is_letter(b),
            _ => false,
        };
        if joins && follows {
            return byte(index + 1);
        }
    }
    word.len()
}

// --- pprint.pformat ---

const PRETTY_WIDTH: usize = 80;

pub fn pretty(cx: &Context, value: &Value) -> Result<String> {
    let mut out = Text::new(&cx.budget);
    Pretty { cx, out: &mut out }.value(&sorted_keys(cx, value, 0)?, 0, 0, 0)?;
    Ok(out.into_string())
}

/// The value with the keys of all dicts in order.
fn sorted_keys(cx: &Context, value: &Value, depth: usize) -> Result<Value> {
    if depth > MAX_VALUE_DEPTH {
        return fail(format!("a value nested deeper than {MAX_VALUE_DEPTH} levels"));
    }
    let all = |items: &[Value]| -> Result<Vec<Value>> {
        items.iter().map(|item| sorted_keys(cx, item, depth + 1)).collect()
    };
    match value {
        Value::List(items) => Value::list(&cx.budget, all(items)?),
        Value::Tuple(tuple) => Value::tuple(&cx.budget, all(&tuple.items)?),
        Value::Dict(dict) => {
            // Keys of kinds that have no order are told apart by the name of their kind.
            let entries = sort(cx, dict.iter().collect(), |a, b| {
                Ok(cx.less(a.0, b.0).unwrap_or_else(|_| a.0.type_name() < b.0.type_name()))
            })?;
            let mut sorted = Dict::default();
            for (key, value) in entries {
                sorted.insert(Key::new(&cx.budget, key)?, sorted_keys(cx, value, depth + 1)?);
            }
            Value::dict(&cx.budget, sorted)
        }
        _ => Ok(value.clone()),
    }
}

struct Pretty<'a, 'b> {
    cx: &'a Context<'a>,
    out: &'a mut Text<'b>,
}

impl Pretty<'_, '_> {
    /// Writes `value` from column `indent`, with `allowance` columns for what closes around it.
    fn value(
        &mut self,
        value: &Value,
        indent: usize,
        allowance: usize,
        level: usize,
    ) -> Result<()> {
        let plain = repr(self.cx, value)?;
        if length(&plain) + indent + allowance <= PRETTY_WIDTH {
            return self.out.push_str(&plain);
        }
        match value {
            Value::List(items) => self.items("[", items, "]", indent, allowance, level),
            Value::Tuple(tuple) => {
                let end = if tuple.items.len() == 1 { ",)" } else { ")" };
                self.items("(", &tuple.items, end, indent, allowance, level)
            }
            Value::Dict(dict) => {
                self.out.push('{')?;
                for (index, (key, value)) in dict.iter().enumerate() {
                    self.separate(index, indent + 1)?;
                    let key = repr(self.cx, key)? + ": ";
                    self.out.push_str(&key)?;
                    let closing = if index + 1 == dict.len() { allowance + 1 } else { 1 };
                    self.value(value, indent + 1 + length(&key), closing, level + 1)?;
                }
                self.out.push('}')
            }
            Value::Str(text) if !text.text.is_empty() => {
                self.string(&text.text, indent, allowance, level)
            }
            _ => self.out.push_str(&plain),
        }
    }

    fn separate(&mut self, index: usize, indent: usize) -> Result<()> {
        if index > 0 {
            self.out.push_str(",\n")?;
            self.out.fill(' ', indent)?;
        }
        Ok(())
    }

    fn items(
        &mut self,
        begin: &str,
        items: &[Value],
        end: &str,
        indent: usize,
        allowance: usize,
        level: usize,
    ) -> Result<()> {
        self.out.push_str(begin)?;
        for (index, item) in items.iter().enumerate() {
            self.separate(index, indent + 1)?;
            let closing = if index + 1 == items.len() { allowance + end.len() } else { 1 };
            self.value(item, indent + 1, closing, level + 1)?;
        }
        self.out.push_str(end)
    }

    /// A long string as several, a line or some words each.
    fn string(&mut self, text: &str, indent: usize, allowance: usize, level: usize) -> Result<()> {
        let outer = usize::from(level == 0); // brackets of its own
        let (indent, allowance) = (indent + outer, allowance + outer);
        let width = PRETTY_WIDTH.saturating_sub(indent);
        let quoted = |text: &str| repr(self.cx, &Value::text(text));
        let mut chunks = Vec::new();
        let lines = split_lines(text, true);
        for (index, line) in lines.iter().enumerate() {
            let is_last = index + 1 == lines.len();
            let closing = if is_last { allowance } else { 0 };
            let whole = quoted(line)?;
            if length(&whole) + closing <= width {
                chunks.push(whole);
                continue;
            }
            let mut current = String::new();
            let mut rest = *line;
            while !rest.is_empty() {
                let word = rest.find(is_space).unwrap_or(rest.len());
                let end = rest[word..].find(|c| !is_space(c)).map_or(rest.len(), |at| word + at);
                let (part, after) = rest.split_at(end);
                rest = after;
                let candidate = quoted(&[&current, part].concat())?;
                let closing = if rest.is_empty() { closing } else { 0 };
                if length(&candidate) + closing > width {
                    if !current.is_empty() {
                        chunks.push(quoted(&current)?);
                    }
                    current = part.into();
                } else {
                    current.push_str(part);
                }
            }
            if !current.is_empty() {
                chunks.push(quoted(&current)?);
            }
        }
        let brackets = if chunks.len() > 1 && level == 0 { ["(", ")"] } else { ["", ""] };
        self.out.push_str(brackets[0])?;
        for (index, chunk) in chunks.iter().enumerate() {
            if index > 0 {
                self.out.push('\n')?;
                self.out.fill(' ', indent)?;
            }
            self.out.push_str(chunk)?;
        }
        self.out.push_str(brackets[1])
    }
}
