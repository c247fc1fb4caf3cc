#!/usr/bin/env bash
# A checkpoint that nibble wrote is loaded unchanged by transformers + compressed-tensors, and gives the logits that nibble
# finds by its own reader, to 1e-3 relative. NIBBLE_PYTHON names an interpreter that has both packages.
source "$(dirname "$0")/lib.sh"
python=${NIBBLE_PYTHON:-python3}
"$python" -c 'import compressed_tensors, torch, transformers' 2>/dev/null ||
  skip "$python has no torch, transformers and compressed_tensors (set NIBBLE_PYTHON)"

quantize_small "$scratch/int4" 2>/dev/null
echo '[[1, 415, 277, 302, 1000, 17, 18, 2999, 40, 41], [1, 7], [2500, 9, 9, 9, 1], [1, 600, 601, 602, 603, 604, 605]]' >"$scratch/ids.json"
"$nibble" logits "$scratch/int4" --tokens "$scratch/ids.json" --out "$scratch/logits.safetensors" 2>/dev/null
"$python" - "$scratch" <<'PY' || fail "the logits differ from those of transformers"
import json, sys
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

folder = sys.argv[1]
ours = load_file(folder + "/logits.safetensors")
model = AutoModelForCausalLM.from_pretrained(folder + "/int4", dtype=torch.float32).eval()
worst = 0.0
with torch.no_grad():
    for index, ids in enumerate(json.load(open(folder + "/ids.json"))):
        theirs = model(torch.tensor([ids])).logits[0].float()
        mine = ours[str(index)]
        assert mine.shape == theirs.shape, (mine.shape, theirs.shape)
        worst = max(worst, ((mine - theirs).abs().max() / theirs.abs().max()).item())
print(f"largest difference: {worst:.2e} of the largest logit")
sys.exit(not worst <= 1e-3)
PY
