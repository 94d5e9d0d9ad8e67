#!/usr/bin/env python3
"""Weights in 8-bit floats as transformers and compressed-tensors store them, and what these make of them.

    pip install -r tests/scripts/requirements.txt
    python3 tests/scripts/make_fp8.py models/tests/fixtures/fp8
"""
import pathlib
import sys

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

ROWS, COLUMNS = 24, 32
BLOCK = (8, 8)


def eight_bits(dtype: torch.dtype) -> torch.Tensor:
    """Every finite value of the type several times, in another order each time."""
    codes = torch.arange(256, dtype=torch.uint8)
    codes = codes[codes.view(dtype).float().isfinite()]
    many = torch.cat([codes[torch.randperm(len(codes))] for _ in range(ROWS * COLUMNS // len(codes) + 1)])
    return many[: ROWS * COLUMNS].view(dtype).reshape(ROWS, COLUMNS)


def main(folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(7)
    e4m3, e5m2 = eight_bits(torch.float8_e4m3fn), eight_bits(torch.float8_e5m2)
    blocks = (ROWS // BLOCK[0], COLUMNS // BLOCK[1])
    scales = {
        "block": (e4m3, torch.rand(blocks) * 0.01),
        "brain": (e4m3, (torch.rand(blocks) * 0.01).bfloat16()),
        "powers": (e4m3, torch.exp2(torch.randint(-9, 3, blocks).float()).to(torch.float8_e8m0fnu)),
        "single": (e5m2, torch.tensor(0.0123)),
    }
    stored, values = {"model.norm.weight": torch.linspace(0.5, 1.5, COLUMNS).bfloat16()}, {}
    dequantize = Fp8Dequantize(None)._dequantize_one
    for name, (weight, scale) in scales.items():
        stored |= {f"{name}.weight": weight, f"{name}.weight_scale_inv": scale, f"{name}.activation_scale": torch.tensor(0.5)}
        for dtype in (torch.float32, torch.bfloat16):
            values[f"fp8.{name}.{str(dtype).removeprefix('torch.')}"] = dequantize(weight, scale, dtype).reshape(ROWS, COLUMNS)
    save_file({name: tensor.clone() for name, tensor in stored.items()}, folder / "fp8.safetensors")

    schemes = {
        "channel": (dict(strategy="channel"), torch.rand(ROWS, 1) * 0.01),
        "brain": (dict(strategy="channel"), (torch.rand(ROWS, 1) * 0.01).bfloat16()),
        "half": (dict(strategy="tensor"), torch.tensor([0.0123]).half()),
        "block": (dict(strategy="block", block_structure=list(BLOCK)), torch.rand(blocks) * 0.01),
    }
    stored = {}
    for name, (settings, scale) in schemes.items():
        weights = QuantizationArgs(num_bits=8, type="float", symmetric=True, **settings)
        scheme = QuantizationScheme(targets=["Linear"], weights=weights)
        stored |= {f"{name}.weight": e4m3, f"{name}.weight_scale": scale, f"{name}.input_scale": torch.tensor([0.5])}
        state = BaseCompressor.get_value_from_registry("float-quantized").decompress(
            {"weight": e4m3, "weight_scale": scale}, scheme)
        for dtype in (torch.float32, torch.bfloat16):
            values[f"compressed.{name}.{str(dtype).removeprefix('torch.')}"] = state["weight"].to(dtype)
    save_file({name: tensor.clone() for name, tensor in stored.items()}, folder / "compressed.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in values.items()}, folder / "values.safetensors")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
