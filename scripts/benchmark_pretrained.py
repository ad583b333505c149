"""How far networks of other libraries are from the answers of these: every architecture at full depth, at two sizes.

Weights come from ``golden_weights``; the answers, 32 outputs of one image at each size, from tests/models/golden, where
the scripts ``golden_pretrained_*`` have put them under the names of ``jp.models.ARCHITECTURES``.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import golden_weights
import jax
import jax.numpy as jnp
import numpy as np
from benchmark_rows import Row, timed

import jaxprune as jp
from jaxprune.models import ARCHITECTURES, Architecture, mapping

GOLDEN = Path(__file__).parents[1] / "tests/models/golden"
# max |a - b| / max |b| of the outputs, in float32.
AT_MOST = 1e-5


def transformers(rounds: int) -> Iterator[Row]:
    """Compares vision transformers and Swin-V2.  The numbers are not of time: one round says all."""
    del rounds
    for name, answer in json.loads((GOLDEN / "vit_full.json").read_text()).items():
        yield from compared(ARCHITECTURES[name], answer)


def residual(rounds: int) -> Iterator[Row]:
    """Compares residual networks, as ``transformers`` does its own."""
    del rounds
    for name, answer in json.loads((GOLDEN / "resnet_full.json").read_text()).items():
        yield from compared(ARCHITECTURES[name], answer)


def compared(source: Architecture, answer: dict[str, Any]) -> Iterator[Row]:
    """Fills a network by the names of its source, and compares its outputs at each size of the answers.

    Args:
      source: the network's architecture.
      answer: "shapes", the hash of names and shapes, "outputs", the first of them for each size, and "scaled", factors
        of some weights, where there are any.
    """
    module = source.module(source.classes, source.image)
    layout, side = source.layout(module), source.image
    like = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))
    shapes = mapping.shapes(layout, like)
    written = {key: value.shape for key, value in layout.added.items() if value is not None}
    if shapes_hash(shapes | written) != answer["shapes"]:
        yield Row(f"{source.name}: relative error", missing="names or shapes differ from those of the source")
        return
    variables = mapping.read(layout, weights(shapes, answer.get("scaled", {})), like)
    params = variables.pop("params")
    for text, expected in answer["outputs"].items():
        size, there, resized = int(text), params, module
        if source.resize is not None and size != source.image:
            resized, there = source.resize(module, params, size)
        network, images = jax.device_put(resized.network(there, variables)), golden_weights.images(size, 1)
        seconds, outputs = timed(lambda network=network, images=images: _answered(network, images))
        apart = np.abs(np.asarray(outputs)[0, : len(expected)] - expected)
        error = float(np.max(apart) / np.max(np.abs(expected)))
        yield Row(f"{source.name}, {text} pixels: relative error", (error,), "", at_most=AT_MOST, first=seconds)


def weights(shapes: dict[str, Any], scaled: dict[str, float]) -> dict[str, np.ndarray]:
    """Fills the tensors of a file, those whose whole name a regular expression matches times its factor."""
    tensors = golden_weights.filled(shapes)
    for pattern, factor in scaled.items():
        tensors |= {name: value * np.float32(factor) for name, value in tensors.items() if re.fullmatch(pattern, name)}
    return tensors


def shapes_hash(shapes: dict[str, Any]) -> str:
    """The first digits of the SHA-256 of names and shapes, in the order of the names."""
    ordered = [(name, list(shape)) for name, shape in sorted(shapes.items())]
    return hashlib.sha256(json.dumps(ordered).encode()).hexdigest()[:16]


@jax.jit
def _answered(network: jp.Network, images: Any) -> Any:
    return network(images)
