"""Quantises with Burnish and with llama.cpp, and compares blocks, errors, types, sizes, perplexities and speed.

    python tests/scripts/judge_quants.py target/release/burnish MODEL.gguf…

Random tensors 2,048 wide (normal, heavy tails, outliers), with and without an importance matrix: gguf must decode Burnish's blocks to
a mean squared error of at most 1.02 of that of `ggml_quantize_chunk`. Of each model, which Burnish first writes in f16, every mixture
must have the types, the metadata and the size of `llama_model_quantize`'s, and four a perplexity within 1 %; then the time of Q4_K_M
is compared, on two threads. The models of README.md's tests are fetched by fetch_models.sh. Versions: requirements.txt.
"""

import ctypes
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from pydoc_data.topics import topics

import llama_cpp
import numpy as np
from gguf import GGUFReader, GGUFWriter, GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

ROWS, COLUMNS = 96, 2048
ERROR, PERPLEXITY, THREADS = 1.02, 0.01, 2
# Each mixture with its `llama_ftype`, and the type of its matrices that nothing is special about.
MIXTURES = {
    "q4_0": (2, Type.Q4_0), "q4_1": (3, Type.Q4_1), "q5_0": (8, Type.Q5_0), "q5_1": (9, Type.Q5_1), "q8_0": (7, Type.Q8_0),
    "q2_k": (10, Type.Q2_K), "q3_k_s": (11, Type.Q3_K), "q3_k_m": (12, Type.Q3_K), "q3_k_l": (13, Type.Q3_K),
    "q4_k_s": (14, Type.Q4_K), "q4_k_m": (15, Type.Q4_K), "q5_k_s": (16, Type.Q5_K), "q5_k_m": (17, Type.Q5_K), "q6_k": (18, Type.Q6_K),
    "iq4_nl": (25, Type.IQ4_NL), "iq4_xs": (30, Type.IQ4_XS),
}
READ = ["q4_k_m", "q5_k_m", "q6_k", "q3_k_m"]
TEXT = "\n".join(topics[name] for name in ("assignment", "attribute-access", "booleans", "class", "compound"))[:14_000]
FLOATS = ctypes.POINTER(ctypes.c_float)
# llama.cpp calls it as long as the program runs.
SILENT = llama_cpp.llama_log_callback(lambda *_: None)

failures = []


def check(holds, what):
    if not holds:
        failures.append(what)
        print("FAILED:", what)


def burnish(program, *arguments):
    environment = {**os.environ, "RAYON_NUM_THREADS": str(THREADS)}
    subprocess.run([program, "-q", *map(str, arguments)], check=True, env=environment, stdout=subprocess.DEVNULL)


