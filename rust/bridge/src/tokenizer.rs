//! The `tokenizers` library behind nibble's Tokenizer.

use serde_json::{json, Value};
use tokenizers::models::ModelWrapper;
use tokenizers::{AddedToken, PostProcessorWrapper};

use crate::ffi;
use crate::guard::{guarded, Failure};

/// Ids are int32 everywhere in nibble.
const MAX_ID: u32 = i32::MAX as u32;

pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    pub fn from_json(json: &[u8]) -> Result<Tokenizer, Failure> {
        match tokenizers::Tokenizer::from_bytes(json) {
            Ok(inner) => Tokenizer::checked(inner),
            Err(error) => {
                let repaired = serde_json::from_slice(json).ok().and_then(with_split_merges);
                match repaired.and_then(|document| serde_json::from_value(document).ok()) {
                    Some(inner) => Tokenizer::checked(inner),
                    None => Err(explain(json, &error.to_string())),
                }
            }
        }
    }

    pub fn from_document(document: Value) -> Result<Tokenizer, Failure> {
        Tokenizer::from_json(&serde_json::to_vec(&document).map_err(Failure::data)?)
    }

    fn checked(mut inner: tokenizers::Tokenizer) -> Result<Tokenizer, Failure> {
        if let ModelWrapper::BPE(bpe) = inner.get_model() {
            if bpe.dropout.is_some_and(|dropout| dropout > 0.0) {
                return Err(Failure::Unsupported(
                    "the model has a dropout: its ids would be random".into(),
                ));
            }
        }
        // Settings of the program that saved the file; nothing may be cut or padded behind our back.
        inner.with_truncation(None).map_err(Failure::data)?;
        inner.with_padding(None);
        let tokenizer = Tokenizer { inner };
        tokenizer.check_ids()?;
        // A post-processor brings ids of its own.
        for id in tokenizer.encode("", true)? {
            if tokenizer.inner.id_to_token(id).is_none() {
                return Err(Failure::Data(format!(
                    "the post_processor adds id {id}, which the vocabulary lacks"
                )));
            }
        }
        Ok(tokenizer)
    }

    fn check_ids(&self) -> Result<(), Failure> {
        match self.inner.get_vocab(true).into_iter().find(|(_, id)| *id >= MAX_ID) {
            None => Ok(()),
            Some((token, id)) => {
                Err(Failure::Data(format!("token {token:?} has id {id}; ids end below {MAX_ID}")))
            }
        }
    }

    pub fn add_tokens(&mut self, tokens: &[ffi::AddedToken]) -> Result<(), Failure> {
        guarded(|| {
            let tokens: Vec<AddedToken> = tokens
                .iter()
                .map(|token| {
                    AddedToken::from(token.content.clone(), token.special)
                        .normalized(token.normalized)
                        .lstrip(token.lstrip)
                        .rstrip(token.rstrip)
                        .single_word(token.single_word)
                })
                .collect();
            self.inner.add_tokens(&tokens);
            self.check_ids()
        })
    }

    pub fn surround(&mut self, begin: &str, end: &str) -> Result<(), Failure> {
        guarded(|| {
            let mut ids = serde_json::Map::new();
            let mut special = |token: &str| -> Result<Option<Value>, Failure> {
                if token.is_empty() {
                    return Ok(None);
                }
                let id = self.inner.token_to_id(token).ok_or_else(|| {
                    Failure::Data(format!("the special token {token:?} is not in the vocabulary"))
                })?;
                ids.insert(token.into(), json!({"id": token, "ids": [id], "tokens": [token]}));
                Ok(Some(json!({"SpecialToken": {"id": token, "type_id": 0}})))
            };
            let (begin, end) = (special(begin)?, special(end)?);
            let around = |sequence: &str| -> Vec<Value> {
                let text = json!({"Sequence": {"id": sequence, "type_id": 0}});
                begin.iter().cloned().chain([text]).chain(end.iter().cloned()).collect()
            };
            let pair = [around("A"), around("B")].concat();
            let document = json!({
                "type": "TemplateProcessing",
                "single": around("A"),
                "pair": pair,
                "special_tokens": ids,
            });
            let processor: PostProcessorWrapper =
                serde_json::from_value(document).map_err(Failure::data)?;
            self.inner.with_post_processor(Some(processor));
            Ok(())
        })
    }

    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, Failure> {
        guarded(|| {
            let encoding =
                self.inner.encode_fast(text, add_special_tokens).map_err(Failure::argument)?;
            Ok(encoding.get_ids().to_vec())
        })
    }

    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, Failure> {
        guarded(|| self.inner.decode(ids, skip_special_tokens).map_err(Failure::argument))
    }

    pub fn id_limit(&self) -> Result<u32, Failure> {
        guarded(|| Ok(self.inner.get_vocab(true).into_values().max().map_or(0, |id| id + 1)))
    }

    pub fn token_to_id(&self, token: &str) -> Result<i64, Failure> {
        guarded(|| Ok(self.inner.token_to_id(token).map_or(-1, i64::from)))
    }

    pub fn id_to_token(&self, id: u32) -> Result<String, Failure> {
        guarded(|| Ok(self.inner.id_to_token(id).unwrap_or_default()))
    }

    pub fn special_ids(&self) -> Result<Vec<u32>, Failure> {
        guarded(|| {
            let added = self.inner.get_added_tokens_decoder();
            Ok(added.into_iter().filter(|(_, token)| token.special).map(|(id, _)| id).collect())
        })
    }
}

/// Old files write a merge as "left right". Where a piece itself holds a space (a Llama-2 file in
/// circulation lost its no-break spaces so) the library gives up; the vocabulary tells where to split.
fn with_split_merges(mut document: Value) -> Option<Value> {
    let model = document.get_mut("model")?;
    let vocab = model.get("vocab")?.as_object()?;
    let split = |merge: &Value| -> Option<Value> {
        let merge = merge.as_str()?;
        let mut pairs = merge
            .match_indices(' ')
            .map(|(at, _)| (&merge[..at], &merge[at + 1..]))
            .filter(|(left, right)| {
                let joined = format!("{left}{right}");
                [*left, *right, joined.as_str()].iter().all(|piece| vocab.contains_key(*piece))
            });
        match (pairs.next(), pairs.next()) {
            (Some((left, right)), None) => Some(json!([left, right])),
            _ => None, // none, or more than one way
        }
    };
    let merges: Option<Vec<Value>> = model.get("merges")?.as_array()?.iter().map(split).collect();
    *model.get_mut("merges")? = Value::Array(merges?);
    Some(document)
}

/// Why a file is not a tokenizer.json; other tokenizers' JSON files are named.
fn explain(json: &[u8], error: &str) -> Failure {
    let Ok(document) = serde_json::from_slice::<Value>(json) else {
        return Failure::Data(format!("not a tokenizer.json: {error}"));
    };
    if document.get("model").is_none() && document.get("vocab").is_some_and(Value::is_array) {
        return Failure::Unsupported(
            "a Tekken vocabulary, which nibble does not read; convert it to tokenizer.json".into(),
        );
    }
    Failure::Data(format!("not a tokenizer.json: {error}"))
}
