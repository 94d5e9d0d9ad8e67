"""Measures `burnish train` on an NVIDIA GPU in real runs, with dropout and with dpo, on random weights in the shape of Llama-3.2-1B.

    python3 tests/scripts/bench_train.py target/release/burnish cuda --output recipes/results

It writes a model folder and rows to /tmp/burnish-1b (2.5 GB), trains LoRA of rank 16 on all linear layers, and prints a line of JSON
per run: the median of the steps after the first ten, and the peak device memory of the backend. All runs are written to one file in
the folder given by `--output`. Needs torch; any version.
"""

import argparse
import json
import shutil
import statistics
import struct
import subprocess
import sys
from pathlib import Path

import torch

import bench_row

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path("/tmp/burnish-1b")


def shapes(config):
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head = config.get("head_dim", hidden // config["num_attention_heads"])
    query, value = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    yield "model.embed_tokens.weight", [vocabulary, hidden]
    for layer in range(config["num_hidden_layers"]):
        linears = {"self_attn.q_proj": [query, hidden], "self_attn.k_proj": [value, hidden], "self_attn.v_proj": [value, hidden],
                   "self_attn.o_proj": [hidden, query], "mlp.gate_proj": [inner, hidden], "mlp.up_proj": [inner, hidden],
                   "mlp.down_proj": [hidden, inner], "input_layernorm": [hidden], "post_attention_layernorm": [hidden]}
        yield from ((f"model.layers.{layer}.{name}.weight", shape) for name, shape in linears.items())
    yield "model.norm.weight", [hidden]
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", [vocabulary, hidden]


def make_model(shape="llama-3.2-1b", folder=FOLDER):
    folder.mkdir(exist_ok=True)
    config = json.loads((ROOT / f"recipes/bench/assets/{shape}.json").read_text())
    config.update(architectures=["LlamaForCausalLM"], eos_token_id=2, tie_word_embeddings=shape == "llama-3.2-1b")
    (folder / "config.json").write_text(json.dumps(config))
    for name in ["tokenizer.json", "tokenizer_config.json"]:
        shutil.copy(ROOT / "recipes/assets/quickstart/model" / name, folder)
    header, end, tensors = {}, 0, list(shapes(config))
    for name, shape in tensors:
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = dict(dtype="BF16", shape=shape, data_offsets=[start, end])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(1)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, shape in tensors:
            tensor = torch.ones(shape) if len(shape) == 1 else torch.randn(shape, generator=generator, device=device) * 0.02
            file.write(tensor.to(torch.bfloat16).view(torch.int16).cpu().numpy().tobytes())


def make_rows():
    rows = (ROOT / "recipes/assets/quickstart/data/train.jsonl").read_text().splitlines()
    (FOLDER / "short.jsonl").write_text("\n".join(rows[index % len(rows)] for index in range(16000)))
    sentence = "Table for 4 at Luigi's on Friday at 7 pm, please. "
    pairs, answers = [], []
    for index in range(128):
        prompt, chosen, rejected = f"{index}: " + sentence * (40 + index % 3), " yes" + sentence * 4, " no" + sentence * 4
        pairs.append(dict(prompt=prompt, chosen=chosen, rejected=rejected))
        answers += [dict(prompt=prompt, completion=answer) for answer in (chosen, rejected)]
    for name, lines in [("pairs", pairs), ("answers", answers)]:
        (FOLDER / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))


def train(program, backend, name, recipe, rows, *flags):
    run = FOLDER / f"run-{name}"
    command = [program, "--quiet", "train", recipe, "--model", str(FOLDER), "--data", str(FOLDER / f"{rows}.jsonl"), "--output-dir", str(run),
               "--overwrite", "--backend", backend, "--max-seq-length", "2048", "--rank", "16", "--save-every", "0", "--steps-per-eval", "0", *flags]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = dict(run=name, backend=backend, flags=" ".join([recipe, *flags]), steps=len(steps), tokens=steps[-1]["tokens"],
                 tokens_per_second=round(statistics.median(step["tokens_per_second"] for step in steps[10:])),
                 pool_mib=max(step["pool_bytes"] for step in steps) >> 20, losses=[steps[0]["loss"], steps[-1]["loss"]])
    print(json.dumps(found), flush=True)
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("backend")
    parser.add_argument("--output", help="folder for the row")
    arguments = parser.parse_args()
    make_model()
    make_rows()
    packed = ["--packing", "--batch-size", "4", "--iters", "40"]
    runs = [
        ("packed", "sft", "short", *packed),
        ("packed-dropout", "sft", "short", *packed, "--dropout", "0.05"),
        ("answers", "sft", "answers", "--no-shuffle", "--batch-size", "4", "--iters", "20"),
        ("pairs", "dpo", "pairs", "--no-shuffle", "--batch-size", "2", "--iters", "20"),
    ]
    rows = [train(arguments.program, arguments.backend, *run) for run in runs]
    if arguments.output:
        bench_row.save(bench_row.document(rows=rows), "train-llama-3.2-1b", arguments.output)


if __name__ == "__main__":
    main()
