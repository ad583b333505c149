"""Dense blocks, surgeon scores and transformers: time, memory, and what the plan said about them.

A case runs in a process of its own, so that the peak of the process belongs to it.
"""

import resource
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
from benchmark_networks import LOSS, Subject, resnet_cifar, subject
from benchmark_rows import Row, measure, timed

import jaxprune as jp

CLASSES = (10, 100, 1000)
# A kernel of each stage, to compare numbers of classes on.
SAMPLE = [f"stage{stage}_block1/conv2/kernel" for stage in (1, 2, 3)]
MEGABYTE = 1e6


def dense(rounds: int) -> Iterator[Row]:
    """Dense unit blocks of the last stage, and their temporaries with more classes."""
    quantity = "dense unit blocks of the 3x3 kernels of the last stage"
    yield from with_classes(quantity, last_stage, lambda name: name in SAMPLE[-1:], rounds)


def surgeon(rounds: int) -> Iterator[Row]:
    """Optimal-brain-surgeon scores of the whole network, and their temporaries with more classes."""
    quantity = "optimal-brain-surgeon scores of every kernel"
    yield from with_classes(quantity, surgeon_scores, lambda name: name in SAMPLE, rounds)


def with_classes(
    quantity: str, work: Callable[[Subject, Any], None], sample: Callable[[str], bool], rounds: int
) -> Iterator[Row]:
    """Measures time and memory with few classes, and on a sample of the kernels what more classes add to temporaries.

    The sample goes from the fewest classes to the most, so that a peak of the process that stays says: nothing added.
    """
    few = resnet_cifar(classes=CLASSES[0])
    few.gradient()
    before = resident()
    timing = measure(few.gradient, {"work": partial(work, few, few.kernels)}, max(1, rounds // 4))["work"]
    yield timing.row(quantity)
    if timing.missing:
        return
    yield Row("  peak of the process", (resident(),), "MB", note=f"{before:,.0f} MB before it; compilation included")
    sizes: list[float] = []
    for classes in CLASSES:
        # Programs that exist already would not show as new ones.
        jax.clear_caches()
        here = resnet_cifar(classes=classes)
        scope = here.scope(sample)
        here.gradient()
        known = programs()
        first, _ = timed(partial(work, here, scope))
        some = f"{sum(jax.tree.leaves(scope))} of the kernels, {classes} classes"
        yield Row(f"  {some}: first call", (first,))
        sizes.append(max((memory["temporaries"] for memory in new_programs(known)), default=0.0))
        yield Row(f"  {some}: temporaries of the largest program", (sizes[-1],), "MB")
        yield Row(f"  {some}: peak of the process", (resident(),), "MB")
    quantity = f"  temporaries with {CLASSES[-1]} classes over those with {CLASSES[0]}"
    yield Row(quantity, (sizes[-1] / sizes[0],), "times", at_most=1.1, note="at most 1.1 counts as no growth")


def last_stage(here: Subject, scope: Any) -> None:
    """Computes the dense unit blocks of the last stage's 3x3 kernels in scope, one kernel after the other."""
    wanted = dict(zip(jp.tree.names(scope), jax.tree.leaves(scope), strict=True))
    for path, kernel in here.in_scope(here.network.params).items():
        if wanted[path] and path.startswith("stage3") and kernel.shape[:2] == (3, 3):
            jax.block_until_ready(jp.curvature.block(here.network, LOSS, here.batch, path, "unit"))


def surgeon_scores(here: Subject, scope: Any) -> None:
    """Computes the surgeon's scores of the kernels in scope."""
    score = jp.scores.block_hessian(LOSS, form="obs", blocks="unit", scope=scope)
    jax.block_until_ready(score(here.network, [here.batch]))


def transformer(rounds: int) -> Iterator[Row]:
    """Unit-block scores of the last block of a ViT-Ti/16, and the plan's prediction."""
    here = subject(jp.models.vit("ti", patch=16, image=64, classes=10), image=64, batch=8, classes=10)
    scope = here.scope(lambda name: name.startswith("block11/"))
    score = jp.scores.block_hessian(LOSS, form="quadratic", blocks="unit", scope=scope)
    here.gradient()
    known = programs()
    timing = measure(here.gradient, {"score": lambda: score(here.network, [here.batch])}, max(1, rounds // 2))["score"]
    quantity = "unit-block Hessian scores, last block of ViT-Ti/16 at 64, batch 8"
    yield timing.row(quantity)
    # What the plan speaks of: temporaries and results of the largest program.
    peak = max((memory["peak"] for memory in new_programs(known)), default=0.0)
    plan = getattr(jp.curvature, "plan", None)
    if timing.missing or plan is None:
        missing = timing.missing or "jp.curvature.plan is not there yet"
        yield Row("  predicted cost over the measured one, or its inverse", missing=missing, unit="times", at_most=2.0)
        yield Row(
            "  predicted bytes over the compiled ones, or their inverse", missing=missing, unit="times", at_most=1.5
        )
        return
    said = plan(here.network, LOSS, here.batch, "block_product", blocks="unit", matrix="hessian", scope=scope)
    yield Row("  predicted cost, in gradients", (float(said.gradients),), "")
    factors = tuple(_factor(said.gradients, measured) for measured in timing.gradients)
    yield Row("  predicted cost over the measured one, or its inverse", factors, "times", at_most=2.0)
    yield Row("  predicted peak", (said.bytes / MEGABYTE,), "MB")
    yield Row("  its largest compiled program: temporaries and results", (peak,), "MB")
    factor = _factor(said.bytes / MEGABYTE, peak)
    yield Row("  predicted bytes over the compiled ones, or their inverse", (factor,), "times", at_most=1.5)


def resident() -> float:
    """Returns the largest memory that this process ever held, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MEGABYTE


def programs() -> list[Any]:
    """Lists the compiled programs that are alive."""
    return jax.local_devices()[0].client.live_executables()


def new_programs(known: list[Any]) -> list[dict[str, float]]:
    """Lists the memory, in MB and by the compiler's own analysis, of the programs compiled since."""
    found = [program.get_compiled_memory_stats() for program in programs() if program not in known]
    return [
        {
            "temporaries": memory.temp_size_in_bytes / MEGABYTE,
            "peak": (memory.temp_size_in_bytes + memory.output_size_in_bytes) / MEGABYTE,
        }
        for memory in found
    ]


def _factor(left: float, right: float) -> float:
    return max(left / right, right / left)
