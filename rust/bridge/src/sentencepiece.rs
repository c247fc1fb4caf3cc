//! A SentencePiece model as a tokenizer.json document, as transformers converts the Llama family.
//!
//! SentencePiece's BPE joins the two neighbours whose concatenation is the best piece; the `tokenizers`
//! library joins by a list of pairs. The list: every split of every piece into two pieces, ordered by
//! the score of the whole. Source: transformers, convert_slow_tokenizer.py (LlamaConverter).

use std::collections::HashMap;

use serde_json::{json, Map, Value};

use crate::ffi::SentencePieceOptions;
use crate::guard::Failure;

const UNIGRAM: u64 = 1;
const BPE: u64 = 2;
/// Kinds of pieces that stand for themselves; the others are made of text.
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
/// SentencePiece's own pieces have 16 characters at most; splitting is quadratic in the length.
const MAX_PIECE_BYTES: usize = 4096;

struct Piece {
    text: String,
    score: f32,
    kind: u64,
}

struct Model {
    pieces: Vec<Piece>,
    model_type: u64,
    byte_fallback: bool,
    unk_piece: String,
    has_charsmap: bool,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
    whitespace_as_suffix: bool,
}

pub fn convert(bytes: &[u8], options: &SentencePieceOptions) -> Result<Value, Failure> {
    if looks_like_tiktoken(bytes) {
        return Err(Failure::Unsupported(
            "a tiktoken vocabulary, which nibble does not read; convert it to tokenizer.json"
                .into(),
        ));
    }
    let model = parse(bytes)?;
    refuse_unsupported(&model)?;
    let add_prefix = match options.add_prefix_space {
        0 => false,
        1 => true,
        _ => model.add_dummy_prefix,
    };
    let mut ids = HashMap::with_capacity(model.pieces.len());
    for (id, piece) in model.pieces.iter().enumerate() {
        if ids.insert(piece.text.as_str(), id).is_some() {
            return Err(Failure::Data(format!("the piece {:?} occurs twice", piece.text)));
        }
    }
    let added: Vec<Value> = (model.pieces.iter().enumerate())
        .filter(|(_, piece)| matches!(piece.kind, UNKNOWN | CONTROL | USER_DEFINED))
        .map(|(id, piece)| {
            json!({"id": id, "content": piece.text, "special": piece.kind != USER_DEFINED,
                   "normalized": false, "single_word": false, "lstrip": false, "rstrip": false})
        })
        .collect();
    let (normalizer, pre_tokenizer) = spaces(options.legacy, add_prefix);
    Ok(json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "decoder": decoder(add_prefix),
        "model": if model.model_type == BPE { bpe(&model, &ids) } else { unigram(&model)? },
    }))
}

fn refuse_unsupported(model: &Model) -> Result<(), Failure> {
    let refuse = |what: &str| {
        Err(Failure::Unsupported(format!(
            "a SentencePiece model with {what} cannot be converted; supply a tokenizer.json"
        )))
    };
    if model.model_type != BPE && model.model_type != UNIGRAM {
        return refuse("model type WORD or CHAR");
    }
    if model.has_charsmap {
        return refuse("a normalization map (normalization_rule_name other than identity)");
    }
    if model.remove_extra_whitespaces {
        return refuse("remove_extra_whitespaces");
    }
    if model.whitespace_as_suffix || !model.escape_whitespaces {
        return refuse("spaces written in another way than U+2581 before the word");
    }
    Ok(())
}

/// Spaces become U+2581, and one stands before the text, or before each text between special tokens.
fn spaces(legacy: bool, add_prefix: bool) -> (Value, Value) {
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    if !legacy {
        let scheme = if add_prefix { "first" } else { "never" };
        let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme,
                               "split": false});
        return (Value::Null, metaspace);
    }
    let prepend = json!({"type": "Prepend", "prepend": "▁"});
    let steps = if add_prefix { vec![prepend, replace] } else { vec![replace] };
    (json!({"type": "Sequence", "normalizers": steps}), Value::Null)
}

fn decoder(add_prefix: bool) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if add_prefix {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}

fn unigram(model: &Model) -> Result<Value, Failure> {
    let unknown = (model.pieces.iter().position(|piece| piece.kind == UNKNOWN))
        .ok_or_else(|| Failure::Data("no piece of type UNKNOWN".into()))?;
    let vocab: Vec<Value> =
        model.pieces.iter().map(|piece| json!([piece.text, f64::from(piece.score)])).collect();
    Ok(json!({"type": "Unigram", "unk_id": unknown, "vocab": vocab,
              "byte_fallback": model.byte_fallback}))
}

fn bpe(model: &Model, ids: &HashMap<&str, usize>) -> Value {
    let vocab: Map<String, Value> = model
        .pieces
        .iter()
        .enumerate()
        .map(|(id, piece)| (piece.text.clone(), id.into()))
        .collect();
    json!({"type": "BPE", "vocab": vocab, "merges": merges(model, ids),
           "unk_token": model.unk_piece, "fuse_unk": true, "byte_fallback": model.byte_fallback})
}

