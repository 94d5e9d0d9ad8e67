"""Writes adapters of PEFT beyond plain LoRA, and the results of PEFT for them, on checkpoints of make_parity.py.

    python tests/scripts/make_adapters.py tests/fixtures/parity tests/fixtures/adapters [CASE…]

Each folder has `start`, the adapter that the run begins with, or `trained`, the adapter after ten AdamW steps, and `golden.safetensors`
with logits, the loss, the gradient of every trained tensor, and the losses of the ten steps. Versions: requirements.txt.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from make_parity import ALL, inputs, steps

# The checkpoint; what the adapter has beyond the defaults; whether its tensors are drawn at random, so that none is at its start.
CASES = {
    "dora": ("llama", dict(use_dora=True), True),
    "dora_biased": ("biased", dict(use_dora=True, use_rslora=True, target_modules=["q_proj", "v_proj", "down_proj"]), True),
    "pissa": ("llama", dict(init_lora_weights="pissa"), False),
    "olora": ("mistral", dict(init_lora_weights="olora", use_rslora=True), False),
    "modules": ("llama", dict(modules_to_save=["embed_tokens", "lm_head"], target_modules=["q_proj"]), True),
    "modules_tied": ("llama3", dict(modules_to_save=["embed_tokens"], ensure_weight_tying=True, target_modules=["q_proj"]), True),
}


def trained_tensors(model):
    """As they are called in PEFT's files."""
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {name.replace(".modules_to_save", "").replace(".default", "").replace("_vector.weight", "_vector"): p
            for name, p in found.items()}


def save(model, folder):
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    # PEFT writes sets, whose order changes from run to run, and the folder of the base.
    path = folder / "adapter_config.json"
    saved = json.loads(path.read_text())
    for key in ["target_modules", "modules_to_save"]:
        saved[key] = saved[key] and sorted(saved[key])
    path.write_text(json.dumps(saved | dict(base_model_name_or_path="base"), indent=2, sort_keys=True))


def make(name, bases, folder):
    base, lora, draw = CASES[name]
    shutil.rmtree(folder, ignore_errors=True)
    settings = dict(r=4, lora_alpha=8, target_modules=ALL, task_type="CAUSAL_LM") | lora
    model = AutoModelForCausalLM.from_pretrained(bases / base, dtype=torch.float32, attn_implementation="eager")
    peft = get_peft_model(model.eval(), LoraConfig(**settings)).eval()
    generator = torch.Generator().manual_seed(11)
    if draw:
        with torch.no_grad():
            for key, tensor in sorted(trained_tensors(peft).items()):
                noise = torch.randn(tensor.shape, generator=generator)
                if "lora_A" in key or "lora_B" in key:
                    tensor.copy_(0.2 * noise)
                elif "magnitude" in key:
                    tensor.mul_(1 + 0.1 * noise)
                else:
                    tensor.add_(0.05 * noise)
        save(peft, folder / "start")
    ids, mask, labels = inputs()
    batch = dict(input_ids=ids, attention_mask=mask, labels=labels)
    output = peft(**batch)
    output.loss.backward()
    golden = {"input_ids": ids.to(torch.int32), "attention_mask": mask.to(torch.int32), "labels": labels.to(torch.int32),
              "logits": output.logits.detach(), "loss": output.loss.detach().reshape(1)}
    if draw:
        golden.update({f"grad.{key}": p.grad.clone() for key, p in trained_tensors(peft).items()})
    peft.zero_grad()
    golden["losses"] = steps(peft, batch, None)
    with torch.no_grad():
        golden["trained_logits"] = peft(input_ids=ids, attention_mask=mask).logits
    if not draw:
        save(peft, folder / "trained")
    save_file({key: value.contiguous() for key, value in golden.items()}, folder / "golden.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for case in sys.argv[3:] or CASES:
        make(case, Path(sys.argv[1]), Path(sys.argv[2]) / case)
    print(json.dumps(sorted(CASES)))
