"""Measures what `export` and `merge` have resident at most, of a sparse checkpoint far larger than that.

    python tests/scripts/judge_memory.py target/release/burnish [--gb 20] [--work FOLDER]

The checkpoint is one safetensors file of a Llama in bf16 with rows of a large vocabulary, all zeros, which take no space on the disk; the
adapter is one of rank 8 on every linear layer. What is written takes its full size: of 20 GB, `merge` writes 20 GB and `export` in Q8_0 11.
Each command may have 2 GiB resident beyond the largest tensor; one whose file would not fit on the disk is left out, and said. judge_rows.py
measures `train` and `data` with large files of rows. Needs only the standard library.
"""

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

TOKENIZER = Path(__file__).parent.parent.parent / "recipes/assets/quickstart/model"
HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, VOCABULARY = 4096, 14336, 32, 8, 128_256
MOST = 2 << 30
# What is left free on the disk.
MARGIN = 4 << 30
SHAPES = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (HIDDEN // 4, HIDDEN), "self_attn.v_proj": (HIDDEN // 4, HIDDEN),
          "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (INTERMEDIATE, HIDDEN), "mlp.up_proj": (INTERMEDIATE, HIDDEN),
          "mlp.down_proj": (HIDDEN, INTERMEDIATE)}


def write_sparse(path, tensors, dtype, size):
    """A safetensors file of zeros."""
    header, offset = {}, 0
    for name, shape in tensors.items():
        end = offset + size * (shape[0] * shape[1] if len(shape) == 2 else shape[0])
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    return offset


def make(folder, gigabytes):
    layer = {f"{name}.weight": shape for name, shape in SHAPES.items()}
    layer |= {"input_layernorm.weight": (HIDDEN,), "post_attention_layernorm.weight": (HIDDEN,)}
    ends = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,)}
    each = 2 * sum(shape[0] * (shape[1] if len(shape) == 2 else 1) for shape in layer.values())
    layers = max(1, round((gigabytes * 1e9 - 4 * VOCABULARY * HIDDEN) / each))
    tensors = ends | {f"model.layers.{at}.{name}": shape for at in range(layers) for name, shape in layer.items()}
    model, adapter = folder / "model", folder / "adapter"
    model.mkdir()
    adapter.mkdir()
    for file in TOKENIZER.glob("tokenizer*"):
        shutil.copy(file, model)
    config = dict(model_type="llama", architectures=["LlamaForCausalLM"], hidden_size=HIDDEN, intermediate_size=INTERMEDIATE,
                  num_hidden_layers=layers, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, vocab_size=VOCABULARY,
                  max_position_embeddings=8192, rms_norm_eps=1e-5, rope_theta=500000.0, tie_word_embeddings=False,
                  bos_token_id=1, eos_token_id=2, torch_dtype="bfloat16")
    (model / "config.json").write_text(json.dumps(config))
    size = write_sparse(model / "model.safetensors", tensors, "BF16", 2)
    factors = {}
    for at in range(layers):
        for name, (outputs, inputs) in SHAPES.items():
            stem = f"base_model.model.model.layers.{at}.{name}"
            factors |= {f"{stem}.lora_A.weight": (8, inputs), f"{stem}.lora_B.weight": (outputs, 8)}
    write_sparse(adapter / "adapter_model.safetensors", factors, "F32", 4)
    (adapter / "adapter_config.json").write_text(json.dumps(dict(
        peft_type="LORA", r=8, lora_alpha=16, target_modules=[name.split(".")[1] for name in SHAPES], task_type="CAUSAL_LM")))
    return size, layers


def resident(program, *arguments):
    command = [program, "-q", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)}: {said}")
    # Bytes on macOS.
    return usage.ru_maxrss if sys.platform == "darwin" else usage.ru_maxrss << 10


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--gb", type=float, default=20)
    parser.add_argument("--work")
    arguments = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        work = Path(folder)
        size, layers = make(work, arguments.gb)
        largest = 2 * VOCABULARY * HIDDEN
        print(f"{size / 1e9:.1f} GB in {layers} layers; the largest tensor has {largest / 2**30:.2f} GiB", flush=True)
        base, adapter = ["--model", work / "model"], ["--adapter", work / "adapter"]
        gguf = ["--format", "gguf", "--no-modelfile", "--quant"]
        of_q8 = 8.5 / 16
        for name, command, target, part in (
                ("export q8_0", ["export", *base, *gguf, "q8_0"], "m.gguf", of_q8),
                ("export f16 in parts", ["export", *base, *gguf, "f16", "--max-shard-size", "5GB"], "m.gguf", 1),
                ("export q8_0 with an adapter", ["export", *base, *adapter, *gguf, "q8_0"], "m.gguf", of_q8),
                ("merge", ["merge", *base, *adapter], "merged", 1)):
            needed, free = part * size, shutil.disk_usage(work).free
            if free < needed + MARGIN:
                print(f"left out: {name} writes {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free", flush=True)
                continue
            peak = resident(arguments.program, *command, "--output", work / "out" / target)
            written = sum(path.stat().st_size for path in (work / "out").rglob("*") if path.is_file())
            shutil.rmtree(work / "out")
            fits = peak <= largest + MOST
            failed |= not fits
            print("ok:" if fits else "FAILED:", f"{name}: {peak / 2**30:.2f} GiB resident, {written / 1e9:.1f} GB written", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