fn merges(model: &Model, ids: &HashMap<&str, usize>) -> Vec<[String; 2]> {
    struct Merge<'a> {
        score: f32,
        left: (&'a str, usize, usize), // text, characters, id
        right: (&'a str, usize, usize),
    }
    let mut all = Vec::new();
    for piece in &model.pieces {
        let mut of_piece = Vec::new();
        let characters = piece.text.chars().count();
        for (left_length, (at, _)) in piece.text.char_indices().enumerate().skip(1) {
            let (left, right) = piece.text.split_at(at);
            if let (Some(&left_id), Some(&right_id)) = (ids.get(left), ids.get(right)) {
                of_piece.push(Merge {
                    score: piece.score,
                    left: (left, left_length, left_id),
                    right: (right, characters - left_length, right_id),
                });
            }
        }
        of_piece.sort_by_key(|merge| (merge.left.2, merge.right.2));
        all.append(&mut of_piece);
    }
    // Best score first; then the longer left part, then the longer right one; else as they stand.
    all.sort_by(|a, b| {
        (b.score.total_cmp(&a.score)).then(b.left.1.cmp(&a.left.1)).then(b.right.1.cmp(&a.right.1))
    });
    all.into_iter().map(|merge| [merge.left.0.to_owned(), merge.right.0.to_owned()]).collect()
}

/// tiktoken files are lines of base64, a space and a rank.
fn looks_like_tiktoken(bytes: &[u8]) -> bool {
    let Some(line) = bytes.split(|byte| *byte == b'\n').next() else { return false };
    let Ok(line) = std::str::from_utf8(line) else { return false };
    let Some((token, rank)) = line.trim_end().split_once(' ') else { return false };
    let base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    !token.is_empty() && token.bytes().all(base64) && rank.parse::<u32>().is_ok()
}

// --- protocol buffers: sentencepiece_model.proto ---

enum Field<'a> {
    Number(u64),
    Float(f32),
    Bytes(&'a [u8]),
}

impl Field<'_> {
    fn number(&self) -> Result<u64, Failure> {
        match self {
            Field::Number(value) => Ok(*value),
            _ => Err(malformed()),
        }
    }

    fn text(&self) -> Result<String, Failure> {
        match self {
            Field::Bytes(bytes) => {
                std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| malformed())
            }
            _ => Err(malformed()),
        }
    }
}

fn malformed() -> Failure {
    Failure::Data("not a SentencePiece model, or a damaged one".into())
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Failure> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or_else(malformed)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(malformed())
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8], Failure> {
    let length = usize::try_from(length).map_err(|_| malformed())?;
    let (taken, rest) = bytes.split_at_checked(length).ok_or_else(malformed)?;
    *bytes = rest;
    Ok(taken)
}

/// Calls `visit` with the number and value of each field of a message.
fn fields<'a>(
    mut message: &'a [u8],
    mut visit: impl FnMut(u64, Field<'a>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let field = match key & 7 {
            0 => Field::Number(varint(&mut message)?),
            1 => Field::Bytes(take(&mut message, 8)?),
            2 => {
                let length = varint(&mut message)?;
                Field::Bytes(take(&mut message, length)?)
            }
            5 => match take(&mut message, 4)? {
                &[a, b, c, d] => Field::Float(f32::from_le_bytes([a, b, c, d])),
                _ => return Err(malformed()),
            },
            _ => return Err(malformed()),
        };
        visit(key >> 3, field)?;
    }
    Ok(())
}

fn parse(bytes: &[u8]) -> Result<Model, Failure> {
    let mut model = Model {
        pieces: Vec::new(),
        model_type: UNIGRAM,
        byte_fallback: false,
        unk_piece: "<unk>".into(),
        has_charsmap: false,
        add_dummy_prefix: true,
        remove_extra_whitespaces: true,
        escape_whitespaces: true,
        whitespace_as_suffix: false,
    };
    fields(bytes, |number, field| {
        let Field::Bytes(message) = field else { return Ok(()) };
        match number {
            1 => model.pieces.push(piece(message)?),
            2 => fields(message, |number, field| {
                match number {
                    3 => model.model_type = field.number()?,
                    24 => model.whitespace_as_suffix = field.number()? != 0,
                    35 => model.byte_fallback = field.number()? != 0,
                    45 => model.unk_piece = field.text()?,
                    _ => {}
                }
                Ok(())
            })?,
            3 => fields(message, |number, field| {
                match (number, &field) {
                    (2, Field::Bytes(map)) => model.has_charsmap = !map.is_empty(),
                    (3, _) => model.add_dummy_prefix = field.number()? != 0,
                    (4, _) => model.remove_extra_whitespaces = field.number()? != 0,
                    (5, _) => model.escape_whitespaces = field.number()? != 0,
                    _ => {}
                }
                Ok(())
            })?,
            _ => {}
        }
        Ok(())
    })?;
    if model.pieces.is_empty() {
        return Err(malformed());
    }
    Ok(model)
}

fn piece(message: &[u8]) -> Result<Piece, Failure> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: 1 };
    fields(message, |number, field| {
        match (number, &field) {
            (1, _) => piece.text = field.text()?,
            (2, Field::Float(score)) => piece.score = *score,
            (3, _) => piece.kind = field.number()?,
            _ => {}
        }
        Ok(())
    })?;
    if piece.text.is_empty() || piece.text.len() > MAX_PIECE_BYTES || !piece.score.is_finite() {
        return Err(malformed());
    }
    Ok(piece)
}
