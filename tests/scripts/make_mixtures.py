"""Writes which storage type llama.cpp gives each tensor of small models of several shapes, in every mixture.

    python tests/scripts/make_mixtures.py export/tests/fixtures/mixtures.json

Versions: requirements.txt.
"""

import ctypes
import itertools
import json
import sys
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np
from gguf import GGUFReader, GGUFWriter

FILE_TYPES = {"q4_0": 2, "q4_1": 3, "q5_0": 8, "q5_1": 9, "q8_0": 7, "q2_k": 10, "q3_k_s": 11, "q3_k_m": 12, "q3_k_l": 13, "q4_k_s": 14,
              "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18, "iq4_nl": 25, "iq4_xs": 30}

# llama.cpp calls it as long as the program runs.
SILENT = llama_cpp.llama_log_callback(lambda *_: None)


def case(architecture, layers, heads, kv_heads, hidden=256, inner=256, tied=True, fused=False, importance=False):
    attention = {"attn_qkv.weight": hidden} if fused else {f"attn_{part}.weight": hidden for part in "qkv"}
    up = {"ffn_up.weight": hidden} if fused else {"ffn_gate.weight": hidden, "ffn_up.weight": hidden}
    block = {**attention, "attn_output.weight": hidden, **up, "ffn_down.weight": inner}
    outside = {"token_embd.weight": hidden, **({} if tied else {"output.weight": hidden})}
    return dict(architecture=architecture, layers=layers, heads=heads, kv_heads=kv_heads, importance=importance,
                columns={"outside": outside, "block": block})


CASES = {
    "shared values": case("llama", 24, 8, 2),
    "own head and values": case("llama", 17, 4, 4, tied=False),
    "with importance": case("llama", 24, 8, 4, importance=True),
    "rows of 288 and 100": case("llama", 9, 8, 2, hidden=288, inner=100),
    "rows of 320 and 512": case("qwen3", 30, 4, 1, hidden=320, inner=512, tied=False),
    "fused": case("phi3", 32, 8, 8, fused=True, tied=False),
    "70B": case("llama", 80, 8, 1, tied=False),
    "72B of Qwen2": case("qwen2", 80, 8, 8, tied=False),
    "80 layers of Qwen3": case("qwen3", 80, 8, 8, tied=False),
}


def tensors(shape):
    """Every matrix with the number of its columns."""
    yield from shape["columns"]["outside"].items()
    for layer, (name, columns) in itertools.product(range(shape["layers"]), shape["columns"]["block"].items()):
        yield f"blk.{layer}.{name}", columns


def write(path, shape):
    writer = GGUFWriter(path, shape["architecture"])
    writer.add_block_count(shape["layers"])
    writer.add_context_length(64)
    writer.add_embedding_length(shape["columns"]["outside"]["token_embd.weight"])
    writer.add_feed_forward_length(shape["columns"]["block"]["ffn_down.weight"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    if shape["architecture"] == "phi3":
        writer.add_rope_dimension_count(32)
    for name, columns in tensors(shape):
        writer.add_tensor(name, np.ones((2, columns), np.float32))
        if "attn_output" in name:
            writer.add_tensor(name.replace("attn_output", "attn_norm"), np.ones(columns, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(source, target, shape, file_type):
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.nthread, parameters.ftype = 1, file_type
    if shape["importance"]:
        kept = [(name.encode(), np.ones(columns, np.float32)) for name, columns in tensors(shape)]
        data = (llama_cpp.llama_cpp.llama_model_imatrix_data * (len(kept) + 1))()
        for entry, (name, values) in zip(data, kept):
            entry.name, entry.size, entry.data = name, values.size, values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        parameters.imatrix = ctypes.cast(data, type(parameters.imatrix))
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters)) == 0


def runs(names):
    """`Q6_K*2 Q4_K` for a list of types."""
    grouped = [(name, len(list(group))) for name, group in itertools.groupby(names)]
    return " ".join(name if count == 1 else f"{name}*{count}" for name, count in grouped)


def main(path):
    llama_cpp.llama_log_set(SILENT, ctypes.c_void_p())
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "f32.gguf", Path(folder) / "quantised.gguf"
        for shape in CASES.values():
            write(source, shape)
            shape["types"] = {}
            for mixture, file_type in FILE_TYPES.items():
                quantize(source, target, shape, file_type)
                found = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(target).tensors}
                of = {name: found[name] for name in shape["columns"]["outside"]}
                for name in shape["columns"]["block"]:
                    of[name] = runs(found[f"blk.{layer}.{name}"] for layer in range(shape["layers"]))
                assert all(kind == "F32" for name, kind in found.items() if "norm" in name)
                shape["types"][mixture] = of
    # A line per mixture.
    text = json.dumps(CASES, indent=1).replace("\n    ", " ").replace("\n   }", " }")
    Path(path).write_text(text + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
