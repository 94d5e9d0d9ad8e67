#!/usr/bin/env python3
"""An adapter as llama.cpp's converter and as mlx-lm write it, and a model as mlx-lm quantises it.

    pip install -r tests/scripts/requirements.txt
    python3 tests/scripts/make_leave.py LLAMA_CPP tests/fixtures/leave

LLAMA_CPP is the source tree of llama.cpp that llama-cpp-python was built from. The adapter and the model are those of the case `llama`
of make_parity.py.
"""
import argparse
import json
import pathlib
import shutil
import subprocess
import sys

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model, quantize_model, save_config, save_model
from safetensors.numpy import load_file

CASE = pathlib.Path(__file__).parents[1] / "fixtures/parity/llama"


def mlx_adapter(folder: pathlib.Path) -> None:
    """As the end of mlx_lm.lora: the trainable parameters, and the arguments."""
    folder.mkdir(parents=True, exist_ok=True)
    model, _ = load_model(CASE)
    peft = json.loads((CASE / "adapter/adapter_config.json").read_text())
    keys = sorted({name.split(".", 5)[-1].rsplit(".", 2)[0] for name in load_file(CASE / "adapter/adapter_model.safetensors")})
    parameters = dict(rank=peft["r"], scale=peft["lora_alpha"] / peft["r"], dropout=0.0, keys=keys)
    model.freeze()
    linear_to_lora_layers(model, len(model.layers), parameters)
    factors = {}
    for name, values in load_file(CASE / "adapter/adapter_model.safetensors").items():
        name = name.removeprefix("base_model.model.")
        name = name.replace("lora_A.weight", "lora_a").replace("lora_B.weight", "lora_b")
        factors[name] = mx.array(values.T)
    model.load_weights(list(factors.items()), strict=False)
    trained = dict(tree_flatten(model.trainable_parameters()))
    assert trained.keys() == factors.keys(), trained.keys() ^ factors.keys()
    mx.save_safetensors(str(folder / "adapters.safetensors"), trained)
    config = dict(fine_tune_type="lora", lora_parameters=parameters, num_layers=len(model.layers), model="llama")
    save_config(config, folder / "adapter_config.json")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("llama_cpp", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    arguments = parser.parse_args()
    shutil.rmtree(arguments.folder, ignore_errors=True)
    arguments.folder.mkdir(parents=True)
    mx.set_default_device(mx.cpu)
    converter = arguments.llama_cpp / "convert_lora_to_gguf.py"
    subprocess.run([sys.executable, converter, "--base", CASE, "--outfile", arguments.folder / "adapter.gguf", CASE / "adapter"],
                   check=True)
    mlx_adapter(arguments.folder / "mlx-adapter")
    model, config = load_model(CASE)
    model.set_dtype(mx.bfloat16)
    model, config = quantize_model(model, config, group_size=32, bits=4)
    save_model(arguments.folder / "mlx-int4", model)
    save_config(config, arguments.folder / "mlx-int4/config.json")


if __name__ == "__main__":
    main()
