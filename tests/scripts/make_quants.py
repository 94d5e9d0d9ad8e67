#!/usr/bin/env python3
"""Writes random blocks of every storage type of ggml, and their values according to gguf's own reader.

    python3 tests/scripts/make_quants.py tests/fixtures/quants.safetensors
"""
import pathlib
import sys

import numpy
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import dequantize
from safetensors.numpy import save_file

# Where the f16 scales of a block lie; random bytes there would be infinities.
SCALES = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0], Type.Q2_K: [80, 82],
    Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208], Type.IQ4_NL: [0], Type.IQ4_XS: [0], Type.MXFP4: [],
}
BLOCKS = 5


def main(path: pathlib.Path) -> None:
    random = numpy.random.default_rng(11)
    tensors = {}
    for kind, offsets in SCALES.items():
        size = GGML_QUANT_SIZES[kind][1]
        blocks = random.integers(0, 256, (BLOCKS, size), dtype=numpy.uint8)
        for offset in offsets:
            scales = (random.standard_normal(BLOCKS) * 0.03).astype(numpy.float16)
            blocks[:, offset : offset + 2] = scales.view(numpy.uint8).reshape(BLOCKS, 2)
        if kind == Type.MXFP4:
            # Exponents; the first two are subnormal.
            blocks[:, 0] = [0, 1, 2, 127, 250]
        tensors[f"{kind.name}.bytes"] = blocks
        tensors[f"{kind.name}.values"] = dequantize(blocks, kind).astype(numpy.float32)
    save_file(tensors, path)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
