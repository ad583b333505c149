"""A network of three leaves and thirty images, to train in no time."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp


def data(count: int = 30, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=count).astype(np.int32)
    images = 0.3 * rng.standard_normal((count, 2, 2, 1)) + np.eye(3, 4)[labels].reshape(count, 2, 2, 1)
    return {"image": images.astype(np.float32), "label": labels}


def apply(params, state, images):
    del state
    hidden = jax.nn.relu(images.reshape(len(images), -1) @ params["first"] + params["bias"])
    return hidden @ params["second"]


def network() -> jp.Network:
    rng = np.random.default_rng(0)
    shapes = {"first": (4, 8), "bias": (8,), "second": (8, 3)}
    params = {name: jnp.asarray(0.5 * rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()}
    return jp.Network(apply, params, {"steps": jnp.zeros((), jnp.int32)})


def train_apply(params, state, images, rngs):
    del rngs
    return apply(params, {}, images), {"steps": state["steps"] + 1}


def mask_of(params: Any, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.random(leaf.shape) < 0.5), params)


def copied(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.array(leaf), tree)


def same(left: Any, right: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), left, right)


def fit(net: jp.Network, tx: Any, examples: Any = None, **options: Any) -> jp.Network:
    settings = {"steps": 12, "batch_size": 8, "seed": 0, **options}
    return jp.train.fit(net, jp.losses.cross_entropy, tx, data() if examples is None else examples, **settings)


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def steps_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())
