//! GPT-2's pair of files, vocab.json and merges.txt, as a tokenizer.json document.

use serde_json::{json, Map, Value};

use crate::guard::Failure;

pub fn document(vocab: &[u8], merges: &[u8]) -> Result<Value, Failure> {
    let vocab: Map<String, Value> = serde_json::from_slice(vocab)
        .map_err(|error| Failure::Data(format!("vocab.json: {error}")))?;
    let merges = std::str::from_utf8(merges)
        .map_err(|error| Failure::Data(format!("merges.txt: {error}")))?;
    let mut pairs = Vec::new();
    for (index, line) in merges.lines().enumerate() {
        if line.is_empty() || (index == 0 && line.starts_with("#version")) {
            continue;
        }
        let Some((left, right)) = line.split_once(' ') else {
            let number = index + 1;
            return Err(Failure::Data(format!("merges.txt:{number}: expected two pieces")));
        };
        pairs.push(json!([left, right]));
    }
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                            "use_regex": true});
    let added: Vec<Value> = vocab
        .get("<|endoftext|>")
        .map(|id| {
            json!({"id": id, "content": "<|endoftext|>", "special": true, "normalized": false,
                   "single_word": false, "lstrip": false, "rstrip": false})
        })
        .into_iter()
        .collect();
    Ok(json!({
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": pairs},
    }))
}
