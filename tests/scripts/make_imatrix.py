"""Writes the mean square of each input column of each linear layer, as forward hooks of transformers see them.

    python tests/scripts/make_imatrix.py tests/fixtures/parity tests/fixtures/imatrix.safetensors

Of some tiny checkpoints that make_parity.py wrote, on two random texts: `FAMILY/input_ids`, and `FAMILY/LAYER` with the means over
all tokens. Versions: requirements.txt.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

# Plain, with norms of queries and keys, with fused projections and short rotary factors, with norms after each part.
FAMILIES = ["llama", "qwen3", "phi3", "gemma2", "gemma3", "granite", "olmo2"]
TEXTS, LENGTH = 2, 13


def means(folder, ids):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    found = {}

    def hook(name):
        def see(_, inputs):
            found[name] = inputs[0].double().square().flatten(0, 1).mean(0).float()
        return see

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name.startswith("model.layers."):
            module.register_forward_pre_hook(hook(name))
    with torch.no_grad():
        model(ids)
    return found


def main(parity, target):
    tensors = {}
    for at, family in enumerate(FAMILIES):
        vocabulary = json.loads((Path(parity) / family / "config.json").read_text())["vocab_size"]
        ids = torch.randint(3, vocabulary, (TEXTS, LENGTH), generator=torch.Generator().manual_seed(at))
        tensors[f"{family}/input_ids"] = ids.float()
        tensors |= {f"{family}/{name}": values for name, values in means(Path(parity) / family, ids).items()}
    save_file(tensors, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
