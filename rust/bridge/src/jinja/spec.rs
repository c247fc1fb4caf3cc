//! One value within a width: what "%5.1f" and "{:>5}" say.

use super::budget::{fail, Result, Text};
use super::interpreter::Context;
use super::print::float_repr;
use super::text::{byte_of, length};

/// More digits than any double has behind its point.
const MAX_DIGITS: usize = 1100;

/// What both kinds of format say about one value.
#[derive(Clone, Default)]
pub struct Spec {
    pub fill: Option<char>,
    /// '<', '>', '^' or '='
    pub align: Option<char>,
    /// '+' or ' '
    pub sign: Option<char>,
    pub alternate: bool,
    pub zero: bool,
    pub width: usize,
    /// ',' or '_'
    pub grouping: Option<char>,
    pub precision: Option<usize>,
    pub kind: Option<char>,
}

impl Spec {
    /// Writes `body` within the width. `prefix` is a sign or "0x": zeros stand behind it.
    pub fn pad(&self, out: &mut Text, prefix: &str, body: &str, default_align: char) -> Result<()> {
        let missing = self.width.saturating_sub(length(prefix) + length(body));
        let fill = self.fill.unwrap_or(if self.zero { '0' } else { ' ' });
        let align = self.align.unwrap_or(if self.zero { '=' } else { default_align });
        let (left, inside) = match align {
            '<' => (0, 0),
            '^' => (missing / 2, 0),
            '=' => (0, missing),
            _ => (missing, 0),
        };
        out.fill(fill, left)?;
        out.push_str(prefix)?;
        out.fill(fill, inside)?;
        out.push_str(body)?;
        out.fill(fill, missing - left - inside)
    }

    fn sign_of(&self, is_negative: bool) -> String {
        if is_negative {
            "-".into()
        } else {
            self.sign.map(String::from).unwrap_or_default()
        }
    }

    pub fn string(&self, out: &mut Text, text: &str) -> Result<()> {
        let end = self.precision.map_or(text.len(), |characters| byte_of(text, characters));
        self.pad(out, "", &text[..end], '<')
    }

    /// In the base of `kind`: b, o, x, X or d.
    pub fn int(&self, cx: &Context, out: &mut Text, value: i128) -> Result<()> {
        let magnitude = value.unsigned_abs();
        let (prefix, mut digits) = match self.kind {
            Some('b') => ("0b", format!("{magnitude:b}")),
            Some('o') => ("0o", format!("{magnitude:o}")),
            Some('x') => ("0x", format!("{magnitude:x}")),
            Some('X') => ("0X", format!("{magnitude:X}")),
            _ => ("", magnitude.to_string()),
        };
        let missing = self.precision.unwrap_or(0).saturating_sub(digits.len());
        if missing > 0 {
            let mut padded = Text::new(&cx.budget);
            padded.fill('0', missing)?;
            padded.push_str(&digits)?;
            digits = padded.into_string();
        }
        let prefix = if self.alternate { prefix } else { "" };
        let group = if matches!(self.kind, None | Some('d' | 'n')) { 3 } else { 4 };
        let sign = self.sign_of(value < 0);
        self.grouped(cx, out, &(sign + prefix), &digits, "", group)
    }

    pub fn float(&self, cx: &Context, out: &mut Text, value: f64) -> Result<()> {
        let sign = self.sign_of(value.is_sign_negative() && !value.is_nan());
        let kind = self.kind.unwrap_or('g');
        let magnitude = if kind == '%' { value.abs() * 100.0 } else { value.abs() };
        let mut text = if magnitude.is_nan() {
            "nan".into()
        } else if magnitude.is_infinite() {
            "inf".into()
        } else {
            self.digits(cx, kind, magnitude)?
        };
        if kind.is_ascii_uppercase() {
            text = text.to_uppercase();
        }
        if kind == '%' {
            text.push('%');
        }
        if !magnitude.is_finite() {
            return self.pad(out, &sign, &text, '>');
        }
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        self.grouped(cx, out, &sign, &text[..end], &text[end..], 3)
    }

    /// The digits of a finite value that is not negative.
    fn digits(&self, cx: &Context, kind: char, value: f64) -> Result<String> {
        let asked = self.precision.unwrap_or(6);
        let precision = asked.min(MAX_DIGITS);
        let mut out = Text::new(&cx.budget);
        match kind.to_ascii_lowercase() {
            'e' => {
                let text = format!("{value:.precision$e}");
                let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
                out.push_str(mantissa)?;
                out.fill('0', asked - precision)?;
                out.push_str(if self.alternate && asked == 0 { "." } else { "" })?;
                out.push_str(&exponent_text(exponent))?;
            }
            'f' | '%' => {
                out.push_str(&format!("{value:.precision$}"))?;
                out.fill('0', asked - precision)?;
                out.push_str(if self.alternate && asked == 0 { "." } else { "" })?;
            }
            _ => {
                // No kind is repr, or 'g' that keeps one digit behind the point.
                if self.kind.is_none() && self.precision.is_none() {
                    out.push_str(&float_repr(value))?;
                } else {
                    out.push_str(&self.general(value, precision.max(1)))?;
                }
            }
        }
        Ok(out.into_string())
    }

