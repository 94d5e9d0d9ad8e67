"""Fine-tunes a quantised GGUF file, exports it quantised again, and reads both with llama.cpp.

    python tests/scripts/judge_tuned.py target/release/burnish MODEL.gguf [--quant q4_k_m] [--iters 30]

Trains an adapter on the blocks of MODEL as they are, on sixteen texts of Python's help. The export with the adapter must open in llama.cpp
and have, by its logits, a clearly lower perplexity than MODEL on those texts; so must the LoRA GGUF on MODEL. The models are fetched by
fetch_models.sh. Versions: requirements.txt.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import llama_cpp
import numpy as np

# At most this share of the perplexity may be left.
SHARE = 0.8
TOPICS = ("assert", "assignment", "async", "attribute-access", "booleans", "break", "class", "comparisons", "compound", "continue",
          "del", "else", "for", "global", "if", "import")

failures = []


def check(holds, what):
    print("ok:" if holds else "FAILED:", what, flush=True)
    if not holds:
        failures.append(what)


def perplexity(path, texts, lora=None):
    model = llama_cpp.Llama(str(path), lora_path=lora and str(lora), n_ctx=512, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False)
    losses = []
    for text in texts:
        tokens = model.tokenize(text.encode())
        model.reset()
        model.eval(tokens)
        for scores, token in zip(model.scores[:len(tokens) - 1].astype(np.float64), tokens[1:]):
            scores = scores - scores.max()
            losses.append(np.log(np.exp(scores).sum()) - scores[token])
    model.close()
    return float(np.exp(np.mean(losses)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--quant", default="q4_k_m")
    parser.add_argument("--iters", type=int, default=30)
    arguments = parser.parse_args()
    texts = [topics[name][:800] for name in TOPICS]

    def burnish(*more):
        subprocess.run([arguments.program, "-q", *map(str, more)], check=True, stdout=subprocess.DEVNULL)

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        burnish("train", "--model", arguments.model, "--data", work / "rows.jsonl", "--output-dir", work / "run", "--backend", "cpu",
                "--iters", arguments.iters, "--batch-size", 2, "--grad-accumulation-steps", 1, "--rank", 8, "--learning-rate", "5e-4",
                "--max-seq-length", 256, "--save-every", 0, "--quantization", "auto")
        adapter = ["--model", arguments.model, "--adapter", work / "run/adapter"]
        tuned, lora = work / "tuned.gguf", work / "lora.gguf"
        burnish("export", *adapter, "--format", "gguf", "--quant", arguments.quant, "--requantize", "--output", tuned)
        burnish("export", *adapter, "--format", "gguf-lora", "--output", lora)
        before = perplexity(arguments.model, texts)
        for name, after in (("tuned", perplexity(tuned, texts)), ("with the LoRA GGUF", perplexity(arguments.model, texts, lora))):
            check(after <= SHARE * before, f"{Path(arguments.model).name} {name}: perplexity {before:.2f} to {after:.2f}")
    print(f"{len(failures)} failed")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
