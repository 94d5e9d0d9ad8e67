#!/usr/bin/env python3
"""Writes the helper model of the example `score_answers`, and its results in onnx's own evaluator.

    python3 tests/scripts/make_onnx.py examples/assets

The model is a reward head that maps the last hidden state of an answer to a score between 0 and 1. The weights are random, from a fixed
seed, since the example only shows how an ONNX file becomes a burn module. Needs onnx 1.23.2 and numpy.
"""
import json
import pathlib
import sys

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

HIDDEN, INNER = 128, 32


def main(folder: pathlib.Path) -> None:
    random = numpy.random.default_rng(7)

    def weight(name, *shape):
        return numpy_helper.from_array((random.standard_normal(shape) / shape[0] ** 0.5).astype(numpy.float32), name)

    graph = helper.make_graph(
        [
            helper.make_node("LayerNormalization", ["hidden", "norm_weight", "norm_bias"], ["normed"], axis=-1, epsilon=1e-5),
            helper.make_node("Gemm", ["normed", "inner_weight", "inner_bias"], ["inner"]),
            helper.make_node("Tanh", ["inner"], ["bent"]),
            helper.make_node("Gemm", ["bent", "score_weight", "score_bias"], ["raw"]),
            helper.make_node("Sigmoid", ["raw"], ["score"]),
        ],
        "reward_head",
        [helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["answers", HIDDEN])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["answers", 1])],
        [
            numpy_helper.from_array(numpy.linspace(0.5, 1.5, HIDDEN, dtype=numpy.float32), "norm_weight"),
            numpy_helper.from_array(numpy.linspace(-0.1, 0.1, HIDDEN, dtype=numpy.float32), "norm_bias"),
            weight("inner_weight", HIDDEN, INNER),
            weight("inner_bias", INNER),
            weight("score_weight", INNER, 1),
            weight("score_bias", 1),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / "reward_head.onnx")
    hidden = random.standard_normal((3, HIDDEN)).astype(numpy.float32)
    (score,) = ReferenceEvaluator(model).run(None, {"hidden": hidden})
    golden = {"hidden": [[round(float(x), 6) for x in row] for row in hidden]}
    (score,) = ReferenceEvaluator(model).run(None, {"hidden": numpy.array(golden["hidden"], numpy.float32)})
    golden["score"] = [float(x) for x in score[:, 0]]
    (folder / "reward_head.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
