#!/usr/bin/env python3
"""Writes packed weights and 8-bit moments as computed by bitsandbytes, MLX and ggml from the same values.

    pip install -r tests/scripts/requirements.txt
    python3 tests/scripts/make_quantized.py kernels/tests/fixtures/quantized.safetensors [libggml-base.so]

The library defaults to that of llama-cpp-python, built for plain x86-64, because fused multiply-adds round differently. The values are
computed by the same formula here and in the test, see `numbers`. bitsandbytes' CPU library finds 8-bit codes with a table of 65,536
steps; `nearest` uses its portable kernel instead, which is exact like its CUDA library.
"""
import ctypes
import math
import pathlib
import sys

import bitsandbytes.functional as bnb
import mlx.core as mx
import numpy
import torch
from safetensors.numpy import save_file
from torch._C import DispatchKey, DispatchKeySet

mx.set_default_device(mx.cpu)
TORCH = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
MLX = {"f32": mx.float32, "f16": mx.float16, "bf16": mx.bfloat16}
GGML = {"Q4_0": (2, 18), "Q4_1": (3, 20), "Q5_0": (6, 22), "Q5_1": (7, 24), "Q8_0": (8, 34),
        "Q2_K": (10, 84), "Q3_K": (11, 110), "Q4_K": (12, 144), "Q5_K": (13, 176), "Q6_K": (14, 210),
        "IQ4_NL": (20, 18), "IQ4_XS": (23, 136)}


def numbers(seed: int, count: int) -> numpy.ndarray:
    """f32 numbers around zero, exact in either language; some runs of 32 are zero, constant, of one sign, or tiny."""
    with numpy.errstate(over="ignore"):
        z = numpy.uint64(seed << 32) + numpy.arange(count, dtype=numpy.uint64)
        z = (z + numpy.uint64(1)) * numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z = z ^ (z >> numpy.uint64(31))
    a = (z >> numpy.uint64(40)).astype(numpy.int64) - (1 << 23)
    b = ((z >> numpy.uint64(16)) & numpy.uint64(0xFFFFFF)).astype(numpy.int64)
    x = ((a * b).astype(numpy.float64) * 2.0**-48).astype(numpy.float32)
    run = numpy.arange(count) // 32
    x = numpy.where(run % 17 == 3, numpy.float32(0.02), x)
    x = numpy.where(run % 13 == 5, numpy.float32(0), x)
    x = numpy.where(run % 13 == 7, abs(x), x)
    x = numpy.where(run % 13 == 9, -abs(x), x)
    return numpy.where(run % 19 == 4, x * numpy.float32(2.0**-12), x).astype(numpy.float32)


