"""Tiny networks of every family with random weights, random gates for them, and gates written as plain scalings."""

import re
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from jaxprune.groups import Group, Member
from jaxprune.models.efficientnet import EfficientNetLite, StageShape
from jaxprune.models.efficientnet_blocks import BlockShape
from jaxprune.models.resnet import ResNet, full_blocks
from jaxprune.structured import Declared

VIT: dict[str, Any] = {"patch": 4, "image": 8, "classes": 3, "width": 8, "heads": 4, "depth": 3}
SWIN: dict[str, Any] = {"patch": 2, "window": 2, "classes": 3, "width": 4, "heads": (2, 4), "depths": (2, 1)}
INVERTED = EfficientNetLite(
    (BlockShape(1, 0, 0), BlockShape(2, 0, 6), BlockShape(2, 1, 5), BlockShape(2, 2, 7)),
    (StageShape(3, 3, 1), StageShape(4, 5, 2)),
    classes=3,
    stem=4,
    top=6,
)
FAMILIES = {
    "basic": (ResNet(full_blocks((3, 3), 4), 3, 4), (6, 6, 3)),
    "keras": (ResNet(full_blocks((3, 2), 4), 3, 4, keras=True), (6, 6, 3)),
    "bottleneck": (ResNet(full_blocks((3, 2), 4, True), 3, 4, True, large_images=True), (16, 16, 3)),
    "branches": (jp.models.vit(**VIT), (8, 8, 3)),
    "blocks": (jp.models.vit(**VIT, layers="blocks"), (8, 8, 3)),
    "windows": (jp.models.swin_v2(**SWIN), (6, 8, 3)),
    "inverted": (INVERTED, (9, 7, 3)),
}
# Smaller ones, for what compiles large programs.
SMALL = {
    "resnet": (ResNet(full_blocks((3,), 3), 3, 3), (4, 4, 2)),
    "vit": (jp.models.vit(patch=2, image=4, classes=3, width=4, heads=2, depth=2), (4, 4, 1)),
    "one_block": (jp.models.vit(patch=2, image=4, classes=3, width=4, heads=2, depth=1), (4, 4, 1)),
}
MODULES = FAMILIES | SMALL
# The last operation of a layer: scaling its leaves scales what the layer adds.
ENDS = dict.fromkeys(MODULES, r"/output/") | dict.fromkeys(("basic", "keras", "resnet"), r"/norm2/")
ENDS |= dict.fromkeys(("bottleneck", "inverted"), r"/norm3/")
ENDS["windows"] = r"/norm\d/"
ENDS["mlp"] = r"/kernel"


@cache
def build(name: str) -> tuple[Any, Any, Any]:
    """(specification, params, state), in float64, with no entry at its initial value."""
    if name == "mlp":
        return MLP, mlp_params(), {}
    module, image = MODULES[name]
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *image), np.float32))
    variables = random_weights(shapes, seed=0)
    return module, variables.pop("params"), variables


def random_weights(shapes: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)

    def draw(name, leaf):
        values = rng.normal(size=leaf.shape)
        if name.endswith("/var"):
            return 0.5 + np.abs(values)
        return values / np.sqrt(np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0.3 * values + 0.5

    return jp.tree.map_named(draw, shapes)


def network(name: str) -> jp.Network:
    module, params, state = build(name)
    return module.network(params, state)


def images(name: str, count: int = 5) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, *(MODULES[name][1] if name in MODULES else (2, 2, 1))))


def batch(name: str, count: int = 5) -> dict[str, np.ndarray]:
    weight = np.array([1.0, 0.5, 2.0, 0.0, 1.5])
    return {"image": images(name, count), "label": np.arange(count) % 3, "weight": np.resize(weight, count)}


def random_gates(groups: Any, seed: int, what: str = "mixed") -> dict[str, np.ndarray]:
    """Random gates at or above all floors: of "units", "layers" or both."""
    rng = np.random.default_rng(seed)
    gates = {group.name: np.ones(group.size, dtype=bool) for group in groups}
    layers: dict[str, list[str]] = {}
    for group in groups:
        if group.is_layer:
            layers.setdefault(group.stage, []).append(group.name)
        elif what != "layers":
            gates[group.name] = rng.random(group.size) < 0.6
            gates[group.name][rng.integers(group.size)] = True
    if what != "units":
        for names in layers.values():
            for name in rng.permutation(names)[: len(names) - 1]:
                gates[name] = np.array([False])
    return gates


def scaled(name: str, factors: Any, params: Any = None) -> Any:
    """The parameters with which the whole network computes what it does when its gates are these factors.

    A unit is multiplied where it is read, a layer in its last operation; no site is involved.
    """
    module, own, _ = build(name)

    def change(leaf_name, leaf):
        for group in module.groups():
            factor = factors[group.name]
            for member in group.members:
                if member.reads and member.leaf == leaf_name:
                    shape = [1] * leaf.ndim
                    shape[member.axis] = -1
                    leaf = leaf * jnp.repeat(factor, member.each).reshape(shape)
                if member.axis is None and leaf_name.startswith(f"{member.leaf}/") and re.search(ENDS[name], leaf_name):
                    leaf = leaf * factor[0]
        return leaf

    return jp.tree.map_named(change, own if params is None else params)


@jax.jit
def everything(network: jp.Network, inputs: Any) -> Any:
    """(outputs in evaluation mode, outputs in training mode, the state after it)."""
    return network(inputs), *network.train_apply(network.params, network.state, inputs, {})


@jax.jit
def evaluate(network: jp.Network, inputs: Any) -> Any:
    return network(inputs)


def distance(left: Any, right: Any) -> float:
    """The largest difference, relative to the largest number; of trees, that of the worst leaf."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return max((float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in pairs), default=0.0)


def mlp_apply(params, state, inputs):
    """Two dense layers about a ReLU; in between, where it is there, a residual branch."""
    del state
    tag = jax.ad_checkpoint.checkpoint_name
    x = inputs.reshape(inputs.shape[0], -1)
    x = tag(jax.nn.relu(x @ params["in"]["kernel"] + params["in"]["bias"]), "units")
    x = x @ params["out"]["kernel"] + params["out"]["bias"]
    if "extra" in params:
        x = x + tag(jnp.tanh(x) @ params["extra"]["kernel"], "extra")
    return tag(x, "features")


MLP_UNITS = Group(
    "units", 5, (Member("in/kernel", 1), Member("in/bias", 0), Member("out/kernel", 0, reads=True)), ("units",)
)
MLP_EXTRA = Group("extra", 1, (Member("extra"),), ("extra",), floor=0)
MLP = Declared(mlp_apply, (MLP_UNITS, MLP_EXTRA))


def mlp_params() -> Any:
    rng = np.random.default_rng(3)
    return {
        "in": {"kernel": rng.normal(size=(4, 5)), "bias": rng.normal(size=5)},
        "out": {"kernel": rng.normal(size=(5, 3)), "bias": rng.normal(size=3)},
        "extra": {"kernel": rng.normal(size=(3, 3))},
    }
