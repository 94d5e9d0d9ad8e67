"""Decoding on a GPU: one stream, 300 tokens after a short prompt, the median of nine runs of each backend and storage.

    python3 tests/scripts/bench_decode.py target/release/burnish --output recipes/results

It prints a line of JSON per line of `--runs`: `tokens_per_second` does not count the prompt, nor the compilation of kernels. All take
turns, and the median counts, because the speed of a host changes from minute to minute. The model is `--model`, by default random weights in the shape of
Llama-3.2-1B (see bench_train.py, which needs torch).
"""

import argparse
import json
import statistics
import subprocess

import bench_row

RUNS = {
    "cuda, bf16": ["--backend", "cuda"],
    "cuda, NF4": ["--backend", "cuda", "--quantization", "nf4"],
    "vulkan, f16": ["--backend", "vulkan", "--dtype", "f16"],
}
TURNS, TOKENS = 9, 300


def decode(arguments, flags):
    command = [arguments.program, "--json", "generate", "--model", arguments.model, "--raw", "--prompt", "Table for",
               "--max-tokens", str(TOKENS), "--temperature", "0", *flags]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(output.splitlines()[-1])
    assert len(found["tokens"]) == TOKENS, len(found["tokens"])
    return found["tokens_per_second"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--model", help="folder of a model")
    parser.add_argument("--runs", default=";".join(RUNS))
    parser.add_argument("--output", help="folder for the row")
    arguments = parser.parse_args()
    if arguments.model is None:
        import bench_train
        bench_train.make_model()
        arguments.model = str(bench_train.FOLDER)
    names = arguments.runs.split(";")
    turns = [{name: decode(arguments, RUNS[name]) for name in names} for _ in range(TURNS)]
    found = []
    for name in names:
        rates = [turn[name] for turn in turns]
        found.append(dict(run=name, tokens=TOKENS, tokens_per_second=round(statistics.median(rates), 1), all=[round(rate, 1) for rate in rates]))
        print(json.dumps(found[-1]), flush=True)
    if arguments.output:
        bench_row.save(bench_row.document(rows=found), "decode-llama-3.2-1b", arguments.output)


if __name__ == "__main__":
    main()
