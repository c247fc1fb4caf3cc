//! Characters and strings as Python's str sees them.

use unicode_categories::UnicodeCategories;

pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

pub fn is_alpha(c: char) -> bool {
    let is_circled_letter = matches!(c, '\u{24b6}'..='\u{24e9}' | '\u{1f130}'..='\u{1f189}');
    c.is_alphabetic() && !c.is_numeric() && !c.is_mark() && !is_circled_letter
}

pub fn is_decimal(c: char) -> bool {
    c.is_number_decimal_digit()
}

pub fn is_digit(c: char) -> bool {
    is_decimal(c)
        || matches!(c, '²'..='³' | '¹' | '\u{1369}'..='\u{1371}' | '\u{19da}' | '⁰' | '⁴'..='⁹' | '₀'..='₉'
            | '①'..='⑨' | '⑴'..='⑼' | '⒈'..='⒐' | '⓪' | '⓵'..='⓽' | '⓿' | '❶'..='❾' | '➀'..='➈' | '➊'..='➒'
            | '\u{10a40}'..='\u{10a43}' | '\u{10e60}'..='\u{10e68}' | '\u{11052}'..='\u{1105a}'
            | '\u{1f100}'..='\u{1f10a}')
}

pub fn is_numeric(c: char) -> bool {
    const IDEOGRAPHS: &str = "㐅㒃㠪㭍一七万三两九二五亖京亿什仟仨伍佰俩倆億兆兩八六十千卄卅卌叁参參叄四壱壹幺廾廿弌弍弎弐拐\
        拾捌柒洞漆玖百皕秭肆萬貮貳贰鈎钩阡陆陌陸零";
    c.is_numeric() || (c >= '㐀' && IDEOGRAPHS.contains(c))
}

pub fn is_alnum(c: char) -> bool {
    c.is_ascii_alphanumeric() || (!c.is_ascii() && (is_alpha(c) || is_numeric(c)))
}

/// A character of a word: \w.
pub fn is_word(c: char) -> bool {
    c == '_' || is_alnum(c)
}

pub fn is_cased(c: char) -> bool {
    c.is_uppercase() || c.is_lowercase() || is_title(c)
}

pub fn is_title(c: char) -> bool {
    c.is_letter_titlecase()
}

pub fn is_printable(c: char) -> bool {
    // Behind another character Rust's Debug escapes what is not printable, and these few.
    matches!(c, '"' | '\'' | '\\') || ["x", &String::from(c)].concat().escape_debug().count() == 2
}

pub fn is_identifier(text: &str) -> bool {
    let mut characters = text.chars();
    let begins = |c: char| c == '_' || is_alpha(c);
    characters.next().is_some_and(begins)
        && characters.all(|c| begins(c) || is_decimal(c) || c.is_mark())
}

/// Unicode's title case of one character: of most the upper case.
fn push_title(out: &mut String, c: char) {
    match c {
        'Ǆ'..='ǆ' => out.push('ǅ'),
        'Ǉ'..='ǉ' => out.push('ǈ'),
        'Ǌ'..='ǌ' => out.push('ǋ'),
        'Ǳ'..='ǳ' => out.push('ǲ'),
        'ŉ' => out.push_str("ʼN"),
        'ა'..='ჿ' => out.push(c), // Georgian has no title case
        '\u{1f80}'..='\u{1faf}' => out.extend(char::from_u32(c as u32 | 8)),
        '\u{1fb3}' | '\u{1fc3}' | '\u{1ff3}' => out.extend(char::from_u32(c as u32 + 9)),
        _ => {
            let mut upper = c.to_uppercase();
            out.extend(upper.next());
            out.extend(upper.flat_map(char::to_lowercase));
        }
    }
}

pub fn capitalize(text: &str) -> String {
    let mut out = String::new();
    let mut characters = text.chars();
    if let Some(first) = characters.next() {
        push_title(&mut out, first);
    }
    // Lower case depends on what stands before (the final sigma).
    let lower = text.to_lowercase();
    let skipped: usize =
        text.chars().take(1).flat_map(char::to_lowercase).map(char::len_utf8).sum();
    out.push_str(&lower[skipped..]);
    out
}

