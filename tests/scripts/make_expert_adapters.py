"""Writes PEFT adapters of experts for the tiny checkpoints of make_parity.py, and the results of transformers and PEFT for them.

    python tests/scripts/make_expert_adapters.py tests/fixtures [CASE…]

Reads `parity/` in that folder, and writes `experts/CASE`: a PEFT adapter, and `golden.safetensors` with logits, the loss, the gradient of
every adapter tensor, and the losses and the resulting adapter of ten AdamW steps. Versions: requirements.txt.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from make_parity import CASES as MODELS
from make_parity import adapter_tensors, inputs, steps
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

BOTH = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]

# The checkpoint, and the adapter.
CASES = {
    "qwen3moe-experts": ("qwen3moe", dict(r=3, lora_alpha=6, target_modules=["q_proj"], target_parameters=BOTH)),
    # PEFT makes parameters of the experts' and the router's former layers, of which some have the double rank.
    "qwen3moe-all": ("qwen3moe-mixed", dict(r=2, lora_alpha=6, target_modules="all-linear")),
    "gpt-oss-experts": ("gpt-oss", dict(r=3, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "v_proj"],
                                        target_parameters=[*BOTH, "mlp.router.weight"])),
    # A single parameter, of one layer; the base is packed.
    "gpt-oss-mxfp4-experts": ("gpt-oss-mxfp4", dict(r=2, lora_alpha=3, target_modules=[], target_parameters=[
        "model.layers.1.mlp.experts.down_proj"])),
}


def make(name, fixtures):
    model, settings = CASES[name]
    base, folder = fixtures / "parity" / model, fixtures / "experts" / name
    ids, mask, labels = inputs()
    batch = dict(input_ids=ids, attention_mask=mask, labels=labels)

    def adapted():
        own = MODELS[model][0].from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
        peft = get_peft_model(own.eval(), LoraConfig(**settings, task_type="CAUSAL_LM"))
        generator = torch.Generator().manual_seed(13)
        with torch.no_grad():
            for parameter in adapter_tensors(peft).values():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        return peft.eval()

    peft = adapted()
    shutil.rmtree(folder, ignore_errors=True)
    peft.save_pretrained(folder / "adapter")
    (folder / "adapter" / "README.md").unlink(missing_ok=True)
    # PEFT writes sets, whose order changes from run to run, and the folder that it read.
    path = folder / "adapter" / "adapter_config.json"
    saved = json.loads(path.read_text())
    saved |= {key: sorted(saved[key] or []) for key in ["target_modules", "target_parameters"]}
    path.write_text(json.dumps(saved | dict(base_model_name_or_path=model), indent=2, sort_keys=True) + "\n")
    output = peft(**batch)
    output.loss.backward()
    golden = {"input_ids": ids.to(torch.int32), "attention_mask": mask.to(torch.int32), "labels": labels.to(torch.int32)}
    golden |= {"adapter_logits": output.logits.detach(), "loss": output.loss.detach().reshape(1)}
    golden |= {f"grad.{key}": p.grad.clone() for key, p in adapter_tensors(peft).items()}
    peft = adapted()
    golden["plain.losses"] = steps(peft, batch, None)
    golden |= {f"plain.{key}": p.detach().clone() for key, p in adapter_tensors(peft).items()}
    merged = adapted().merge_and_unload()
    with torch.no_grad():
        golden["merged_logits"] = merged(input_ids=ids, attention_mask=mask).logits
    save_file({key: value.contiguous() for key, value in golden.items()}, folder / "golden.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for case in sys.argv[2:] or CASES:
        make(case, Path(sys.argv[1]))
