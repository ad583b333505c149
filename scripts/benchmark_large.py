"""What second order of large networks takes on two cores: ResNet-50 and ViT-B/16 on images of 224x224.

With a thousand outputs exact quantities take hundreds of gradients.  So they are measured whole with ten outputs, and
with a thousand one call of all that there are, which do the same work.  Seconds are of CPU, on both cores together:
they are the same beside other jobs, or nearly so.
"""

from collections.abc import Callable, Iterator
from time import process_time
from typing import Any

from benchmark_memory import resident
from benchmark_networks import Subject, subject
from benchmark_rows import Row, measure, timed
from flax import linen as nn

import jaxprune as jp
from jaxprune.curvature import routes
from jaxprune.curvature.blocks import request

DISTANCE = jp.losses.distillation()
IMAGES, SIDE, MANY, FEW = 2, 224, 1000, 10


def resnet50(rounds: int) -> Iterator[Row]:
    """The prices of a ResNet-50."""
    yield from _prices("ResNet-50", lambda classes: jp.models.resnet(50, classes=classes), rounds)


def vit_b16(rounds: int) -> Iterator[Row]:
    """The prices of a ViT-B/16."""
    yield from _prices("ViT-B/16", lambda classes: jp.models.vit("b", 16, SIDE, classes), rounds)


def _prices(name: str, module: Callable[[int], nn.Module], rounds: int) -> Iterator[Row]:
    """One gradient, the estimate, both exact quantities with few outputs, and a call of the diagonal with many."""
    rounds = max(1, rounds // 9)
    here = subject(module(MANY), SIDE, IMAGES, MANY)
    images = {"image": here.batch["image"]}

    def estimate() -> Any:
        return jp.curvature.estimate(here.network, DISTANCE, [images], probes=2, scope=here.kernels).value

    yield from _rows(here, {f"estimated diagonal, 2 probes, {name}, {MANY} outputs": estimate}, rounds)
    yield from _columns(name, here, rounds)
    few = subject(module(FEW), SIDE, IMAGES, FEW)

    def diagonal() -> Any:
        return jp.curvature.diagonal(few.network, DISTANCE, images, scope=few.kernels)

    def products() -> Any:
        return jp.curvature.block_product(few.network, DISTANCE, images, few.vector, "unit", scope=few.kernels)

    works = {"exact diagonal": diagonal, "exact unit-block products": products}
    yield from _rows(few, {f"{words}, {name}, {FEW} outputs": work for words, work in works.items()}, rounds)


def _rows(here: Subject, works: dict[str, Callable[[], Any]], rounds: int) -> Iterator[Row]:
    """A row for each piece of work, with what a gradient takes, and the process of memory."""
    for name, timing in measure(here.gradient, works, rounds, process_time).items():
        gradient = min(second / ratio for second, ratio in zip(timing.seconds, timing.gradients, strict=True))
        note = f"{IMAGES} images of {SIDE}; a gradient {gradient:.1f} s; peak of the process so far {_peak()}"
        yield timing.row(name, note=note)


def _columns(name: str, here: Subject, rounds: int) -> Iterator[Row]:
    """The exact diagonal with many outputs from its passes: forward, and one call of those that add columns."""
    asked = request(here.network, DISTANCE, {"image": here.batch["image"]}, "hessian", "unit", here.kernels)
    total = 0.0
    for task in routes.diagonal_tasks(asked):
        task.begun()
        begin, point = timed(task.begun, process_time)
        chunks = task.chunks()
        works = {"columns": lambda task=task, point=point, first=chunks[0]: task.of_columns(point, first)}
        timing = measure(here.gradient, works, rounds, process_time)["columns"]
        part = "before the head" if task.wanted.head else "at the outputs"
        note = f"{len(task.paths)} kernels; one of {len(chunks)} calls, {begin:.1f} s before the first"
        yield timing.row(f"exact diagonal, {name}, {MANY} outputs, {part}: a call", note=note)
        total += (begin + len(chunks) * min(timing.seconds)) * min(timing.gradients) / min(timing.seconds)
    note = f"extrapolated from these calls; peak of the process so far {_peak()}"
    yield Row(f"  all of its calls, in gradients, {name}", (total,), "times", note=note)


def _peak() -> str:
    return f"{resident() / 1000:.1f} GB"
