"""Measures a training step of transformers + peft on an NVIDIA GPU, for comparison with `burnish bench --step`.

    python3 tests/scripts/bench_peft_gpu.py 4 2048 --output recipes/results
    python3 tests/scripts/bench_peft_gpu.py 4 2048 --grad-checkpoint --dropout 0.05 --output recipes/results

Rows and tokens per row are arguments. The model has the shape of recipes/bench/assets/llama-3.2-1b.json (or of `--model`) with
random weights in bf16, LoRA of rank 16 on all linear layers, SDPA, fused AdamW. `--grad-checkpoint` recomputes each block in the
backward pass; `--full` trains all weights, in f32. The row has the median of ten steps after three warm-up steps, the peak memory
of torch's tensors (`max_memory_allocated`) and of its pool (`max_memory_reserved`). If memory runs out, the row says so. Versions:
torch 2.11, transformers 5.17, peft 0.21.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

import bench_row

SHAPES = Path(__file__).parents[2] / "recipes/bench/assets"
RANK, WARMUP, REPEATS = 16, 3, 10


def load(arguments: argparse.Namespace) -> torch.nn.Module:
    config = LlamaConfig(**json.loads((SHAPES / f"{arguments.model}.json").read_text()))
    torch.manual_seed(42)
    torch.set_default_dtype(torch.float32 if arguments.full else torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa")
    torch.set_default_dtype(torch.float32)
    model.config.use_cache = False
    if not arguments.full:
        lora = LoraConfig(
            r=RANK, lora_alpha=2 * RANK, lora_dropout=arguments.dropout, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        model = get_peft_model(model, lora)
    if arguments.grad_checkpoint:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    return model


def measure(arguments: argparse.Namespace) -> dict:
    rows, length = arguments.rows, arguments.length
    model = load(arguments)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    ids = torch.randint(0, model.config.vocab_size, (rows, length), device="cuda")

    def step() -> tuple[float, float]:
        torch.cuda.synchronize()
        started = time.perf_counter()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        return time.perf_counter() - started, loss.item()

    first = step()
    for _ in range(WARMUP - 1):
        step()
    torch.cuda.reset_peak_memory_stats()
    taken = [step() for _ in range(REPEATS)]
    seconds = statistics.median(seconds for seconds, _ in taken)
    return {
        "first_ms": round(first[0] * 1e3, 3),
        "ms": round(seconds * 1e3, 3),
        "samples": REPEATS,
        "tokens_per_second": round(rows * length / seconds, 1),
        "losses": [round(first[1], 4), round(taken[-1][1], 4)],
        "peak": {"bytes": torch.cuda.max_memory_allocated(), "of": "live", "pool_bytes": torch.cuda.max_memory_reserved()},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=int)
    parser.add_argument("length", type=int)
    parser.add_argument("--model", default="llama-3.2-1b")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--grad-checkpoint", action="store_true")
    parser.add_argument("--full", action="store_true", help="train all weights, in f32 under autocast")
    parser.add_argument("--output", help="folder for the row")
    arguments = parser.parse_args()
    try:
        step = measure(arguments)
    except torch.cuda.OutOfMemoryError as error:
        step = {"error": f"out of memory: {error}".splitlines()[0]}
    about = ["SDPA", "fused AdamW"]
    about += ["recomputed blocks"] if arguments.grad_checkpoint else []
    about += [f"dropout {arguments.dropout}"] if arguments.dropout else []
    about += ["all weights trained, in f32"] if arguments.full else []
    library = "transformers" if arguments.full else "transformers + peft"
    backend = {"backend": library, "device": "cuda", "dtype": "bf16", "about": ", ".join(about), "step": step}
    row = bench_row.document(
        versions=bench_row.versions("torch", "transformers", "peft"),
        model=arguments.model,
        sizes={"batch": arguments.rows, "length": arguments.length, "rank": RANK},
        backends=[backend],
    )
    print(json.dumps(row))
    if arguments.output:
        bench_row.save(row, f"peft-{arguments.model}-{arguments.rows}x{arguments.length}", arguments.output)


if __name__ == "__main__":
    main()
