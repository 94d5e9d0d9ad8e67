"""Compares the memory that `train` plans with the peak that it takes: short runs on the CPU, or steps of `burnish bench` on a GPU.

    python tests/scripts/measure_plan.py --program target/release/burnish --models FOLDER cpu
    python tests/scripts/measure_plan.py --program target/release/burnish gpu [--backend cuda]

The folder has smollm2.gguf and gemma3.gguf, see fetch_models.sh. Prints a table in Markdown, and ends with an error if a plan is more than a
tenth off. Needs nothing but Python; reads the peak of a process from the system (Linux), and live bytes from the bench.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MIB = 1 << 20

# Model, recipe, flags, tokens of a row, whether the row is one of preferences.
CPU = [
    ("smollm2", "sft", {"rank": 16, "batch-size": 1, "max-seq-length": 512}),
    ("smollm2", "sft", {"rank": 16, "batch-size": 4, "max-seq-length": 512, "grad-checkpoint": True}),
    ("smollm2", "sft", {"rank": 64, "batch-size": 1, "max-seq-length": 1024, "quantization": "none"}),
    ("smollm2", "sft", {"rank": 8, "batch-size": 8, "max-seq-length": 128, "dropout": 0.05, "grad-accumulation-steps": 2}),
    ("smollm2", "sft", {"fine-tune-type": "full", "optimizer": "adamw8bit", "batch-size": 1, "max-seq-length": 256}),
    ("smollm2", "dpo", {"rank": 16, "batch-size": 2, "max-seq-length": 256}),
    ("smollm2", "kto", {"rank": 16, "batch-size": 4, "max-seq-length": 256, "grad-checkpoint": True}),
    ("gemma3", "sft", {"rank": 16, "batch-size": 1, "max-seq-length": 512}),
    ("gemma3", "sft", {"rank": 16, "batch-size": 1, "max-seq-length": 1024, "grad-checkpoint": True, "quantization": "none"}),
    ("gemma3", "sft", {"rank": 64, "batch-size": 4, "max-seq-length": 256}),
    ("smollm2", "kto", {"rank": 16, "batch-size": 4, "max-seq-length": 256}),
    ("smollm2", "dpo", {"rank": 16, "batch-size": 2, "max-seq-length": 256, "grad-checkpoint": True}),
    ("smollm2", "orpo", {"rank": 16, "batch-size": 2, "max-seq-length": 256, "grad-checkpoint": True}),
    ("smollm2", "cpo", {"rank": 16, "batch-size": 2, "max-seq-length": 256}),
    ("smollm2", "simpo", {"rank": 16, "batch-size": 2, "max-seq-length": 256, "grad-checkpoint": True}),
]

GPU = [
    ("llama-3.2-1b", {"rank": 16, "batch-size": 4, "seq": 2048}),
    ("llama-3.2-1b", {"rank": 64, "batch-size": 1, "seq": 1024, "grad-checkpoint": True}),
    ("llama-3.2-1b", {"rank": 16, "batch-size": 2, "seq": 2048, "quantization": "nf4"}),
    ("llama-3.2-1b", {"rank": 16, "batch-size": 4, "seq": 2048, "quantization": "nf4", "grad-checkpoint": True}),
    ("llama-3.2-1b", {"rank": 8, "batch-size": 8, "seq": 512, "quantization": "int8", "grad-checkpoint": True}),
    ("llama-3.2-1b", {"full": True, "optimizer": "adamw8bit", "rank": 16, "batch-size": 1, "seq": 2048}),
    ("llama-3.1-8b", {"rank": 16, "batch-size": 1, "seq": 2048, "quantization": "nf4", "grad-checkpoint": True}),
    ("llama-3.1-8b", {"rank": 32, "batch-size": 2, "seq": 2048, "quantization": "int4", "grad-checkpoint": True}),
    ("llama-3.1-8b", {"rank": 16, "batch-size": 1, "seq": 1024}),
    ("llama-3.1-8b", {"rank": 16, "batch-size": 1, "seq": 4096, "quantization": "nf4"}),
]


def flags(settings: dict) -> list[str]:
    words = []
    for key, value in settings.items():
        words += [f"--{key}"] if value is True else [f"--{key}", str(value)]
    return words


def rows(recipe: str, settings: dict, file: Path) -> None:
    """Rows as long as max_seq_length allows."""
    draw = random.Random(0)
    length = settings["max-seq-length"]
    count = 3 * settings["batch-size"] * settings.get("grad-accumulation-steps", 1)
    # A common word is a token.
    words = ["the", "and", "for", "you", "that", "with", "this", "from", "have", "not"]
    text = lambda many: "".join(" " + draw.choice(words) for _ in range(many))
    with file.open("w") as out:
        for index in range(count):
            if recipe == "sft":
                row = {"input_ids": [draw.randrange(100, 40_000) for _ in range(length)]}
            elif recipe != "kto":
                half = length // 2
                row = {"prompt": text(half), "chosen": text(half), "rejected": text(half)}
            else:
                row = {"prompt": text(length // 2), "completion": text(length // 2), "label": index % 2 == 0}
            out.write(json.dumps(row) + "\n")


def number(text: str) -> float:
    amount, unit = re.search(r"([\d.]+) (MiB|GiB)", text).groups()
    return float(amount) * MIB * (1024 if unit == "GiB" else 1)


def on_cpu(arguments) -> list[tuple[str, float, float]]:
    found = []
    extra = [("gemma2", "sft", {"rank": 8, "batch-size": 1, "max-seq-length": 256})] if arguments.gemma2 else []
    for model, recipe, settings in CPU[arguments.skip : arguments.only] + extra:
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "rows.jsonl"
            rows(recipe, settings, data)
            path = arguments.gemma2 if model == "gemma2" else arguments.models / f"{model}.gguf"
            command = [str(arguments.program), "train", recipe, "--model", str(path), "--data", str(data), "--output-dir", f"{folder}/run"]
            command += [*flags(settings), "--iters", "2", "--backend", "cpu", "--save-every", "0", "--allow-over-budget"]
            log = Path(folder) / "log"
            with log.open("w") as out:
                process = subprocess.Popen(command, stdout=out, stderr=out)
                _, status, usage = os.wait4(process.pid, 0)
            text = log.read_text()
            name = f"{model} {recipe} {' '.join(flags(settings))}"
            if status != 0:
                sys.exit(f"{name}\n{text[-2000:]}")
            planned = number(re.search(r"memory: about ([\d.]+ \w+)", text).group(1))
            found.append((name, planned, usage.ru_maxrss * 1024.0))
            print(f"# {name}: planned {planned / MIB:.0f} MiB, peak {found[-1][2] / MIB:.0f} MiB", file=sys.stderr)
    return found


def on_gpu(arguments) -> list[tuple[str, float, float]]:
    with ThreadPoolExecutor(arguments.jobs) as pool:
        return list(pool.map(lambda case: step_on_gpu(arguments, *case), GPU[arguments.skip : arguments.only]))


def step_on_gpu(arguments, model: str, settings: dict) -> tuple[str, float, float]:
    started = time.monotonic()
    bench = ["bench", "--backends", arguments.backend, "--model", model, "--kernels", "none", "--step", "--warmup", "1", "--repeats", "3"]
    told = json.loads(subprocess.run([arguments.program, *bench, "--json", *flags(settings)], check=True, capture_output=True, text=True).stdout)
    step = told["backends"][0]["step"]
    planning = {("max-seq-length" if key == "seq" else key): value for key, value in settings.items() if key != "full"}
    if "full" in settings:
        del planning["rank"]
        planning["fine-tune-type"] = "full"
    else:
        planning["alpha"] = 2 * settings["rank"]
    plan = ["plan", "--backend", arguments.backend, "--model", model, "--json", *flags(planning)]
    planned = json.loads(subprocess.run([arguments.program, *plan], check=True, capture_output=True, text=True).stdout)
    name = f"{model} {' '.join(flags(settings))}"
    found = (name, float(planned["total"]), float(step["live_bytes"]))
    sizes = f"planned {found[1] / MIB:.0f} MiB, live {found[2] / MIB:.0f} MiB, pool {step['peak']['bytes'] / MIB:.0f} MiB"
    print(f"# {name}: {planned['dtype']}, {sizes}, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", choices=["cpu", "gpu"])
    parser.add_argument("--program", type=Path, required=True)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--gemma2", type=Path, help="a folder of a Gemma 2 with tokenizer, such as a small random one with all its tokens")
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once on a GPU: each draws its weights for up to a minute")
    parser.add_argument("--only", type=int, help="the first so many")
    parser.add_argument("--skip", type=int, default=0, help="without the first so many; those of 8B are after six of 1B")
    arguments = parser.parse_args()
    found = on_cpu(arguments) if arguments.place == "cpu" else on_gpu(arguments)
    print("| run | planned | peak | planned over peak |\n|---|---:|---:|---:|")
    for name, planned, peak in found:
        print(f"| `{name}` | {planned / MIB:.0f} MiB | {peak / MIB:.0f} MiB | {planned / peak:.3f} |")
    wrong = [name for name, planned, peak in found if not 0.9 <= planned / peak <= 1.1]
    if wrong:
        sys.exit("more than a tenth off: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
