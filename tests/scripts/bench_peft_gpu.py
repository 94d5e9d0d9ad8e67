"""Measures a training step of transformers + peft on an NVIDIA GPU, for comparison with `burnish bench --step`.

    python3 tests/scripts/bench_peft_gpu.py 4 2048

The arguments are rows, and tokens in a row. The model has the shape of recipes/bench/assets/llama-3.2-1b.json with random weights in
bf16, LoRA of rank 16 on all linear layers, SDPA, fused AdamW, no checkpointing. It prints the median of ten steps after three
warm-up steps, and torch's peak memory. Written for torch 2.11, transformers 5.17, peft (any with torch 2.11).
"""
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

SHAPE = Path(__file__).parents[2] / "recipes/bench/assets/llama-3.2-1b.json"


def main() -> None:
    rows, length = int(sys.argv[1]), int(sys.argv[2])
    torch.manual_seed(42)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM._from_config(LlamaConfig(**json.loads(SHAPE.read_text())), attn_implementation="sdpa")
    torch.set_default_dtype(torch.float32)
    model.config.use_cache = False
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    ids = torch.randint(0, model.config.vocab_size, (rows, length), device="cuda")

    def step() -> float:
        torch.cuda.synchronize()
        started = time.perf_counter()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        return time.perf_counter() - started

    for _ in range(3):
        step()
    torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median(step() for _ in range(10))
    print(f"{rows} x {length}: {rows * length / seconds:.0f} tok/s, {seconds * 1e3:.1f} ms, "
          f"peak {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB, {torch.cuda.get_device_name()}")


if __name__ == "__main__":
    main()
