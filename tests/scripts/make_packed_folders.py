#!/usr/bin/env python3
"""Two layers and a norm as bitsandbytes and MLX save them, and the weights that they stand for.

    pip install -r tests/scripts/requirements.txt
    python3 tests/scripts/make_packed_folders.py models/tests/fixtures/packed
"""
import pathlib
import sys

import bitsandbytes
import mlx.core as mx
import mlx.nn as nn
import numpy
import torch
from bitsandbytes.functional import dequantize_blockwise
from safetensors.torch import save_file
from torch._C import DispatchKey, DispatchKeySet

SHAPES = {"q_proj": (6, 128), "down_proj": (16, 96)}


def dequantize(codes: torch.Tensor, state) -> torch.Tensor:
    """By the portable kernel: the CPU library takes other scales where a block does not divide a row."""
    absmax = dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
    kernel = DispatchKeySet(DispatchKey.CompositeExplicitAutograd)
    operation = torch.ops.bitsandbytes.dequantize_4bit.default
    return operation.redispatch(kernel, codes, absmax, state.blocksize, "nf4", state.shape, torch.float32)


def main(folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    mx.set_default_device(mx.cpu)
    random = numpy.random.default_rng(5)
    weights = {name: (random.standard_normal(shape) * 0.05).astype(numpy.float32) for name, shape in SHAPES.items()}
    norm = torch.linspace(0.5, 1.5, 128).bfloat16()

    tensors, values = {"norm.weight": norm}, {}
    for name, weight in weights.items():
        layer = bitsandbytes.nn.Linear4bit(weight.shape[1], weight.shape[0], bias=False, quant_type="nf4")
        # One is double-quantised, the other not.
        packed = bitsandbytes.nn.Params4bit(
            torch.from_numpy(weight).bfloat16(), requires_grad=False, quant_type="nf4", compress_statistics=name == "q_proj")
        layer.weight = packed
        layer = layer.to("cpu")
        tensors |= {f"{name}.{part}": tensor for part, tensor in layer.state_dict().items()}
        values[f"bitsandbytes.{name}.weight"] = dequantize(layer.weight.data, layer.weight.quant_state)
        assert (values[f"bitsandbytes.{name}.weight"] - torch.from_numpy(weight)).abs().max() < 0.03
    values["bitsandbytes.norm.weight"] = norm.float()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "bitsandbytes.safetensors")

    tensors = {"norm.weight": mx.array(norm.float().numpy()).astype(mx.bfloat16)}
    for name, weight in weights.items():
        bits, group = (4, 64) if name == "q_proj" else (8, 32)
        layer = nn.QuantizedLinear.from_linear(nn.Linear(*weight.shape[::-1], bias=False), group_size=group, bits=bits)
        words, scales, biases = mx.quantize(mx.array(weight).astype(mx.bfloat16), group_size=group, bits=bits)
        layer.weight, layer.scales, layer.biases = words, scales, biases
        tensors |= {f"{name}.{part}": getattr(layer, part) for part in ("weight", "scales", "biases")}
        # In f32, as MLX's products take them, without the roundings of its `dequantize`.
        dense = mx.dequantize(words, scales.astype(mx.float32), biases.astype(mx.float32), group_size=group, bits=bits)
        values[f"mlx.{name}.weight"] = torch.from_numpy(numpy.array(dense))
    values["mlx.norm.weight"] = norm.float()
    mx.save_safetensors(str(folder / "mlx.safetensors"), tensors)
    save_file(values, folder / "values.safetensors")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
