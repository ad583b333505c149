"""Whether what a plan says a quantity will cost is what it takes, and how long a plan takes that compiles nothing."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from benchmark_networks import LOSS, Subject, resnet_cifar, subject
from benchmark_rows import Row, measure
from flax import linen as nn

import jaxprune as jp
from jaxprune.curvature import counting

QUANTITIES = {"diagonal": "diagonal", "block_product": "unit-block products"}


class Depthwise(nn.Module):
    """Depthwise and pointwise convolutions in turn, as a MobileNet has them."""

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        """Returns the logits of images."""
        x = nn.relu(nn.Conv(16, (3, 3), name="stem")(x))
        for place, (width, stride) in enumerate([(32, 1), (64, 2), (64, 1), (128, 2), (128, 1)]):
            channels = x.shape[-1]
            deep = nn.Conv(channels, (3, 3), strides=stride, feature_group_count=channels, name=f"deep{place}")
            x = nn.relu(nn.Conv(width, (1, 1), name=f"point{place}")(nn.relu(deep(x))))
        return nn.Dense(10, name="head")(x.mean((1, 2)))


def exact_plans(rounds: int) -> Iterator[Row]:
    """Plans of three networks beside what is measured, and the seconds that plans of two large ones take."""
    yield from beside("ResNet-20, batch 64", resnet_cifar(), "hessian", rounds)
    yield from beside("ViT-Ti/16 at 64, batch 8", subject(jp.models.vit("ti", 16, 64, 10), 64, 8, 10), "ggn", rounds)
    yield from beside("depthwise, batch 32", subject(Depthwise(), 32, 32, 10), "hessian", rounds)
    yield from seconds("ViT-B/16 at 224", jp.models.vit("b", 16, 224, 1000), "ggn")
    yield from seconds("ResNet-50 at 224", jp.models.resnet(50), "hessian")


def beside(name: str, of: Subject, matrix: str, rounds: int) -> Iterator[Row]:
    """The gradients that quantities of all kernels take, and those that both kinds of plans say."""
    options = {"matrix": matrix, "scope": of.kernels}
    works: dict[str, Callable[[], Any]] = {
        "diagonal": lambda: jp.curvature.diagonal(of.network, LOSS, of.batch, **options),
        "block_product": lambda: jp.curvature.block_product(of.network, LOSS, of.batch, of.vector, "unit", **options),
    }
    timings = measure(of.gradient, works, rounds)
    for quantity, words in QUANTITIES.items():
        timing = timings[quantity]
        yield timing.row(f"{words}, {name}")
        for how in ("counted", "compiled"):
            plan = jp.curvature.plan(of.network, LOSS, of.batch, quantity, compile=how == "compiled", **options)
            ratios = tuple(plan.gradients / measured for measured in timing.gradients)
            note = f"planned {plan.gradients:.2f} gradients, {plan.bytes / 1e6:.0f} MB"
            row = Row(f"  planned, {how}, over that", ratios, "times", note=note, missing=timing.missing)
            yield dataclasses.replace(row, at_least=0.5, at_most=2.0) if how == "counted" else row


def seconds(name: str, module: nn.Module, matrix: str) -> Iterator[Row]:
    """The seconds that a plan without compiling takes, and those of them that are for counting."""
    images = np.zeros((8, 224, 224, 3), np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images[:1])
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    network, batch = jp.Network.from_linen(module, variables), {"image": images, "label": np.zeros(8, np.int32)}
    scope = jp.tree.prunable(network.params)
    for quantity, words in QUANTITIES.items():
        spent: list[float] = []
        with mock.patch.object(counting, "count", _clocked(counting.count, spent)):
            start = time.perf_counter()
            plan = jp.curvature.plan(network, LOSS, batch, quantity, matrix=matrix, scope=scope, compile=False)
            whole = time.perf_counter() - start
        note = f"{plan.gradients:.0f} gradients, {plan.bytes / 1e9:.1f} GB; {whole:.1f} s with tracing"
        yield Row(f"counting for a plan of {words}, {name}", (sum(spent),), "s", note=note)


def _clocked(function: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        start = time.perf_counter()
        result = function(*arguments)
        spent.append(time.perf_counter() - start)
        return result

    return call
