"""Gives llama.cpp an importance matrix of Burnish, and compares its values with forward hooks of transformers.

    python tests/scripts/judge_imatrix.py target/release/burnish MODEL.gguf ROWS.jsonl

ROWS are tokens, `{"input_ids": […]}`. The values must be within 1e-4 of the mean squares that transformers has on the same tokens with the
weights of MODEL in f32, relative to the value and the mean of its matrix. `llama_model_quantize` must take the file, and with it have a
lower perplexity on ROWS than without, and `burnish quantize --imatrix` too. Versions: requirements.txt.
"""

import ctypes
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-4
MIXTURES = {"q3_k_s": 11, "iq4_xs": 30}
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
# llama.cpp calls it as long as the program runs.
SILENT = llama_cpp.llama_log_callback(lambda *_: None)

failures = []


def check(holds, what):
    print("ok:" if holds else "FAILED:", what, flush=True)
    if not holds:
        failures.append(what)


def burnish(program, *arguments):
    subprocess.run([program, "-q", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def read(path):
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(path).tensors}
    names = [name.removesuffix(".in_sum2") for name in tensors if name.endswith(".in_sum2")]
    return {name: tensors[f"{name}.in_sum2"].reshape(-1) / tensors[f"{name}.counts"].reshape(-1)[0] for name in names}


def hooks(folder, rows):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    sums, tokens = {}, sum(map(len, rows))

    def hook(name):
        def see(_, inputs):
            sums[name] = sums.get(name, 0) + inputs[0].double().square().flatten(0, 1).sum(0)
        return see

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name.startswith("model.layers."):
            block, layer = name.removeprefix("model.layers.").split(".", 1)
            module.register_forward_pre_hook(hook(f"blk.{block}.{NAMES[layer]}.weight"))
    with torch.no_grad():
        for row in rows:
            model(torch.tensor([row]))
    return {name: (sum_ / tokens).numpy() for name, sum_ in sums.items()}


def llama_quantize(source, target, file_type, means):
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.nthread, parameters.ftype = 2, file_type
    kind = llama_cpp.llama_model_imatrix_data
    kept = [np.ascontiguousarray(values, np.float32) for values in means.values()]
    entries = [kind(name.encode(), values.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), values.size)
               for name, values in zip(means, kept)]
    if entries:
        parameters.imatrix = (kind * (len(entries) + 1))(*entries, kind(None, None, 0))
    return llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters))


def perplexity(path, rows):
    model = llama_cpp.Llama(str(path), n_ctx=512, n_batch=512, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False)
    losses = []
    for row in rows:
        model.reset()
        model.eval(row)
        for scores, token in zip(model.scores[:len(row) - 1].astype(np.float64), row[1:]):
            scores = scores - scores.max()
            losses.append(np.log(np.exp(scores).sum()) - scores[token])
    model.close()
    return float(np.exp(np.mean(losses)))


def main(program, model, data):
    llama_cpp.llama_log_set(SILENT, ctypes.c_void_p())
    rows = [json.loads(line)["input_ids"] for line in Path(data).read_text().splitlines()]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source, matrix = work / "f16.gguf", work / "imatrix.gguf"
        burnish(program, "export", "--model", model, "--format", "gguf", "--quant", "f16", "--no-modelfile", "--output", source)
        burnish(program, "export", "--model", source, "--format", "hf", "--quant", "f32", "--output", work / "hf")
        burnish(program, "imatrix", "--model", source, "--data", data, "--output", matrix, "--backend", "cpu", "--max-tokens", 0)
        found, expected = read(matrix), hooks(work / "hf", rows)
        check(set(found) == set(expected), f"{len(found)} matrices")
        # A column of a few matrices has a thousand times the mean.
        differences = [np.abs(found[name] - values) / (values + values.mean()) for name, values in expected.items()]
        worst = max(float(values.max()) for values in differences)
        check(worst <= TOLERANCE, f"values within {worst:.2e} of themselves and the mean of their matrix")
        for mixture, file_type in MIXTURES.items():
            figures = {}
            for label, means in (("without", {}), ("with", found)):
                target = work / f"{mixture}.gguf"
                check(llama_quantize(source, target, file_type, means) == 0, f"llama_model_quantize {mixture} {label}")
                figures[f"llama.cpp {label}"] = perplexity(target, rows)
                flags = ["--imatrix", matrix] if means else []
                burnish(program, "quantize", source, target, "--quant", mixture, "--overwrite", *flags)
                figures[f"burnish {label}"] = perplexity(target, rows)
            check(figures["llama.cpp with"] < figures["llama.cpp without"] and figures["burnish with"] < figures["burnish without"],
                  f"{mixture}: perplexity " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
        print(f"f16: perplexity {perplexity(source, rows):.4f}\n{len(failures)} failed")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
