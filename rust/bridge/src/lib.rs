//! The one seam between nibble and Rust: signatures only, the logic is in the modules.
//!
//! Every call returns a `Result`, which C++ sees as an exception whose text begins with the kind of
//! failure (see `guard.rs`). No call panics: what a library throws is caught and returned.

mod gpt2;
mod guard;
mod jinja;
mod sentencepiece;
mod table;
mod template;
mod tokenizer;

use table::{ByteStream, ParquetReader};
use template::Template;
use tokenizer::Tokenizer;

#[cxx::bridge(namespace = "nibble::bridge")]
mod ffi {
    /// A token that is cut out of the text before the model sees it.
    struct AddedToken {
        content: String,
        special: bool,
        normalized: bool,
        lstrip: bool,
        rstrip: bool,
        single_word: bool,
    }

    /// How a SentencePiece model is read, beyond what it says itself.
    struct SentencePieceOptions {
        /// transformers' "legacy": the dummy prefix stands before each piece of text between special
        /// tokens, not only before the first.
        legacy: bool,
        /// 1 or 0 overrules the model's add_dummy_prefix; -1 leaves it.
        add_prefix_space: i8,
    }

    extern "Rust" {
        type Tokenizer;
        fn tokenizer_from_json(json: &[u8]) -> Result<Box<Tokenizer>>;
        fn tokenizer_from_sentencepiece(
            model: &[u8],
            options: &SentencePieceOptions,
        ) -> Result<Box<Tokenizer>>;
        fn tokenizer_from_gpt2(vocab: &[u8], merges: &[u8]) -> Result<Box<Tokenizer>>;
        fn add_tokens(self: &mut Tokenizer, tokens: &[AddedToken]) -> Result<()>;
        /// Puts these tokens around every text instead of what the file says; empty: none.
        fn surround(self: &mut Tokenizer, begin: &str, end: &str) -> Result<()>;
        fn encode(self: &Tokenizer, text: &str, add_special_tokens: bool) -> Result<Vec<u32>>;
        fn decode(self: &Tokenizer, ids: &[u32], skip_special_tokens: bool) -> Result<String>;
        /// One more than the largest id.
        fn id_limit(self: &Tokenizer) -> Result<u32>;
        /// -1: no such token.
        fn token_to_id(self: &Tokenizer, token: &str) -> Result<i64>;
        /// Empty: no such id.
        fn id_to_token(self: &Tokenizer, id: u32) -> Result<String>;
        fn special_ids(self: &Tokenizer) -> Result<Vec<u32>>;

        type Template;
        fn compile_template(source: &str) -> Result<Box<Template>>;
        /// `variables`: a JSON object.
        fn render(self: &Template, variables: &[u8]) -> Result<String>;

        type ByteStream;
        /// Takes over a descriptor at its first byte. What gzip or Zstandard compressed is expanded.
        fn open_stream(descriptor: i32) -> Result<Box<ByteStream>>;
        /// Fills `buffer` from the front; less than all of it only at the end.
        fn read(self: &mut ByteStream, buffer: &mut [u8]) -> Result<usize>;

        type ParquetReader;
        /// Takes over the descriptor of a file, which is read here and there.
        fn open_parquet(descriptor: i32) -> Result<Box<ParquetReader>>;
        fn column_names(self: &ParquetReader) -> Result<Vec<String>>;
        /// Call once: the columns of next_rows, texts or with `lists` lists of messages.
        fn read_columns(self: &mut ParquetReader, columns: &Vec<String>, lists: bool)
            -> Result<()>;
        /// The next rows as JSON objects, one a line; empty at the end.
        fn next_rows(self: &mut ParquetReader) -> Result<Vec<u8>>;
    }
}

use guard::{guarded, Failure};

fn tokenizer_from_json(json: &[u8]) -> Result<Box<Tokenizer>, Failure> {
    guarded(|| Tokenizer::from_json(json).map(Box::new))
}

fn tokenizer_from_sentencepiece(
    model: &[u8],
    options: &ffi::SentencePieceOptions,
) -> Result<Box<Tokenizer>, Failure> {
    guarded(|| Tokenizer::from_document(sentencepiece::convert(model, options)?).map(Box::new))
}

fn tokenizer_from_gpt2(vocab: &[u8], merges: &[u8]) -> Result<Box<Tokenizer>, Failure> {
    guarded(|| Tokenizer::from_document(gpt2::document(vocab, merges)?).map(Box::new))
}

fn compile_template(source: &str) -> Result<Box<Template>, Failure> {
    guarded(|| Template::compile(source).map(Box::new))
}

fn open_stream(descriptor: i32) -> Result<Box<ByteStream>, Failure> {
    guarded(|| ByteStream::open(descriptor).map(Box::new))
}

fn open_parquet(descriptor: i32) -> Result<Box<ParquetReader>, Failure> {
    guarded(|| ParquetReader::open(descriptor).map(Box::new))
}