def ggml(kind, values, importance):
    """The blocks that llama.cpp makes of a matrix."""
    library = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    elements, size = GGML_QUANT_SIZES[kind]
    blocks = np.zeros((values.shape[0], values.shape[1] // elements * size), np.uint8)
    given = None if importance is None else importance.ctypes.data_as(FLOATS)
    library.ggml_quantize_chunk(ctypes.c_int(kind), values.ctypes.data_as(FLOATS), blocks.ctypes.data_as(ctypes.c_void_p),
                                ctypes.c_int64(0), ctypes.c_int64(values.shape[0]), ctypes.c_int64(values.shape[1]), given)
    return blocks


def random_tensors():
    random = np.random.default_rng(5)
    normal = random.standard_normal((ROWS, COLUMNS)).astype(np.float32) * np.float32(0.02)
    heavy = (random.standard_t(3, (ROWS, COLUMNS)) * 0.02).astype(np.float32)
    outliers = normal[::-1].copy()
    outliers[random.random(outliers.shape) < 0.001] *= 50
    # Groups of zeros, of one value, of one sign, and of tiny values.
    outliers[1, 256:1024], outliers[2, :300], outliers[5] = 0, 0.01, outliers[5] * 1e-20
    outliers[3], outliers[4] = -np.abs(outliers[3]), np.abs(outliers[4]) + 0.1
    return {"blk.0.ffn_gate.weight": normal, "blk.0.ffn_up.weight": heavy, "blk.0.attn_q.weight": outliers}


def write_random(path, tensors):
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(COLUMNS)
    writer.add_feed_forward_length(ROWS)
    writer.add_head_count(16)
    writer.add_layer_norm_rms_eps(1e-5)
    for name, values in {**tensors, "token_embd.weight": np.zeros((32, COLUMNS), np.float32)}.items():
        writer.add_tensor(name, values)
    finish(writer)


def write_importance(path, importance):
    """A file as llama-imatrix writes it: sums of squares, and how many there were."""
    writer = GGUFWriter(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["text.txt"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, means in importance.items():
        writer.add_tensor(f"{name}.in_sum2", (means * 512).reshape(1, -1))
        writer.add_tensor(f"{name}.counts", np.full((1, 1), 512, np.float32))
    finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def judge_blocks(program, work):
    tensors = random_tensors()
    random = np.random.default_rng(6)
    means = {name: np.square(random.standard_normal(COLUMNS)).astype(np.float32) for name in tensors}
    write_random(work / "random.gguf", tensors)
    write_importance(work / "imatrix.gguf", means)
    print("mean squared error against ggml_quantize_chunk, and blocks that differ, for normal weights, heavy tails, outliers")
    done = set()
    for mixture, (_, kind) in MIXTURES.items():
        if kind in done:
            continue
        done.add(kind)
        for flags, label in (([], ""), (["--imatrix", work / "imatrix.gguf"], " with imatrix")):
            target = work / "blocks.gguf"
            burnish(program, "quantize", work / "random.gguf", target, "--quant", mixture, "--overwrite", *flags)
            written = {tensor.name: tensor for tensor in GGUFReader(target).tensors}
            line = []
            for name, values in tensors.items():
                importance = means[name] if flags else None
                weights = importance if flags else np.float32(1)
                check(written[name].tensor_type == kind, f"{mixture}: {name} is {written[name].tensor_type.name}")
                expected, found = ggml(kind, values, importance), written[name].data
                errors = [float((weights * np.square(dequantize(blocks, kind) - values)).mean()) for blocks in (found, expected)]
                size = GGML_QUANT_SIZES[kind][1]
                differ = int((found.reshape(-1, size) != expected.reshape(-1, size)).any(1).sum())
                ratio = errors[0] / errors[1]
                check(ratio <= ERROR, f"{mixture}{label}: {name} has {ratio:.4f} times the error")
                line.append(f"{ratio:.4f} ({differ}/{found.size // size})")
            print(f"{kind.name + label:20} {'  '.join(line)}")


def llama_quantize(source, target, file_type):
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.nthread, parameters.ftype = THREADS, file_type
    failed = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters))
    assert failed == 0, f"llama.cpp can't quantise {source}"


def metadata(reader):
    """Every key with its type and bytes, but not those of the header's counts."""
    fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    return {name: [bytes(part.tobytes()) for part in field.parts[2:]] for name, field in fields.items()}


def perplexity(path):
    model = llama_cpp.Llama(str(path), n_ctx=512, n_batch=512, logits_all=True, verbose=False, n_threads=THREADS)
    ids = model.tokenize(TEXT.encode())
    losses = []
    for start in range(0, len(ids) - 256, 512):
        part = ids[start:start + 512]
        model.reset()
        model.eval(part)
        for logits, token in zip(model.scores, part[1:]):
            logits = logits - logits.max()
            losses.append(np.log(np.exp(logits).sum(dtype=np.float64)) - logits[token])
    model.close()
    return float(np.exp(np.mean(losses))), len(losses)


def judge_model(program, model, work):
    source, ours, theirs = (work / f"{model.stem}-{name}.gguf" for name in ("f16", "ours", "theirs"))
    burnish(program, "export", "--model", model, "--format", "gguf", "--quant", "f16", "--output", source)
    base, count = perplexity(source)
    print(f"\n{model.name}: perplexity in f16 {base:.4f} ({count} tokens)")
    for mixture, (file_type, _) in MIXTURES.items():
        burnish(program, "quantize", source, ours, "--quant", mixture, "--overwrite")
        llama_quantize(source, theirs, file_type)
        found, expected = GGUFReader(ours), GGUFReader(theirs)
        kinds = [{tensor.name: tensor.tensor_type.name for tensor in file.tensors} for file in (found, expected)]
        sizes = [path.stat().st_size for path in (ours, theirs)]
        other = {name: (kind, kinds[1].get(name)) for name, kind in kinds[0].items() if kinds[1].get(name) != kind}
        check(kinds[0] == kinds[1], f"{model.name} {mixture}: types {other}")
        check(sizes[0] == sizes[1], f"{model.name} {mixture}: {sizes[0]} bytes, llama.cpp {sizes[1]}")
        check(metadata(found) == metadata(expected), f"{model.name} {mixture}: metadata")
        data = {tensor.name: tensor.data for tensor in expected.tensors}
        same = sum(np.array_equal(tensor.data, data[tensor.name]) for tensor in found.tensors)
        line = f"{mixture:7} {sizes[0]:>11} bytes, {same} of {len(data)} tensors equal to the bit"
        if mixture in READ:
            a, _ = perplexity(ours)
            # Files with the same tensors and metadata have one perplexity.
            b = a if same == len(data) else perplexity(theirs)[0]
            check(abs(a / b - 1) <= PERPLEXITY, f"{model.name} {mixture}: perplexity {a:.4f}, llama.cpp {b:.4f}")
            line += f", perplexity {a:.4f}" + ("" if same == len(data) else f", llama.cpp {b:.4f}")
        print(line, flush=True)
    judge_requantizing(program, ours, work)
    judge_speed(program, source, ours, theirs)


def judge_requantizing(program, quantised, work):
    target = work / "again.gguf"
    command = [program, "quantize", quantised, target, "--quant", "q4_1"]
    refused = subprocess.run(command, capture_output=True, text=True)
    check(refused.returncode == 1 and "--requantize" in refused.stderr and not target.exists(), "requantising is refused")
    burnish(program, *command[1:], "--requantize")
    check(target.exists(), "requantising with --requantize")
    target.unlink()


def judge_speed(program, source, ours, theirs):
    def best(run):
        times = []
        for _ in range(3):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return min(times)

    a = best(lambda: burnish(program, "quantize", source, ours, "--quant", "q4_k_m", "--overwrite"))
    b = best(lambda: llama_quantize(source, theirs, MIXTURES["q4_k_m"][0]))
    resident = peak([program, "-q", "quantize", source, ours, "--quant", "q4_k_m", "--overwrite"])
    print(f"q4_k_m on {THREADS} threads: {a:.2f} s, llama.cpp {b:.2f} s: {b / a:.2f} of its speed; {resident:.0f} MiB resident at most")


def peak(command):
    """The most memory that a program has resident, in MiB. `ru_maxrss` of a child would begin with that of this process."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    most = 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        most = max([most] + [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")])
        time.sleep(0.002)
    return most / 1024


def main(program, models):
    llama_cpp.llama_log_set(SILENT, ctypes.c_void_p())
    with tempfile.TemporaryDirectory() as folder:
        judge_blocks(program, Path(folder))
        for model in models:
            judge_model(program, Path(model), Path(folder))
    print(f"\n{len(failures)} failed")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
