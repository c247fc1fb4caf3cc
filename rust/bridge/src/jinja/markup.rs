//! Filters that write or read HTML and URLs.

use regex::{Regex, RegexBuilder};

use super::arguments::{count, Argument, Arguments};
use super::budget::{error, fail, Result, Text};
use super::interpreter::Context;
use super::print::{escape_html, to_str};
use super::text::{byte_of, is_space, length};
use super::value::{Str, Value};

/// Text that is markup where everything is escaped.
fn escaped(cx: &Context, text: String) -> Result<Value> {
    cx.budget.make(text.len())?;
    Ok(Value::Str(Str { text: text.into(), markup: cx.autoescape.get() }))
}

/// escape(value)
fn html(cx: &Context, value: &Value) -> Result<String> {
    match value.is_markup() {
        true => to_str(cx, value),
        false => escape_html(&cx.budget, &to_str(cx, value)?),
    }
}

/// Without tags and comments, spaces collapsed, entities decoded.
pub fn strip_tags(cx: &Context, text: &str) -> Result<String> {
    let mut out = Text::new(&cx.budget);
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        let end = match rest[start..].strip_prefix("<!--") {
            Some(comment) => comment.find("-->").map(|end| start + 4 + end + 3),
            None => rest[start..].find('>').map(|end| start + end + 1),
        };
        let Some(end) = end else {
            break;
        };
        out.push_str(&rest[..start])?;
        rest = &rest[end..];
    }
    out.push_str(rest)?;
    let words: Vec<&str> = out.as_str().split(is_space).filter(|word| !word.is_empty()).collect();
    Ok(html_escape::decode_html_entities(&words.join(" ")).into_owned())
}

/// ` key="value"` of each entry that is neither none nor undefined.
pub fn xml_attributes(cx: &Context, value: &Value, arguments: &Arguments) -> Result<Value> {
    let [space] = arguments.bind("xmlattr", ["autospace"])?;
    let Value::Dict(dict) = value.defined()? else {
        return fail(format!("xmlattr: expected a dict, found {}", value.type_name()));
    };
    let mut parts = Vec::new();
    for (key, value) in
        dict.iter().filter(|(_, value)| !matches!(value, Value::None | Value::Undefined(_)))
    {
        let Some(name) = key.as_str() else {
            return fail("xmlattr: expected names that are strings");
        };
        if name.contains(|c: char| is_space(c) || "/>=".contains(c)) {
            return fail(format!("xmlattr: {name:?} is no name of an attribute"));
        }
        parts.push(format!("{}=\"{}\"", html(cx, key)?, html(cx, value)?));
    }
    let mut text = parts.join(" ");
    if space.flag(true) && !text.is_empty() {
        text.insert(0, ' ');
    }
    escaped(cx, text)
}

// --- URLs ---

fn quote(cx: &Context, value: &Value, for_query: bool) -> Result<String> {
    let mut out = Text::new(&cx.budget);
    for byte in to_str(cx, value)?.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => {
                out.push(byte.into())?
            }
            b'/' if !for_query => out.push('/')?,
            b' ' if for_query => out.push('+')?,
            _ => out.push_str(&format!("%{byte:02X}"))?,
        }
    }
    Ok(out.into_string())
}

pub fn url_encode(cx: &Context, value: &Value, arguments: &Arguments) -> Result<Value> {
    arguments.none("urlencode")?;
    let items = match value {
        Value::Dict(_) => super::methods::call(cx, value, "items", arguments)?.items(&cx.budget)?,
        Value::List(_)
        | Value::Tuple(_)
        | Value::Iterator(_)
        | Value::View(..)
        | Value::Range(_) => value.items(&cx.budget)?,
        Value::Undefined(_) => Default::default(),
        _ => return Value::str(&cx.budget, quote(cx, value, false)?),
    };
    let mut parts = Vec::new();
    for pair in items.iter() {
        match &pair.items(&cx.budget)?[..] {
            [key, value] => parts.push(quote(cx, key, true)? + "=" + &quote(cx, value, true)?),
            _ => return fail("urlencode: expected pairs"),
        }
    }
    Value::str(&cx.budget, parts.join("&"))
}

/// Jinja2's own expression, of links with a scheme, "www." or a well-known domain.
const LINK: &str = r"^((https?://|www\.)(([\w%-]+\.)+)?([a-z]{2,63}|xn--[\w%]{2,59})|([\w%-]{2,63}\.)+(com|net|int|edu|gov|org|info|mil)|(https?://)((([\d]{1,3})(\.[\d]{1,3}){3})|(\[([\da-f]{0,4}:){2}([\da-f]{0,4}:?){1,6}\])))(?::[\d]{1,5})?(?:[/?#]\S*)?$";
const EMAIL: &str = r"^\S+@\w[\w.-]*\.\w+$";

