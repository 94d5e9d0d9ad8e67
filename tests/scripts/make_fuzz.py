"""Writes the files that fuzzing begins with, where no fixture has the format: GGUF files of a tiny model, and compressed rows.

    python tests/scripts/make_fuzz.py tests/fuzz/corpus

Versions: requirements.txt, and zstandard 0.25.0.
"""

import gzip
import sys
from pathlib import Path

import numpy as np
import zstandard
from gguf import GGUFWriter, GGMLQuantizationType as Type
from gguf.quants import quantize

ROWS = b'{"prompt": "a", "completion": "b"}\n{"text": "c d e"}\n' * 20


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def model(path, part=False):
    writer = GGUFWriter(path, "llama")
    for add, value in ((writer.add_block_count, 1), (writer.add_context_length, 64), (writer.add_embedding_length, 32),
                       (writer.add_feed_forward_length, 32), (writer.add_head_count, 2), (writer.add_head_count_kv, 2)):
        add(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", "\u2581", "a", "b", "ab", "<0x41>"])
    writer.add_token_scores([-float(at) for at in range(8)])
    writer.add_token_types([2, 3, 3, 1, 1, 1, 1, 6])
    writer.add_bos_token_id(1)
    writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")
    if part:
        writer.add_uint16("split.no", 0)
        writer.add_uint16("split.count", 2)
        writer.add_int32("split.tensors.count", 9)
    values = np.linspace(-1, 1, 8 * 32, dtype=np.float32).reshape(8, 32)
    for name, kind in (("token_embd.weight", Type.Q4_0), ("blk.0.attn_q.weight", Type.Q8_0), ("blk.0.ffn_up.weight", Type.Q5_1),
                       ("blk.0.ffn_down.weight", Type.F16), ("blk.0.attn_k.weight", Type.BF16)):
        writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    writer.add_tensor("output_norm.weight", np.ones(32, np.float32))
    finish(writer)


def imatrix(path):
    writer = GGUFWriter(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["rows.jsonl"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 64)
    for name in ("blk.0.attn_q.weight", "blk.0.ffn_up.weight"):
        writer.add_tensor(f"{name}.in_sum2", np.ones((1, 32), np.float32))
        writer.add_tensor(f"{name}.counts", np.full((1, 1), 8, np.float32))
    finish(writer)


def main(corpus):
    folders = {name: Path(corpus) / name for name in ("gguf", "imatrix", "compressed")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    model(folders["gguf"] / "model.gguf")
    model(folders["gguf"] / "first_part.gguf", part=True)
    imatrix(folders["imatrix"] / "imatrix.gguf")
    (folders["compressed"] / "rows.jsonl.gz").write_bytes(gzip.compress(ROWS, mtime=0))
    (folders["compressed"] / "rows.jsonl.zst").write_bytes(zstandard.compress(ROWS))


if __name__ == "__main__":
    main(sys.argv[1])