    /// 'g' with this many significant digits.
    fn general(&self, value: f64, precision: usize) -> String {
        let scientific = format!("{value:.*e}", precision - 1);
        let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        let power: i32 = exponent.parse().unwrap_or(0);
        // Without a kind a number as long as its precision is written with an exponent, too.
        let limit = precision as i32 - i32::from(self.kind.is_none());
        let is_scientific = power < -4 || power >= limit.max(i32::from(self.kind.is_some()));
        let mut digits = match is_scientific {
            true => mantissa.to_owned(),
            false => format!("{value:.*}", (precision as i32 - 1 - power).max(0) as usize),
        };
        if !self.alternate && digits.contains('.') {
            digits.truncate(digits.trim_end_matches('0').trim_end_matches('.').len());
        } else if self.alternate && !digits.contains('.') {
            digits.push('.');
        }
        if is_scientific {
            digits.push_str(&exponent_text(exponent));
        } else if self.kind.is_none() && !digits.contains('.') {
            digits.push_str(".0");
        }
        digits
    }

    /// Digits with separators between groups; zeros that fill the width are grouped, too.
    fn grouped(
        &self,
        cx: &Context,
        out: &mut Text,
        prefix: &str,
        digits: &str,
        rest: &str,
        group: usize,
    ) -> Result<()> {
        let Some(separator) = self.grouping else {
            return self.pad(out, prefix, &[digits, rest].concat(), '>');
        };
        let fills = self.zero && self.align.is_none();
        let wanted = if fills { self.width.saturating_sub(prefix.len() + rest.len()) } else { 0 };
        let mut zeros = 0;
        let separated = |count: usize| count + (count - 1) / group;
        while separated(digits.len() + zeros) < wanted {
            cx.budget.make(1)?;
            zeros += 1;
        }
        let mut body = Text::new(&cx.budget);
        let all = digits.len() + zeros;
        let all_digits = std::iter::repeat_n('0', zeros).chain(digits.chars());
        for (index, digit) in all_digits.enumerate() {
            if index > 0 && (all - index) % group == 0 {
                body.push(separator)?;
            }
            body.push(digit)?;
        }
        body.push_str(rest)?;
        self.pad(out, prefix, body.as_str(), '>')
    }
}

/// e+05 of 5
fn exponent_text(exponent: &str) -> String {
    match exponent.strip_prefix('-') {
        Some(digits) => format!("e-{digits:0>2}"),
        None => format!("e+{exponent:0>2}"),
    }
}

/// [[fill]align][sign][#][0][width][grouping][.precision][kind]
pub fn parse(text: &str) -> Result<Spec> {
    let is_align = |c: &char| "<>=^".contains(*c);
    let mut spec = Spec::default();
    let mut characters = text.chars();
    let (first, second) = (characters.next(), characters.next());
    let mut rest = text;
    if let (Some(fill), Some(align)) = (first, second.filter(is_align)) {
        (spec.fill, spec.align) = (Some(fill), Some(align));
        rest = &rest[fill.len_utf8() + 1..];
    } else if let Some(align) = first.filter(is_align) {
        spec.align = Some(align);
        rest = &rest[1..];
    }
    if let Some(sign) = rest.chars().next().filter(|c| "+- ".contains(*c)) {
        spec.sign = Some(sign).filter(|sign| *sign != '-');
        rest = &rest[1..];
    }
    spec.alternate = rest.starts_with('#');
    rest = rest.strip_prefix('#').unwrap_or(rest);
    spec.zero = rest.starts_with('0');
    rest = rest.strip_prefix('0').unwrap_or(rest);
    (spec.width, rest) = number(rest)?;
    if let Some(grouping) = rest.chars().next().filter(|c| ",_".contains(*c)) {
        spec.grouping = Some(grouping);
        rest = &rest[1..];
    }
    if let Some(after) = rest.strip_prefix('.') {
        if !after.starts_with(|c: char| c.is_ascii_digit()) {
            return fail("format: expected a precision behind \".\"");
        }
        let (precision, after) = number(after)?;
        spec.precision = Some(precision);
        rest = after;
    }
    spec.kind = rest.chars().next();
    if rest.chars().count() > 1 {
        return fail(format!("format: an invalid specifier {text:?}"));
    }
    Ok(spec)
}

/// The number at the front of `text`, 0 if there is none, and what follows it.
pub fn number(text: &str) -> Result<(usize, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    match text[..end].parse() {
        Ok(number) => Ok((number, &text[end..])),
        Err(_) if end == 0 => Ok((0, text)),
        Err(_) => fail("too large a width"),
    }
}