fn pattern(text: &str) -> Result<Regex> {
    RegexBuilder::new(text)
        .case_insensitive(true)
        .build()
        .map_err(|failed| error(failed.to_string()))
}

/// Links in place of what looks like URLs and addresses.
pub fn urlize(cx: &Context, value: &Value, arguments: &Arguments) -> Result<Value> {
    let parameters = ["trim_url_limit", "nofollow", "target", "rel", "extra_schemes"];
    let [limit, no_follow, target, rel, schemes] = arguments.bind("urlize", parameters)?;
    let limit = limit.optional_int("trim_url_limit")?.map(count);
    let rel = rel.optional_text("rel")?.unwrap_or_default();
    let mut rel: Vec<&str> = rel.split_whitespace().chain(["noopener"]).collect();
    if no_follow.flag(false) {
        rel.push("nofollow");
    }
    rel.sort_unstable();
    rel.dedup();
    let mut attributes = format!(" rel=\"{}\"", escape_html(&cx.budget, &rel.join(" "))?);
    if let Some(target) = target.optional_text("target")?.filter(|target| !target.is_empty()) {
        attributes += &format!(" target=\"{}\"", escape_html(&cx.budget, &target)?);
    }
    let extra = match schemes {
        None | Some(Value::None) => Default::default(),
        Some(schemes) => schemes.items(&cx.budget)?,
    };
    let extra: Vec<&str> = extra.iter().filter_map(Value::as_str).collect();
    let linker = Linker { link: pattern(LINK)?, email: pattern(EMAIL)?, limit, attributes, extra };
    let text = html(cx, value)?;
    let mut out = Text::new(&cx.budget);
    let mut rest = &*text;
    while !rest.is_empty() {
        let end = rest.find(is_space).unwrap_or(rest.len());
        let space = rest[end..].len() - rest[end..].trim_start_matches(is_space).len();
        linker.word(&mut out, &rest[..end])?;
        out.push_str(&rest[end..end + space])?;
        rest = &rest[end + space..];
    }
    escaped(cx, out.into_string())
}

struct Linker<'a> {
    link: Regex,
    email: Regex,
    limit: Option<usize>,
    attributes: String,
    extra: Vec<&'a str>,
}

impl Linker<'_> {
    fn word(&self, out: &mut Text, word: &str) -> Result<()> {
        let mut begin = 0;
        while let Some(open) =
            ["(", "<", "&lt;"].iter().find(|open| word[begin..].starts_with(**open))
        {
            begin += open.len();
        }
        let mut end = word.len();
        let closers = [")", ">", ".", ",", "\n", "&gt;"];
        while let Some(close) = closers.iter().find(|close| word[begin..end].ends_with(**close)) {
            end -= close.len();
        }
        // Brackets that the link opens are closed within it.
        for (open, close) in [("(", ")"), ("<", ">"), ("&lt;", "&gt;")] {
            let opened = word[begin..end].matches(open).count();
            if opened <= word[begin..end].matches(close).count() {
                continue;
            }
            for _ in 0..opened.min(word[end..].matches(close).count()) {
                end += word[end..].find(close).map_or(0, |at| at + close.len());
            }
        }
        let (head, middle, tail) = (&word[..begin], &word[begin..end], &word[end..]);
        out.push_str(head)?;
        let attributes = &self.attributes;
        let address = middle.strip_prefix("mailto:");
        let is_plain_address = middle.contains('@')
            && !middle.starts_with("www.")
            && !middle.starts_with('@')
            && !middle.contains(':');
        if self.link.is_match(middle) {
            let has_scheme = middle.starts_with("https://") || middle.starts_with("http://");
            let scheme = if has_scheme { "" } else { "https://" };
            let shown = match self.limit {
                Some(limit) if length(middle) > limit => {
                    middle[..byte_of(middle, limit)].to_owned() + "..."
                }
                _ => middle.to_owned(),
            };
            out.push_str(&format!("<a href=\"{scheme}{middle}\"{attributes}>{shown}</a>"))?;
        } else if let Some(address) = address.filter(|address| self.email.is_match(address)) {
            out.push_str(&format!("<a href=\"{middle}\">{address}</a>"))?;
        } else if is_plain_address && self.email.is_match(middle) {
            out.push_str(&format!("<a href=\"mailto:{middle}\">{middle}</a>"))?;
        } else if self.extra.iter().any(|scheme| middle != *scheme && middle.starts_with(scheme)) {
            out.push_str(&format!("<a href=\"{middle}\"{attributes}>{middle}</a>"))?;
        } else {
            out.push_str(middle)?;
        }
        out.push_str(tail)
    }
}
