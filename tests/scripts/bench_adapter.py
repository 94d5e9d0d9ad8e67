"""From command to adapter: `burnish train` and a script of transformers + peft, in the same call, on an NVIDIA GPU.

    python3 tests/scripts/bench_adapter.py target/release/burnish cuda --output recipes/results

2,000 rows of 40 to 320 random tokens, one epoch in batches of 16 rows, LoRA of rank 16 with dropout 0.05 on all linear layers, on random
weights in the shape of Llama-3.2-1B (see bench_train.py). Each program runs twice; `second_s` is the wall time of the second run, from the
start of the process to its end. Prints the row, and writes it to the folder given by `--output`.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import bench_row
import bench_train

ROWS, BATCH, RANK, DROPOUT, RATE = 2000, 16, 16, 0.05, 2e-4
FOLDER = Path("/tmp/burnish-adapter")


def make_rows(vocabulary):
    draw = random.Random(1)
    rows = ([draw.randrange(3, vocabulary) for _ in range(draw.randint(40, 320))] for _ in range(ROWS))
    (FOLDER / "rows.jsonl").write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in rows))


def peft():
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(bench_train.FOLDER, dtype=torch.bfloat16, attn_implementation="sdpa").cuda()
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=RANK, lora_dropout=DROPOUT, target_modules=targets, task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, fused=True)
    rows = [json.loads(line)["input_ids"] for line in open(FOLDER / "rows.jsonl")]
    random.Random(2).shuffle(rows)
    model.train()
    for start in range(0, len(rows), BATCH):
        batch = rows[start:start + BATCH]
        longest = max(map(len, batch))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in batch]).cuda()
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch]).cuda()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        last = loss.item()
    model.save_pretrained(FOLDER / "peft")
    print(json.dumps({"loss": last}))


def ours(program, backend, flags):
    run = FOLDER / "run"
    return [program, "--quiet", "train", "--model", str(bench_train.FOLDER), "--data", str(FOLDER / "rows.jsonl"), "--output-dir", str(run),
            "--overwrite", "--backend", backend, "--batch-size", str(BATCH), "--epochs", "1", "--rank", str(RANK), "--alpha", str(RANK),
            "--dropout", str(DROPOUT), "--learning-rate", str(RATE), "--save-every", "0", "--steps-per-eval", "0", *flags]


def twice(name, command):
    seconds = []
    for _ in range(2):
        started = time.time()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(round(time.time() - started, 1))
    row = dict(program=name, first_s=seconds[0], second_s=seconds[1])
    if name == "burnish":
        steps = [json.loads(line) for line in (FOLDER / "run/metrics.jsonl").read_text().splitlines()]
        later = sorted(step["step_ms"] for step in steps[20:])
        row.update(steps=len(steps), training_s=round(sum(step["step_ms"] for step in steps) / 1e3, 1), first_step_ms=round(steps[0]["step_ms"]),
                   median_ms=round(later[len(later) // 2]), longest_ms_after_20=round(later[-1]))
    print(json.dumps(row), flush=True)
    return row


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("backend")
    parser.add_argument("--peft", action="store_true", help="run the script of transformers + peft")
    parser.add_argument("--flag", action="append", default=[], help="a further flag of `train`")
    parser.add_argument("--output", help="folder for the row")
    arguments = parser.parse_args()
    if arguments.peft:
        return peft()
    FOLDER.mkdir(exist_ok=True)
    if not (bench_train.FOLDER / "model.safetensors").exists():
        bench_train.make_model()
    make_rows(json.loads((bench_train.FOLDER / "config.json").read_text())["vocab_size"])
    rows = [twice("transformers + peft", [sys.executable, __file__, "x", "x", "--peft"]),
            twice("burnish", ours(arguments.program, arguments.backend, arguments.flag))]
    rows[1]["of_peft"] = round(rows[1]["second_s"] / rows[0]["second_s"], 3)
    print(rows[1]["of_peft"])
    if arguments.output:
        bench_row.save(bench_row.document(rows=rows), "adapter-llama-3.2-1b", arguments.output)


if __name__ == "__main__":
    main()
