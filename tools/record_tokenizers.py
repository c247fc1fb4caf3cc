#!/usr/bin/env python3
"""Records what transformers' tokenizers do: tests/golden/tokenizers.json (and unigram.model).

    pip install transformers==4.57.6 sentencepiece==0.2.3 protobuf
    tools/record_tokenizers.py REFERENCE_DATA

Each setup is a model directory put together from files of REFERENCE_DATA, of tests/golden ("golden:")
or written here ("text:"). For each
line of LINES: the ids with special tokens, and the text those ids give back, with and without special
tokens. src/text/tokenizer_test.cc puts the same directories together and compares.
"""

import json
import pathlib
import random
import shutil
import sys
import tempfile

import sentencepiece
import tokenizers
import transformers

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"

LINES = [
    "", " ", "  ", "   ", "\n", "\n\n", "\t", " \n \t ", "a", " a", "a ", "  a  ", "Hello, world!",
    "The quick brown fox jumps over the lazy dog.", "multiple   spaces    inside", "tab\tseparated\tvalues",
    "line one\nline two\n\nline four\n", "\r\nwindows\r\n", "1234567890", "3.14159 and -2e10, 50%", "0x1F600",
    "naïve café résumé", "Ünïcödé Straße ǅ", "e\u0301 combining", "数学と言語", "こんにちは世界。", "안녕하세요 세계",
    "Привет, мир!", "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया", "ภาษาไทย", "🦊", "🦊🦊 fox", "👩‍👩‍👧‍👦 family",
    "🇩🇪 flag", "☃ and ♥", "\u00a0nbsp\u00a0", "zero\u200bwidth", "\ufeffbom", "control \x01\x02 \x7f chars",
    "null \x00 byte", "\U0010ffff", "\ue000 private", "▁ lower one eighth block ▁▁", "▁starts so", "<0x0A>", "<0x0A><0xFF>",
    "<unk>", "<s>", "</s>", "<s> a", "a</s>b", "a </s> b", "</s></s>", "<s>[INST] Hi [/INST]", "[INST]Hi[/INST] ho",
    " [INST] x [/INST]", "[AVAILABLE_TOOLS] [] [/AVAILABLE_TOOLS]", "<|user|>\nHi<|end|>\n<|assistant|>\n", "<|endoftext|>",
    "x<|endoftext|>y", "def f(x):\n    return x ** 2\n", "for (int i = 0; i < n; ++i) { sum += a[i]; }", "\\frac{1}{2} $x^2$",
    "{\"key\": [1, 2.5, null, true]}", "http://example.org/a?b=c&d=e#f", "user@example.org", "don't can't won't I'll we've he's",
    "DON'T SHOUT'S", "CamelCaseAndsnake_case", "ALLCAPS", "mixedCASE123abc", "!!!???...", "----====____", "((([[[{{{",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", " " * 40, "=" * 70, "ab" * 60, "\n" * 20, "word " * 50,
    "trailing newline\n", " leading and trailing ", "question?\n\nAnswer:", "A.\nB.\nC.\nD.\n",
]

MISTRAL_CONFIG = "tokenizers/mistral/hf_tokenizer_config_v1.json"  # legacy: false
# The same without "add_prefix_space": null, which transformers takes for false when it converts.
NEW_CONFIG = 'text:{"tokenizer_class": "LlamaTokenizer", "legacy": false}'
BOS_EOS_CONFIG = 'text:{"tokenizer_class": "LlamaTokenizer", "add_eos_token": true, "add_prefix_space": false}'
MIXTRAL_CONFIG = "tokenizers/mixtral-8x22b/tokenizer_config.json"  # legacy: true