def nearest(values: torch.Tensor, code: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    kernel = DispatchKeySet(DispatchKey.CompositeExplicitAutograd)
    return torch.ops.bitsandbytes.quantize_blockwise.default.redispatch(kernel, values, code, 256)


def nf4(out: dict) -> None:
    for name, shape, dtypes in (("odd", (7, 33), TORCH), ("small", (9, 128), TORCH), ("large", (130, 128), ["f32"])):
        for dtype in dtypes:
            w = torch.from_numpy(numbers(1, math.prod(shape))).reshape(shape).to(TORCH[dtype])
            codes, state = bnb.quantize_4bit(w, quant_type="nf4")
            state.dtype = torch.float32
            key = f"nf4.{name}.{dtype}"
            out[f"{key}.codes"] = codes.numpy().ravel()
            out[f"{key}.absmax"] = state.absmax.numpy()
            values = bnb.dequantize_4bit(codes, state).numpy().ravel()
            double_codes, double = bnb.quantize_4bit(w, quant_type="nf4", compress_statistics=True)
            assert (double_codes == codes).all()
            out[f"{key}.nested_codes"] = double.absmax.numpy()
            out[f"{key}.nested_absmax"] = double.state2.absmax.numpy()
            out[f"{key}.nested_offset"] = double.offset.reshape(1).numpy()
            double.dtype = torch.float32
            double_values = bnb.dequantize_4bit(codes, double).numpy().ravel()
            # The ends are enough of what is only a product.
            ends = numpy.r_[0:200, -200:0]
            out[f"{key}.values"] = values[ends]
            out[f"{key}.nested_values"] = double_values[ends]
    out["dynamic.signed"] = bnb.create_dynamic_map(signed=True).numpy()
    out["dynamic.unsigned"] = bnb.create_dynamic_map(signed=False).numpy()


def bits(values: mx.array) -> numpy.ndarray:
    return numpy.array(values if values.dtype == mx.float32 else values.view(mx.uint16)).ravel()


def affine(out: dict) -> None:
    shape = (5, 128)
    for dtype in MLX:
        w = mx.array(numbers(2, math.prod(shape)).reshape(shape)).astype(MLX[dtype])
        for width in (4, 8):
            for group in (32, 64, 128):
                words, scales, biases = mx.quantize(w, group_size=group, bits=width)
                key = f"int{width}.{group}.{dtype}"
                out[f"{key}.words"] = numpy.array(words).ravel()
                out[f"{key}.scales"], out[f"{key}.biases"] = bits(scales), bits(biases)
                out[f"{key}.values"] = bits(mx.dequantize(words, scales, biases, group_size=group, bits=width))


def ggml(out: dict, path: str) -> None:
    class Traits(ctypes.Structure):
        _fields_ = [("type_name", ctypes.c_char_p), ("blck_size", ctypes.c_int64), ("blck_size_interleave", ctypes.c_int64),
                    ("type_size", ctypes.c_size_t), ("is_quantized", ctypes.c_bool), ("to_float", ctypes.c_void_p),
                    ("from_float_ref", ctypes.c_void_p)]

    library = ctypes.CDLL(path)
    library.ggml_get_type_traits.restype = ctypes.POINTER(Traits)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    floats = ctypes.POINTER(ctypes.c_float)
    rows, columns = 10, 512
    w = numbers(3, rows * columns)
    importance = numpy.square(numbers(5, columns))

    def quantize(kind: int, rows: int, size: int, weights: numpy.ndarray | None) -> numpy.ndarray:
        blocks = numpy.zeros(rows * size, numpy.uint8)
        given = None if weights is None else weights.ctypes.data_as(floats)
        library.ggml_quantize_chunk(ctypes.c_int(kind), w.ctypes.data_as(floats), blocks.ctypes.data_as(ctypes.c_void_p),
                                    ctypes.c_int64(0), ctypes.c_int64(rows), ctypes.c_int64(columns), given)
        return blocks

    for name, (kind, size) in GGML.items():
        traits = library.ggml_get_type_traits(kind).contents
        assert traits.type_size == size, (name, traits.type_size)
        blocks = quantize(kind, rows, columns // traits.blck_size * size, None)
        out[f"{name}.weighted"] = quantize(kind, 4, columns // traits.blck_size * size, importance)
        values = numpy.zeros(3 * columns, numpy.float32)
        to_float = ctypes.CFUNCTYPE(None, ctypes.c_void_p, floats, ctypes.c_int64)(traits.to_float)
        to_float(blocks.ctypes.data_as(ctypes.c_void_p), values.ctypes.data_as(floats), values.size)
        out[f"{name}.blocks"], out[f"{name}.values"] = blocks, values


def adamw(out: dict) -> None:
    """Steps of bitsandbytes' CPU optimizer, with its portable kernel for the codes."""
    from bitsandbytes.backends.cpu import ops

    def quantize(values, code, absmax, codes, block):
        found, scales = nearest(values, code)
        codes.copy_(found)
        absmax.copy_(scales)

    ops._quant_blockwise_fp32_direct = quantize
    count = 1000
    parameter = torch.from_numpy(numbers(4, count))
    maps = [bnb.create_dynamic_map(signed=True), bnb.create_dynamic_map(signed=False)]
    codes = [torch.full((count,), int((m == 0).nonzero()), dtype=torch.uint8) for m in maps]
    absmax = [torch.zeros(-(-count // 256)) for _ in maps]
    for step in (1, 2, 3):
        gradient = torch.from_numpy(numbers(4 + step, count))
        ops._optimizer_update_8bit_blockwise_cpu(
            "adam", gradient, parameter, codes[0], codes[1], 0.9, 0.999, 0.0, 0.0, 1e-8, step, 1e-2, *maps, *absmax,
            0.1, 1.0)
        out[f"adamw.{step}.parameter"] = parameter.numpy().copy()
        for name, c, a in zip(("first", "second"), codes, absmax):
            out[f"adamw.{step}.{name}.codes"], out[f"adamw.{step}.{name}.absmax"] = c.numpy().copy(), a.numpy().copy()


def main(path: pathlib.Path, library: str | None) -> None:
    if library is None:
        import llama_cpp
        library = str(pathlib.Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so")
    out = {}
    nf4(out)
    affine(out)
    ggml(out, library)
    adamw(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: numpy.ascontiguousarray(tensor) for name, tensor in out.items()}, path)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