/// str.title(): a letter behind none begins a word.
pub fn title(text: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for c in text.chars().map(Some).chain([None]) {
        if let Some(c) = c.filter(|c| is_cased(*c)) {
            word.push(c);
            continue;
        }
        out.push_str(&capitalize(&word));
        word.clear();
        out.extend(c);
    }
    out
}

pub fn swap_case(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if c.is_uppercase() {
            out.extend(c.to_lowercase());
        } else if c.is_lowercase() {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
    }
    out
}

pub fn case_fold(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            'ı' => out.push(c),
            'ẞ' => out.push_str("ss"),
            '\u{13a0}'..='\u{13f5}' => out.push(c), // Cherokee folds to its upper case
            '\u{13f8}'..='\u{13fd}' | '\u{ab70}'..='\u{abbf}' => out.extend(c.to_uppercase()),
            _ => out.extend(c.to_uppercase().flat_map(char::to_lowercase)),
        }
    }
    out
}

/// str.isupper() for `is_own`, the case asked for, and `is_other`, those that are not.
pub fn has_case(text: &str, is_own: fn(char) -> bool, is_other: impl Fn(char) -> bool) -> bool {
    text.chars().any(is_own) && !text.chars().any(is_other)
}

/// str.istitle()
pub fn is_titled(text: &str) -> bool {
    let (mut found, mut after_cased) = (false, false);
    for c in text.chars() {
        let begins = c.is_uppercase() || is_title(c);
        if (begins && after_cased) || (c.is_lowercase() && !after_cased) {
            return false;
        }
        after_cased = is_cased(c);
        found |= begins;
    }
    found
}

fn is_line_end(c: char) -> bool {
    matches!(
        c,
        '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

/// str.splitlines()
pub fn split_lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let Some(end) = rest.find(is_line_end) else {
            lines.push(rest);
            break;
        };
        let after = if rest[end..].starts_with("\r\n") {
            end + 2
        } else {
            end + rest[end..].chars().next().map_or(0, char::len_utf8)
        };
        lines.push(if keep_ends { &rest[..after] } else { &rest[..end] });
        rest = &rest[after..];
    }
    lines
}

/// str.split() at white space.
pub fn split_space(text: &str, limit: Option<usize>) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        if limit == Some(parts.len()) {
            parts.push(rest);
            break;
        }
        let end = rest.find(is_space).unwrap_or(rest.len());
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(is_space);
    }
    parts
}

/// str.rsplit() at white space.
pub fn rsplit_space(text: &str, limit: Option<usize>) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        if limit == Some(parts.len()) {
            parts.push(rest);
            break;
        }
        let begin = rest
            .rfind(is_space)
            .map_or(0, |at| at + rest[at..].chars().next().map_or(0, char::len_utf8));
        parts.push(&rest[begin..]);
        rest = rest[..begin].trim_end_matches(is_space);
    }
    parts.reverse();
    parts
}

/// `name`, if it is one of `names`, which have spaces between them.
pub fn known(names: &'static str, name: &str) -> Option<&'static str> {
    names.split(' ').find(|known| *known == name && !name.is_empty())
}

/// The length in characters.
pub fn length(text: &str) -> usize {
    text.chars().count()
}

/// The byte of the character with this index; the end for one beyond.
pub fn byte_of(text: &str, index: usize) -> usize {
    text.char_indices().nth(index).map_or(text.len(), |(at, _)| at)
}

/// Half-open bounds as Python clips them: negative ones count from the end.
pub fn clip(start: Option<i128>, stop: Option<i128>, length: usize) -> (usize, usize) {
    let length = length as i128;
    let bound = |value: i128| if value < 0 { (value + length).max(0) } else { value.min(length) };
    let (start, stop) = (bound(start.unwrap_or(0)), bound(stop.unwrap_or(length)));
    (start as usize, stop as usize)
}
