"""Opens GGUF files in parts that Burnish writes with llama.cpp, and the other way round.

    python tests/scripts/judge_parts.py target/release/burnish MODEL.gguf…

Parts that `export` and `quantize` write must give llama.cpp's logits of the whole file, to the bit. Parts that llama.cpp's quantisation
(`keep_split`) and gguf's writer make must be read: what Burnish writes from them must have the tensors of what it writes from the whole.
The models are fetched by fetch_models.sh. Versions: requirements.txt.
"""

import ctypes
import subprocess
import sys
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np
from gguf import GGUFReader, GGUFWriter

SIZE, TEXT = "40MB", "The tide comes in twice a day, and"
Q8_0 = 7
# llama.cpp calls it as long as the program runs.
SILENT = llama_cpp.llama_log_callback(lambda *_: None)

failures = []


def check(holds, what):
    print("ok:" if holds else "FAILED:", what)
    if not holds:
        failures.append(what)


def burnish(program, *arguments):
    subprocess.run([program, "-q", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def logits(path):
    model = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False)
    model.eval(model.tokenize(TEXT.encode()))
    scores = model.scores[:model.n_tokens].copy()
    model.close()
    return scores


def parts(folder, stem):
    return sorted(folder.glob(f"{stem}-0*-of-0*.gguf"))


def tensors(paths):
    return {tensor.name: (tensor.tensor_type, tensor.data.tobytes()) for path in paths for tensor in GGUFReader(path).tensors}


def by_gguf(whole, target):
    """The model again, divided by gguf's writer as its converter does."""
    reader = GGUFReader(whole)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents(), split_max_tensors=100)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name, field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def judge(program, model, work):
    whole, q8 = work / "whole.gguf", work / "q8.gguf"
    common = ["--format", "gguf", "--quant", "f16", "--no-modelfile", "--output"]
    burnish(program, "export", "--model", model, *common, whole)
    burnish(program, "export", "--model", model, *common, work / "m.gguf", "--max-shard-size", SIZE)
    own = parts(work, "m")
    check(len(own) > 2 and not (work / "m.gguf").exists(), f"{model.name}: {len(own)} parts of {SIZE}")
    check(tensors(own) == tensors([whole]), "the parts have the tensors of the whole")
    check(np.array_equal(logits(own[0]), logits(whole)), "llama.cpp computes the same from parts of `export`")
    burnish(program, "quantize", whole, q8, "--quant", "q8_0")
    burnish(program, "quantize", own[0], work / "q.gguf", "--quant", "q8_0", "--max-shard-size", SIZE)
    check(np.array_equal(logits(parts(work, "q")[0]), logits(q8)), "llama.cpp computes the same from parts of `quantize`")
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.nthread, parameters.ftype, parameters.keep_split = 2, Q8_0, True
    failed = llama_cpp.llama_model_quantize(str(own[0]).encode(), str(work / "theirs").encode(), ctypes.byref(parameters))
    theirs = parts(work, "theirs")
    check(failed == 0 and len(theirs) == len(own), "llama.cpp quantises the parts into as many")
    by_gguf(whole, work / "gguf.gguf")
    for name, first, base in (("llama.cpp", theirs[0], q8), ("gguf", parts(work, "gguf")[0], whole)):
        for quant in ("f16", "q8_0"):
            targets = [work / f"{name}-{quant}-{kind}.gguf" for kind in ("parts", "whole")]
            for source, target in zip((first, base), targets):
                burnish(program, "export", "--model", source, "--format", "gguf", "--quant", quant, "--no-modelfile", "--output", target)
            check(tensors(targets[:1]) == tensors(targets[1:]), f"{quant} from parts of {name} is that from the whole")
    second = subprocess.run([program, "export", "--model", theirs[1], *common, work / "no.gguf"], capture_output=True, text=True)
    check(second.returncode == 1 and f"open the first, {theirs[0]}" in second.stderr, "the second part names the first")


def main(program, models):
    llama_cpp.llama_log_set(SILENT, ctypes.c_void_p())
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            judge(program, Path(model), Path(folder))
    print(f"{len(failures)} failed")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
