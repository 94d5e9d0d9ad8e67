"""Writes five steps of PEFT's LoRA+ on the adapter of a case of make_parity.py.

    python tests/scripts/make_loraplus.py tests/fixtures/parity/llama tests/fixtures/loraplus.safetensors

The file has the losses, and the adapter after the last step. Versions: requirements.txt.
"""

import sys
from pathlib import Path

import torch
from make_parity import adapter_tensors, inputs
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM


def make(case, path):
    base = AutoModelForCausalLM.from_pretrained(case, dtype=torch.float32, attn_implementation="eager")
    model = PeftModel.from_pretrained(base, case / "adapter", is_trainable=True).eval()
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16, loraplus_weight_decay=0.01,
                                          betas=(0.9, 0.999), eps=1e-8)
    assert len({group["lr"] for group in optimizer.param_groups if group["params"]}) == 2
    ids, mask, labels = inputs()
    losses = []
    for _ in range(5):
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    golden = {key: value.detach().clone().contiguous() for key, value in adapter_tensors(model).items()}
    save_file(golden | {"losses": torch.tensor(losses)}, path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    make(Path(sys.argv[1]), Path(sys.argv[2]))
