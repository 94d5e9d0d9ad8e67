#!/usr/bin/env python3
"""Files that torch.save writes, and the values of their tensors; the model and the adapter of a parity folder in that format.

    pip install -r tests/scripts/requirements.txt
    python3 tests/scripts/make_pytorch.py tests/fixtures
"""
import collections
import json
import pathlib
import sys

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def views() -> dict[str, torch.Tensor]:
    """A tensor of every dtype, and every way in which a tensor can lie in its storage."""
    torch.manual_seed(3)
    base = torch.randn(6, 8)
    halves = torch.randn(5, 7)
    return {
        "float32": base,
        "float64": torch.randn(2, 3, dtype=torch.float64),
        "float16": halves.half(),
        "bfloat16": halves.bfloat16(),
        "float8_e4m3fn": halves.to(torch.float8_e4m3fn),
        "float8_e5m2": halves.to(torch.float8_e5m2),
        "int64": torch.arange(-2, 5),
        "int32": torch.arange(4, dtype=torch.int32),
        "int16": torch.arange(4, dtype=torch.int16),
        "int8": torch.arange(-3, 4, dtype=torch.int8),
        "uint8": torch.arange(4, dtype=torch.uint8),
        "uint16": torch.tensor([0, 1, 65535], dtype=torch.uint16),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        # All of these are in the storage of the first.
        "shared": base,
        "transposed": base.t(),
        "offset": base[2:4],
        "columns": base[:, 3:5],
        "strided": base[::2, ::3],
        "permuted": base.view(2, 3, 8).permute(2, 0, 1),
        "one_row": base[1:2].t(),
        "expanded": base[0, :2].expand(3, 2),
        "parameter": torch.nn.Parameter(base[:3].clone()),
    }


def main(fixtures: pathlib.Path) -> None:
    folder = fixtures / "pytorch"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = views()
    state = collections.OrderedDict(tensors)
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    torch.save(state, folder / "views.bin")
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, folder / "views.safetensors")

    few = {"weight": tensors["float32"][:2].clone(), "bias": tensors["float16"][0].clone()}
    training = {"model": few, "epoch": 3, "loss": 0.25, "done": False, "names": ["a", "b"], "best": None, "seed": 1 << 80}
    torch.save(training, folder / "nested.pt")
    torch.save(few, folder / "protocol4.pt", pickle_protocol=4)
    torch.save(few, folder / "legacy.bin", _use_new_zipfile_serialization=False)
    torch.save(torch.nn.Linear(2, 2), folder / "module.pt")

    # A model in shards, as save_pretrained of transformers 4 wrote it.
    parity = fixtures / "parity" / "biased"
    with safe_open(parity / "model.safetensors", "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}
    shards, weight_map = [{}, {}], {}
    for at, (name, tensor) in enumerate(sorted(weights.items())):
        shards[at % 2][name] = tensor
        weight_map[name] = f"pytorch_model-{at % 2 + 1:05}-of-00002.bin"
    model = folder / "model"
    model.mkdir(exist_ok=True)
    for at, shard in enumerate(shards):
        torch.save(shard, model / f"pytorch_model-{at + 1:05}-of-00002.bin")
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (model / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1) + "\n")
    torch.save(load_file(parity / "adapter" / "adapter_model.safetensors"), folder / "adapter_model.bin")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
