"""Exact second order of a distance of the network to itself, side by side with what it was for losses of labels.

Vision transformers and ResNets, the surgeon, sweeps, heads of many classes, and the seconds that compiling takes.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from benchmark_curvature import same
from benchmark_memory import resident
from benchmark_networks import LOSS, SEED, resnet_cifar, subject
from benchmark_rows import Row, difference, measure, timed
from flax import linen as nn

import jaxprune as jp
from jaxprune.curvature import routes, signals
from jaxprune.curvature.blocks import request
from jaxprune.sites.heads import find_head

DISTANCE = jp.losses.distillation("kl")
SQUARED = jp.losses.distillation("squared")
# Seconds after which a program that still compiles is given up.
PATIENCE = 180.0


def vit(rounds: int) -> Iterator[Row]:
    """A ViT-Ti/16: the Hessian of a distance beside the Gauss-Newton matrix of cross-entropy."""
    here = subject(jp.models.vit("ti", patch=16, image=64, classes=10), image=64, batch=8, classes=10)
    network, batch, vector, kernels = here.network, here.batch, here.vector, here.kernels

    def units(loss: Any, matrix: str) -> Any:
        return jp.curvature.block_product(network, loss, batch, vector, "unit", matrix, kernels)

    def diagonal(loss: Any, matrix: str) -> Any:
        return jp.curvature.diagonal(network, loss, batch, matrix, kernels)

    timings = measure(
        here.gradient,
        {
            "units": lambda: units(DISTANCE, "hessian"),
            "units ggn": lambda: units(LOSS, "ggn"),
            "diagonal": lambda: diagonal(DISTANCE, "hessian"),
            "diagonal ggn": lambda: diagonal(LOSS, "ggn"),
            "hvp": lambda: jp.curvature.hvp(network, DISTANCE, batch, vector),
        },
        rounds,
    )
    for name, words, bound in (("units", "unit-block products", 4.4), ("diagonal", "diagonal", 6.5)):
        ours, ggn = timings[name], timings[f"{name} ggn"]
        yield ours.row(f"exact {words} of a distance, ViT-Ti/16 at 64, batch 8", at_most=bound)
        yield ggn.row("  the same of the Gauss-Newton matrix of cross-entropy")
        yield ours.over(ggn, "  exact over that", at_most=1.05)
        yield Row("  first call", (ours.first,), missing=ours.missing)
        yield Row("  first call, Gauss-Newton matrix of cross-entropy", (ggn.first,), missing=ggn.missing)
    yield timings["hvp"].row("Hessian-vector product of a distance, ViT-Ti/16 at 64, batch 8")
    yield Row("  first call", (timings["hvp"].first,), missing=timings["hvp"].missing)


def resnet(rounds: int) -> Iterator[Row]:
    """A ResNet-20 and cross-entropy."""
    here = resnet_cifar()
    network, batch, vector, scope = here.network, here.batch, here.vector, here.kernels
    works: dict[str, Callable[[], Any]] = {
        "Hessian-vector product": lambda: jp.curvature.hvp(network, LOSS, batch, vector),
        "unit-block products": lambda: jp.curvature.block_product(network, LOSS, batch, vector, "unit", scope=scope),
        "layer-block products": lambda: jp.curvature.block_product(network, LOSS, batch, vector, "layer", scope=scope),
        "diagonal": lambda: jp.curvature.diagonal(network, LOSS, batch, scope=scope),
    }
    timings = measure(here.gradient, works, rounds)
    for (words, timing), bound in zip(timings.items(), (2.0, 2.8, 2.8, 4.0), strict=True):
        yield timing.row(f"exact {words}, ResNet-20, batch 64", at_most=bound)


def surgeon(rounds: int) -> Iterator[Row]:
    """The surgeon on a whole ResNet-20: scores of few images, then scores and an update from many."""
    here = resnet_cifar()
    score = jp.scores.block_hessian(LOSS, form="obs", blocks="unit", scope=here.kernels)
    first, _ = timed(lambda: score(here.network, [here.batch]))
    yield Row("surgeon's scores, ResNet-20, 64 images: first call", (first,), at_most=12.0)
    warm = tuple(timed(lambda: score(here.network, [here.batch]))[0] for _ in range(3))
    yield Row("surgeon's scores, ResNet-20, 64 images: warm", warm, at_most=3.0)
    batches = [{"image": _images(64, 32, SEED + place)} for place in range(1, 9)]
    greedy = jp.scores.block_hessian(SQUARED, form="greedy", blocks="unit", scope=here.kernels)
    before = resident()
    seconds, scores = timed(lambda: greedy(here.network, batches))
    yield Row("greedy scores of a squared distance, 512 images: first call", (seconds,))
    mask = jp.masks.unstructured(0.5)(scores, here.kernels)
    update = jp.scores.surgeon_update(SQUARED)
    seconds, _ = timed(lambda: update(here.network, batches, mask))
    yield Row("surgeon's update by a squared distance, 512 images: first call", (seconds,))
    note = f"{before:,.0f} MB before the 512 images; compilation included"
    yield Row("  peak of the process", (resident(),), "MB", at_most=3000.0, note=note)


def sweep(rounds: int) -> Iterator[Row]:
    """Everything of one point in one sweep, over one call for each quantity."""
    here = resnet_cifar()
    network, batch, scope = here.network, here.batch, here.kernels
    vector = network.params  # which is what a sweep multiplies
    paths = list(here.in_scope(network.params))
    works: dict[str, Callable[[], Any]] = {
        "gradient": lambda: here.in_scope(jp.curvature.gradient(network, LOSS, batch)),
        "diagonal": lambda: jp.curvature.diagonal(network, LOSS, batch, scope=scope),
        "unit": lambda: jp.curvature.block_product(network, LOSS, batch, vector, "unit", scope=scope),
        "layer": lambda: jp.curvature.block_product(network, LOSS, batch, vector, "layer", scope=scope),
        "gram": lambda: {path: jp.curvature.block(network, LOSS, batch, path, "unit") for path in paths},
    }

    def together() -> Any:
        found = jp.curvature.sweep(network, LOSS, [batch], tuple(works), scope=scope)
        return {name: getattr(found, name) for name in works} | {"gradient": here.in_scope(found.gradient)}

    def alone() -> Any:
        return {name: jax.block_until_ready(work()) for name, work in works.items()}

    timings = measure(here.gradient, {"together": together, "alone": alone}, max(2, rounds // 3))
    row = timings["together"].row(f"exact sweep of {', '.join(works)}, ResNet-20, 64 images")
    ours, theirs = timings["together"].result, timings["alone"].result
    if ours is not None and theirs is not None:
        row = same(row, difference(_flat(ours), _flat(theirs)), "those of the single calls")
    yield row
    yield timings["alone"].row("  one call for each")
    yield timings["together"].over(timings["alone"], "  the sweep over the sum of the single calls")


def bottleneck(rounds: int) -> Iterator[Row]:
    """Columns at the inputs of a head of many classes, against those at the outputs."""
    # In float32 both differ by rounding alone, and by more than is asked.
    jax.config.update("jax_enable_x64", True)
    here = subject(jp.models.vit("ti", patch=16, image=64, classes=1000), image=64, batch=4, classes=1000)
    params, images = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (here.network.params, here.batch["image"]))
    network, batch = here.network.replace(params=params), {"image": images}
    scope = here.scope(lambda name: name.startswith("block11/"))
    paths = [name for name, wanted in here.in_scope(scope).items() if wanted]
    found, counts, times = [], [], []

    def work() -> Any:
        return jp.curvature.diagonal(network, DISTANCE, batch, scope=scope)

    for words, finder in (("inputs of the head", find_head), ("outputs", lambda program: None)):
        with mock.patch("jaxprune.curvature.requests.find_head", finder):
            asked = request(network, DISTANCE, batch, "hessian", "unit", scope)
            counts.append(sum(task.count for task in routes.diagonal_tasks(asked)))
            first, result = timed(work)
            warm = tuple(timed(work)[0] for _ in range(3))
        times.append(Row(f"  that diagonal by the {words}", warm, first=first))
        found.append(np.concatenate([np.ravel(jp.tree.leaf(result, path)) for path in paths]))
    ours, theirs = counts
    quantity = "exact columns at the outputs over those at the inputs of the head"
    yield Row(quantity, (theirs / ours,), "times", at_least=4.0, note=f"{theirs} / {ours}")
    error = float(np.max(np.abs(found[0] - found[1]) / np.maximum(np.abs(found[1]), np.finfo(np.float64).tiny)))
    note = f"in float64, of {found[0].size} weights of the last block of ViT-Ti/16 at 64, batch 4, 1000 classes"
    yield Row("  largest relative difference of a diagonal", (error,), "", at_most=1e-6, note=note)
    yield from times


def estimate(rounds: int) -> Iterator[Row]:
    """An unbiased estimate of a diagonal with a thousand classes."""
    quantity, bound = "estimated diagonal of a distance, ResNet-18 at 64, batch 64, 1000 classes", 5.0
    function = getattr(jp.curvature, "estimate", None)
    if function is None:
        yield Row(quantity, missing="jp.curvature.estimate is not there yet", at_most=bound)
        return
    here = subject(jp.models.resnet(18, classes=1000), image=64, batch=64, classes=1000)

    def work() -> Any:
        found = function(here.network, DISTANCE, [here.batch], "diagonal", probes=2, scope=here.kernels)
        return found.value, found.error

    timing = measure(here.gradient, {"work": work}, rounds)["work"]
    yield timing.row(quantity, at_most=bound, note="2 probes")


def compile_times(rounds: int) -> Iterator[Row]:
    """The seconds that the programs of the diagonal of a distance take to compile, for two large networks."""
    networks = {"ResNet-50": jp.models.resnet(50), "ViT-B/16": jp.models.vit("b", patch=16)}
    for name, module in networks.items():
        for part, task in _signal_tasks(module).items():
            beginning = (task.network, task.batch, task.share, task.vectors, task.drawn)
            works = {
                "forward pass": partial(signals.begin.trace, *beginning, wanted=task.wanted),
                "columns": partial(_columns, task, beginning),
            }
            for words, work in works.items():
                row = _compiling(f"compiling the exact diagonal, {name}, {part}: {words}", work)
                note = f"{task.width} of {task.count} columns side by side, {len(task.paths)} kernels; {row.note}"
                yield replace(row, note=note)
                if row.missing:
                    # What still compiles in the background would disturb the others.
                    return


def _signal_tasks(module: nn.Module) -> dict[str, Any]:
    """The tasks of the diagonal of a distance for images of 224, of a network whose weights are zeros."""
    images = np.zeros((8, 224, 224, 3), np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images[:1])
    network = jp.Network.from_linen(module, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))
    asked = request(network, DISTANCE, {"image": images}, "hessian", "unit", jp.tree.prunable(network.params))
    tasks = [task for task in routes.diagonal_tasks(asked) if task.route == routes.SIGNALS]
    return {"before the head" if task.wanted.head else "by the outputs": task for task in tasks}


def _columns(task: Any, beginning: tuple[Any, ...]) -> Any:
    """Traces the program of as many columns as run side by side."""
    point = jax.eval_shape(partial(signals.begin, wanted=task.wanted), *beginning)
    indices = jax.ShapeDtypeStruct((task.width,), np.int32)
    return signals.of_columns.trace(point, task.vectors, indices, wanted=task.wanted, count=task.count)


def _compiling(quantity: str, trace: Callable[[], Any]) -> Row:
    """Traces and compiles a program; gives up where that takes too long, since a compiler cannot be interrupted."""
    spent: list[float] = []

    def work() -> None:
        seconds, traced = timed(trace)
        spent.append(seconds)
        spent.append(timed(lambda: traced.lower().compile())[0])

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if len(spent) < 2:
        missing = f"it took longer than {PATIENCE:g} s" if thread.is_alive() else "it failed"
        return Row(quantity, missing=missing, at_most=60.0)
    return Row(quantity, (spent[1],), at_most=60.0, note=f"tracing took {spent[0]:.1f} s more")


def _images(count: int, size: int, seed: int) -> Any:
    return jnp.asarray(np.random.default_rng(seed).standard_normal((count, size, size, 3), np.float32))


def _flat(of: Any) -> dict[str, Any]:
    """Every array of a tree by its name."""
    return dict(zip(jp.tree.names(of), jax.tree.leaves(of), strict=True))
