"""Opens exported files with other programs: the adapter with PEFT, the merged folder with transformers, each GGUF with llama.cpp.

    python tests/scripts/judge_export.py --base BASE --adapter ADAPTER --merged MERGED --dtype f32 --gguf FILE[=FOLDER] ...

BASE is a Hugging Face folder. MERGED must store the dtype given by --dtype, and transformers must load it in that dtype by default. Its
logits must be within 1e-4 of those of base + adapter if it is in f32. Otherwise, they must be as near to those of the adapter merged by
PEFT and rounded to that dtype: a few weights may be rounded to the other neighbour. llama.cpp's greedy tokens must equal transformers' for 40
tokens, as long as the two best logits are more than 0.05 apart. A quantised FILE differs from MERGED, so it is compared with FOLDER,
its conversion by `burnish export --format hf --quant f32`, with a margin of 0.5, because llama.cpp then also rounds activations to
8 bits. Versions: requirements.txt.
"""

import argparse
import sys
from pathlib import Path

import torch
from llama_cpp import Llama
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = ["Table for 4 at Luigi's on Friday at 7 pm, please.", "Tell me about the sea.", "What is 2 + 2?"]
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
TOLERANCES = {"f32": 1e-4, "f16": 1e-3, "bf16": 5e-3}
LENGTH, MARGIN, QUANTISED_MARGIN = 40, 0.05, 0.5


def prompt_ids(tokenizer, text):
    messages = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return tokenizer(rendered, add_special_tokens=False).input_ids, rendered


def greedy(model, ids):
    """The tokens, each with its margin over the second best."""
    tokens, margins = list(ids), []
    with torch.no_grad():
        for _ in range(LENGTH):
            best = model(torch.tensor([tokens])).logits[0, -1].topk(2)
            tokens.append(int(best.indices[0]))
            margins.append(float(best.values[0] - best.values[1]))
    return tokens[len(ids):], margins


def stored_dtypes(folder):
    found = set()
    for path in Path(folder).glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            found |= {file.get_tensor(name).dtype for name in file.keys()}
    return found


def main():
    parser = argparse.ArgumentParser()
    for name in ("base", "adapter", "merged"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="dtype of MERGED; the default of merge is bf16")
    parser.add_argument("--gguf", nargs="+", default=[])
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.merged)
    merged = AutoModelForCausalLM.from_pretrained(arguments.merged, dtype=torch.float32).eval()
    base = AutoModelForCausalLM.from_pretrained(arguments.base, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, arguments.adapter).eval()
    if arguments.dtype != "f32":
        adapted = adapted.merge_and_unload()
        # Only the weights: casting the module would also round the rotary frequencies.
        for parameter in adapted.parameters():
            parameter.data = parameter.data.to(DTYPES[arguments.dtype]).float()
    passed = failed = 0

    def judge(name, ok, detail):
        nonlocal passed, failed
        passed, failed = passed + ok, failed + (not ok)
        print(f"{'ok  ' if ok else 'FAIL'} {name}: {detail}")

    asked = {DTYPES[arguments.dtype]}
    judge("merged file", stored_dtypes(arguments.merged) == asked, f"stores {stored_dtypes(arguments.merged)}")
    # Load it without a dtype argument, as most people do.
    unasked = {parameter.dtype for parameter in AutoModelForCausalLM.from_pretrained(arguments.merged).parameters()}
    judge("merged dtype", unasked == asked, f"transformers loads {unasked}, expected {arguments.dtype}")
    expected = {}
    for prompt in PROMPTS:
        ids, rendered = prompt_ids(tokenizer, prompt)
        with torch.no_grad():
            distance = (adapted(torch.tensor([ids])).logits - merged(torch.tensor([ids])).logits).abs().max().item()
        judge("PEFT against merged", distance < TOLERANCES[arguments.dtype], f"logits differ by {distance:.1e} on {prompt!r}")
        expected[prompt] = (ids, rendered, *greedy(merged, ids))
    for argument in arguments.gguf:
        path, _, folder = argument.partition("=")
        llama = Llama(path, n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False)
        unpacked = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() if folder else None
        for prompt, (ids, rendered, tokens, margins) in expected.items():
            if unpacked is not None:
                tokens, margins = greedy(unpacked, ids)
            least = QUANTISED_MARGIN if folder else MARGIN
            own = llama.tokenize(rendered.encode(), add_bos=False, special=True)
            judge(f"{path} ids", own == ids, f"{len(ids)} ids of {prompt!r}")
            made = []
            for token in llama.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
                made.append(token)
                if len(made) == LENGTH:
                    break
            clear = next((index for index, margin in enumerate(margins) if margin <= least), LENGTH)
            same = made[:clear] == tokens[:clear]
            judge(f"{path} tokens", same, f"{clear} of {LENGTH} tokens are clear-cut on {prompt!r}")
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