# name → (files: name in the directory → source, class of transformers)
SETUPS = {
    "tinymix json": ({"tokenizer.json": "models/tinymix/tokenizer.json",
                      "tokenizer_config.json": "models/tinymix/tokenizer_config.json"}, "LlamaTokenizerFast"),
    "tinymix model": ({"tokenizer.model": "models/tinymix/tokenizer.model",
                       "tokenizer_config.json": "models/tinymix/tokenizer_config.json"}, "LlamaTokenizerFast"),
    "mistral v1 json": ({"tokenizer.json": "tokenizers/mistral/hf_tokenizer_v1.json",
                         "tokenizer_config.json": MISTRAL_CONFIG}, "LlamaTokenizerFast"),
    "mistral v1 json, legacy": ({"tokenizer.json": "tokenizers/mistral/hf_tokenizer_mistral7b_v0.2_chat.json",
                                 "tokenizer_config.json": MIXTRAL_CONFIG}, "LlamaTokenizerFast"),
    "mistral v1 model": ({"tokenizer.model": "tokenizers/mistral/tokenizer.model.v1",
                          "tokenizer_config.json": NEW_CONFIG}, "LlamaTokenizerFast"),
    "mistral v1 model, legacy": ({"tokenizer.model": "tokenizers/mistral/tokenizer.model.v1",
                                  "tokenizer_config.json": MIXTRAL_CONFIG}, "LlamaTokenizerFast"),
    "mistral v1 model alone": ({"tokenizer.model": "tokenizers/mistral/tokenizer.model.v1"}, "LlamaTokenizerFast"),
    "mistral v1 model, no prefix": ({"tokenizer.model": "tokenizers/mistral/tokenizer.model.v1",
                                     "tokenizer_config.json": BOS_EOS_CONFIG}, "LlamaTokenizerFast"),
    "mistral v2 model": ({"tokenizer.model": "tokenizers/mistral/mistral_instruct_tokenizer_240216.model.v2",
                          "tokenizer_config.json": NEW_CONFIG}, "LlamaTokenizerFast"),
    "mistral v3 model": ({"tokenizer.model": "tokenizers/mistral/mistral_instruct_tokenizer_240323.model.v3",
                          "tokenizer_config.json": NEW_CONFIG}, "LlamaTokenizerFast"),
    "mistral v3 model, legacy": ({"tokenizer.model": "tokenizers/mistral/mistral_instruct_tokenizer_240323.model.v3",
                                  "tokenizer_config.json": MIXTRAL_CONFIG}, "LlamaTokenizerFast"),
    "mistral v7 model": ({"tokenizer.model": "tokenizers/mistral/mistral_instruct_tokenizer_241114.model.v7",
                          "tokenizer_config.json": NEW_CONFIG}, "LlamaTokenizerFast"),
    "llama2 model": ({"tokenizer.model": "tokenizers/llama2/tokenizer.model",
                      "tokenizer_config.json": "tokenizers/llama2/tokenizer_config.json"}, "LlamaTokenizerFast"),
    "phi-3": ({"tokenizer.json": "tokenizers/phi-3-mini/tokenizer.json",
               "tokenizer_config.json": "tokenizers/phi-3-mini/tokenizer_config.json"}, "LlamaTokenizerFast"),
    "falcon": ({"tokenizer.json": "tokenizers/falcon-tokenizer/tokenizer.json"}, "PreTrainedTokenizerFast"),
    "gpt2 pair": ({"vocab.json": "tokenizers/gpt2/gpt2_vocab.json",
                   "merges.txt": "tokenizers/gpt2/gpt2.merges.txt"}, "GPT2TokenizerFast"),
    "unigram": ({"tokenizer.model": "golden:unigram.model"}, "LlamaTokenizerFast"),
}


def train_unigram():
    """A SentencePiece Unigram model of a few KB, as the Llama family would have one."""
    words = "the a of and fox dog quick brown lazy jumps over one two three world hello line int return"
    draw = random.Random(7)
    corpus = GOLDEN / "unigram.txt"
    corpus.write_text("\n".join(" ".join(draw.choices(words.split(), k=8)) for _ in range(500)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(GOLDEN / "unigram"), model_type="unigram", vocab_size=300,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        num_threads=1, minloglevel=2)
    corpus.unlink()
    (GOLDEN / "unigram.vocab").unlink()


def record(data, files, class_name):
    with tempfile.TemporaryDirectory() as directory:
        for name, source in files.items():
            path = pathlib.Path(directory) / name
            kind, _, rest = source.partition(":")
            if kind == "text":
                path.write_text(rest)
            else:
                shutil.copy(GOLDEN / rest if kind == "golden" else data / source, path)
        tokenizer = getattr(transformers, class_name).from_pretrained(directory)
    ids = [tokenizer(line)["input_ids"] for line in LINES]
    decode = lambda one, skip: tokenizer.decode(one, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
    return {"files": files, "ids": ids, "text": [decode(one, True) for one in ids],
            "text_with_special": [decode(one, False) for one in ids], "special": sorted(tokenizer.all_special_ids)}


def main():
    data = pathlib.Path(sys.argv[1])
    train_unigram()
    document = {
        "made_by": {"script": "tools/record_tokenizers.py", "transformers": transformers.__version__,
                    "tokenizers": tokenizers.__version__, "sentencepiece": sentencepiece.__version__},
        "lines": LINES,
        "setups": {name: record(data, *setup) for name, setup in SETUPS.items()},
    }
    (GOLDEN / "tokenizers.json").write_text(json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n")


main()
