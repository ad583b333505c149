"""Networks with nothing declared: how long their structure takes to be found and proven, and what removal brings."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from benchmark_rows import Row, timed
from benchmark_structured import in_turns

import jaxprune as jp

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.structured.discovery import twelve  # noqa: E402
from tests.structured.networks import random_weights  # noqa: E402

SEED, BATCH, IMAGE = 0, 64, (32, 32, 3)


def large(rounds: int) -> Iterator[Row]:
    """Times discovery of two large networks, and the proof of all groups of one."""
    cases = {
        "ResNet-50 at 224 pixels, discovered": (jp.models.resnet(50), 224, False, 2.0),
        "ViT-B/16 at 224 pixels, discovered": (jp.models.vit("b"), 224, False, 2.0),
        "ResNet-50 at 64 pixels, discovered and proven": (jp.models.resnet(50), 64, True, 15.0),
    }
    for title, (module, size, prove, bound) in cases.items():
        image = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
        net = jp.Network.from_linen(module, jax.eval_shape(module.init, jax.random.key(SEED), image))
        seconds, busy, found = [], [], None
        for _ in range(max(1, rounds // 3)):
            busy.append(-time.process_time())
            took, found = timed(
                lambda net=net, image=image, prove=prove: jp.structured.discover(net, image, prove=prove)
            )
            busy[-1] += time.process_time()
            seconds.append(took)
        used = ", ".join(f"{one:.2g}" for one in busy)
        yield Row(title, tuple(seconds), at_most=bound, note=f"{used} s of CPU; {_said(found)}")


def twelve_networks(rounds: int) -> Iterator[Row]:
    """Discovers, proves and halves the twelve networks of the tests; the error is that of smaller against gated."""
    del rounds
    jax.config.update("jax_enable_x64", True)
    for name in twelve.NAMES:
        try:
            net, images = twelve.network(name), twelve.images()
            took, found = timed(lambda net=net, images=images: jp.structured.discover(net, images, prove=True))
            shape = jp.structured.Traced.of(net, found)
            book, gates = jp.structured.account(shape, net.params, net.state, twelve.IMAGE), jp.structured.ones(found)
            rated = jp.structured.criteria.l2()(net, found, gates, [])
            left = jp.structured.drop_units(found, gates, rated, book.macs, book.macs(gates) / 2) or gates
            want = np.asarray(jp.structured.gated(net, found, left)(images))
            got = np.asarray(jp.structured.compact(net, found, left)(images))
        except Exception as error:  # a library that is not installed
            yield Row(f"{name}: discovered and proven", missing=f"{type(error).__name__}: {error}")
            continue
        kept = book.macs(left) / book.macs(gates)
        yield Row(f"{name}: discovered and proven", (took,), note=f"{_said(found)}; half: {1 - kept:.1%} removed")
        apart = float(np.abs(got - want).max() / np.abs(want).max())
        yield Row(f"{name}: halved, error against gates", (apart,), "", at_most=1e-12)


def faster(rounds: int) -> Iterator[Row]:
    """Times a VGG and a MobileNet at half of their operations, of uniform widths, against dense."""
    cases = {
        "VGG": (twelve.VGG((64, 128, 256, 256), 512), 0.60),
        "MobileNet": (twelve.MobileNet((32, 32, 64, 64), 6), 0.75),
    }
    images = np.random.default_rng(SEED).normal(size=(BATCH, *IMAGE)).astype(np.float32)
    for name, (module, bound) in cases.items():
        shapes = jax.eval_shape(module.init, jax.random.key(SEED), jax.ShapeDtypeStruct((1, *IMAGE), np.float32))
        variables = jax.tree.map(lambda leaf: leaf.astype(np.float32), random_weights(shapes, SEED))
        net = jp.Network.from_linen(module, variables)
        found = jp.structured.discover(net, images)
        book = jp.structured.account(jp.structured.Traced.of(net, found), net.params, net.state, IMAGE)
        gates = jp.structured.ones(found)
        ratings = {group.name: np.random.default_rng(SEED).random(group.size) for group in found}
        half = book.macs(gates) / 2
        left = jp.structured.drop_units(found, gates, ratings, book.macs, half, allocation="uniform", multiple=8)
        networks = {"dense": net, "half": jp.structured.compact(net, found, left or gates)}
        seconds = in_turns(networks, images, rounds)
        ratios = tuple(mine / whole for mine, whole in zip(seconds["half"], seconds["dense"], strict=True))
        removed = 1 - book.macs(left or gates) / book.macs(gates)
        yield Row(
            f"{name}, batch {BATCH}: latency with {removed:.1%} fewer operations, widths of 8",
            ratios,
            "times",
            at_most=bound,
            note=f"fastest rounds: {min(seconds['half']) / min(seconds['dense']):.3g}; load {os.getloadavg()[0]:.1f}",
        )


def _said(found: Any) -> str:
    failed = f", {len(found.unproven)} not proven" if found.unproven else ""
    return f"{len(found)} groups{failed}; load {os.getloadavg()[0]:.1f}"
