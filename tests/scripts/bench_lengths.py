"""Trains on rows of 40 to 320 tokens: padded, end to end, and packed. Does the memory of the device grow, and what does padding cost?

    python3 tests/scripts/bench_lengths.py target/release/burnish cuda --steps 500 --output recipes/results

It prints a line of JSON per run. `tokens_per_second` counts real tokens, from step 50 on (`--first`) and with every pause; `growth` is
the largest pool of all steps by that of the first 50 steps; `of_padded` compares with the padded run. The model is `--model`, by default random
weights in the shape of Llama-3.2-1B, or `--shape llama-3.1-8b` (see bench_train.py, which needs torch).
"""

import argparse
import json
import random
import subprocess
from pathlib import Path

import bench_row

RUNS = {"padded": ["--no-padding-free"], "padding-free": [], "packed": ["--packing"]}


def make_rows(path, vocabulary, count):
    draw = random.Random(1)
    rows = ([draw.randrange(3, vocabulary) for _ in range(draw.randint(40, 320))] for _ in range(count))
    path.write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in rows))


def train(arguments, rows, folder, name, flags):
    run = folder / f"run-{name}"
    # A packed row has about as many tokens as eleven rows of these lengths.
    size = max(1, arguments.batch_size // 11) if name == "packed" else arguments.batch_size
    command = [arguments.program, "--quiet", "train", "--model", arguments.model, "--data", str(rows), "--output-dir", str(run), "--overwrite",
               "--backend", arguments.backend, "--batch-size", str(size), "--iters", str(arguments.steps), "--rank", "16",
               "--max-seq-length", "2048", "--save-every", "0", "--steps-per-eval", "0", *flags, *arguments.flag]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(steps) == arguments.steps
    first = arguments.first
    later = steps[first:]
    pool = lambda some: max(step["pool_bytes"] or step["peak_bytes"] for step in some)
    return dict(run=name, batch_size=size, tokens=sum(step["tokens"] for step in later), loss=steps[-1]["loss"],
                tokens_per_second=round(sum(step["tokens"] for step in later) / sum(step["step_ms"] for step in later) * 1e3),
                longest_ms=round(max(step["step_ms"] for step in later)), longest_of_first_ms=round(max(step["step_ms"] for step in steps[:first])),
                live_mib=max(step["live_bytes"] or 0 for step in steps) >> 20, pool_mib=pool(steps) >> 20, pool_mib_of_first=pool(steps[:first]) >> 20,
                growth=round(pool(steps) / pool(steps[:first]), 4))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("backend")
    parser.add_argument("--model", help="folder of a model")
    parser.add_argument("--shape", default="llama-3.2-1b", help="of the random weights, without --model")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--first", type=int, default=50, help="steps that are not timed, and after which memory must not grow")
    parser.add_argument("--batch-size", type=int, default=16, help="rows of a padded or padding-free micro-batch")
    parser.add_argument("--folder", default="/tmp/burnish-lengths", help="for rows and runs")
    parser.add_argument("--runs", default=",".join(RUNS))
    parser.add_argument("--flag", action="append", default=[], help="a further flag of `train`, such as --flag=--dropout=0.05")
    parser.add_argument("--output", help="folder for the row")
    arguments = parser.parse_args()
    folder = Path(arguments.folder)
    folder.mkdir(exist_ok=True)
    if arguments.model is None:
        import bench_train
        arguments.model = str(folder / arguments.shape)
        bench_train.make_model(arguments.shape, Path(arguments.model))
    vocabulary = json.loads((Path(arguments.model) / "config.json").read_text())["vocab_size"]
    rows = folder / "rows.jsonl"
    make_rows(rows, vocabulary, 8000)
    found = []
    for name in arguments.runs.split(","):
        found.append(train(arguments, rows, folder, name, RUNS[name]))
        if found[0]["run"] == "padded":
            found[-1]["of_padded"] = round(found[-1]["tokens_per_second"] / found[0]["tokens_per_second"], 3)
        print(json.dumps(found[-1]), flush=True)
    if arguments.output:
        bench_row.save(bench_row.document(model=Path(arguments.model).name, rows=found), "train-lengths", arguments.output)


if __name__ == "__main__":
    main()
