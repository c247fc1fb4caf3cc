#!/usr/bin/env python3
"""Records what transformers finds for the perplexity of checkpoints on demo/evaluation.txt.

    tools/record_perplexity.py tests/golden/perplexity.json NAME=CHECKPOINT…

Arithmetic is float32; W4A16 weights are code * scale in float32, unpacked here and not by a library, so that
files with either spelling of the expert names can be read. The protocol is that of `nibble perplexity
--window 256`: one encoding of the whole file without special tokens, chunks of 255 ids, each scored alone
behind BOS.
"""

import json
import pathlib
import re
import sys

import tokenizers
import torch
import transformers
from safetensors.torch import load_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEXT = ROOT / "demo/evaluation.txt"
WINDOW = 256
SPELLING = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


def read_tensors(folder):
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    state = {}
    for name, tensor in tensors.items():
        if name.endswith(".weight_packed"):
            module = name.removesuffix(".weight_packed")
            scale = tensors[module + ".weight_scale"].float()
            rows, columns = tensors[module + ".weight_shape"].tolist()
            nibbles = torch.stack([tensor >> (4 * k) & 15 for k in range(8)], -1)
            codes = nibbles.reshape(rows, -1)[:, :columns].float() - 8
            weight = codes.reshape(rows, scale.shape[1], -1) * scale[:, :, None]
            module = re.sub(r"(experts\.\d+\.)(\w+)$", lambda m: m[1] + SPELLING.get(m[2], m[2]), module)
            state[module + ".weight"] = weight.reshape(rows, columns)
        elif not re.search(r"\.weight_(scale|shape)$", name):
            state[name] = tensor.float()
    return state


def score(folder, ids):
    config = transformers.MixtralConfig.from_pretrained(folder)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        model = transformers.MixtralForCausalLM(config)
    model = model.to_empty(device="cpu").float()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its table is not in the file
    model.load_state_dict(read_tensors(folder), strict=True)
    model.eval()
    nll = 0.0
    with torch.no_grad():
        for begin in range(0, len(ids), WINDOW - 1):
            chunk = ids[begin : begin + WINDOW - 1]
            logits = model(torch.tensor([[config.bos_token_id] + chunk[:-1]])).logits[0].double()
            picked = logits.log_softmax(-1).gather(1, torch.tensor(chunk)[:, None])
            nll -= picked.sum().item()
    return {"tokens": len(ids), "nll": nll, "perplexity": float(torch.tensor(nll / len(ids)).double().exp())}


def main():
    out, *named = sys.argv[1:]
    tokenizer = tokenizers.Tokenizer.from_file(str(ROOT / "demo/tinymix/tokenizer.json"))
    ids = tokenizer.encode(TEXT.read_text(), add_special_tokens=False).ids
    result = {
        "text": str(TEXT.relative_to(ROOT)),
        "window": WINDOW,
        "made_with": {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0],
                      "tokenizers": tokenizers.__version__},
        "checkpoints": {},
    }
    for argument in named:
        name, _, folder = argument.partition("=")
        result["checkpoints"][name] = score(pathlib.Path(folder), ids)
        print(name, result["checkpoints"][name], file=sys.stderr)
    pathlib.Path(out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
