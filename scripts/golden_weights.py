"""The weights that converted networks are compared with: a stream for each name, so that none has to be stored.

PyTorch's side (the scripts ``golden_*``) and ours (the tests, the benchmark) fill a network by calling ``fill`` with
the names of the *file*, PyTorch's or big_vision's.  What is compared then depends on names, shapes and mapping alone.
Needs NumPy only, and of it the raw bits of a counter-based generator, which are the same in all its versions.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np

_PATCHES = (4, 8, 14, 16, 32)


def fill(key: str, shape: Sequence[int]) -> np.ndarray:
    """Draws the float32 array of this name and shape.

    Kernels keep the size of what passes through ReLUs; scales and variances lie about 1, means and biases about 0, all
    of them different from each other, so that no two can be mistaken without notice.  Patch embeddings, tokens and
    positions are small, so that the epsilon of the first LayerNorm can be seen.
    """
    uniform = bits(key, shape)
    name = key.replace("/", ".").rsplit(".", 1)[-1]
    if name in ("num_batches_tracked", "relative_position_index"):
        return np.zeros(shape, np.float32)
    if name == "logit_scale":
        return (2 + uniform).astype(np.float32)
    if name in ("running_var", "var"):
        return 1 + uniform / 2
    if any(part in key for part in ("pos_emb", "positional_emb", "position_emb", "token", "cls", "class_embedding")):
        return uniform / 20
    if len(shape) >= 2:
        flax = name == "kernel"
        last = 2 if flax and "query" not in key and "key" not in key and "value" not in key else 1
        fan_in = math.prod(shape[: len(shape) - 1] if flax and last == 2 else shape[:1] if flax else shape[1:])
        side = shape[0] if flax else shape[-1]
        patches = len(shape) == 4 and side in _PATCHES
        return uniform * np.float32(math.sqrt(6 / fan_in) * (0.05 if patches else 1))
    if name in ("weight", "scale"):
        return 1 + uniform / 4
    return uniform / 8


def bits(key: str, shape: Sequence[int]) -> np.ndarray:
    """Draws multiples of 2^-23 in [-1, 1), float32, a pure function of the text."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little")
    raw = np.random.Philox(key=seed).random_raw(math.prod(shape))
    return ((raw >> np.uint64(40)).astype(np.float64) / 2**23 - 1).astype(np.float32).reshape(shape)


def filled(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Draws all arrays of a file from their names and shapes."""
    return {key: fill(key, shape) for key, shape in shapes.items()}


def images(side: int, count: int = 2) -> np.ndarray:
    """Draws normalised images, float32 [count, side, side, 3]: smooth in parts, and not symmetric."""
    coarse = bits(f"images/{side}/coarse", (count, 5, 5, 3))
    places = np.minimum(np.arange(side) * 5 // side, 4)
    return 2 * coarse[:, places][:, :, places] + bits(f"images/{side}/fine", (count, side, side, 3))
