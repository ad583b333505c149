"""Products, block products and diagonals of CIFAR ResNets in gradients, beside PyTorch, BackPACK and curvlinops.

A case yields rows.  The other side is made on first use: where PyTorch is not installed, its rows alone say so.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from benchmark_networks import LOSS, Subject, only, resnet_cifar
from benchmark_rows import SAME, Row, Timing, difference, fastest, measure

import jaxprune as jp

# Some filters, to time one product each and to compare with: (kernel, filter) at the front, in the middle, at the end.
FILTERS = (("stage1_block0/conv1/kernel", 3), ("stage2_block1/conv2/kernel", 7), ("stage3_block2/conv2/kernel", 40))


def products(rounds: int) -> Iterator[Row]:
    """Products with the Hessian and the Gauss-Newton matrix of all parameters."""
    subject = resnet_cifar()
    network, batch, vector = subject.network, subject.batch, subject.vector
    side = other_side(subject)
    timings = measure(
        subject.gradient,
        {
            "gradient": subject.gradient,
            "hvp": lambda: jp.curvature.hvp(network, LOSS, batch, vector),
            "ggnvp": lambda: jp.curvature.ggnvp(network, LOSS, batch, vector),
            "torch gradient": lambda: side().gradient(),
            "torch double": lambda: side().double_backward(),
            "torch forward": lambda: side().forward_over_reverse(),
            "curvlinops hvp": lambda: side("hvp_curvlinops")(),
            "curvlinops ggnvp": lambda: side("ggnvp_curvlinops")(),
        },
        rounds,
    )
    yield timings["gradient"].row("gradient, ResNet-20, batch 64 (again: the noise of the ratios)")
    hvp = timings["hvp"].row("Hessian-vector product", at_most=2.0)
    yield agreed(
        hvp, timings["hvp"], timings["torch double"], lambda found: named(side, "names", found), whole(subject)
    )
    ggnvp = timings["ggnvp"].row("Gauss-Newton product", at_most=1.4)
    theirs = timings["curvlinops ggnvp"]
    yield agreed(ggnvp, timings["ggnvp"], theirs, lambda found: named(side, "names", found), whole(subject))
    yield timings["torch gradient"].row("  PyTorch: gradient", first=None)
    yield timings["torch double"].row("  PyTorch: Hessian-vector product, double backward", first=None)
    yield timings["torch forward"].row("  PyTorch: Hessian-vector product, forward over reverse", first=None)
    yield timings["curvlinops hvp"].row("  curvlinops: Hessian-vector product", first=None)
    yield timings["curvlinops ggnvp"].row("  curvlinops: Gauss-Newton product", first=None)
    best = fastest(timings[name] for name in ("torch double", "torch forward", "curvlinops hvp"))
    yield timings["hvp"].over(best, "  Hessian-vector product over the fastest of these")


def units(rounds: int) -> Iterator[Row]:
    """Unit-block products of every kernel, against one product for each filter."""
    subject = resnet_cifar()
    network, batch, vector = subject.network, subject.batch, subject.vector
    cuts = {f"{path}, {unit}": only(vector, path, unit) for path, unit in FILTERS}
    works = {name: functools.partial(jp.curvature.hvp, network, LOSS, batch, cut) for name, cut in cuts.items()}
    timings = measure(
        subject.gradient,
        {"units": lambda: jp.curvature.block_product(network, LOSS, batch, vector, "unit", scope=subject.kernels)}
        | works,
        rounds,
    )
    row = timings["units"].row("unit-block products of every kernel", at_most=3.0)
    found = timings["units"].result
    if found is not None:
        ours = {f"{path}, {unit}": jp.tree.leaf(found, path)[..., unit] for path, unit in FILTERS}
        exact = {
            f"{path}, {unit}": jp.tree.leaf(timings[f"{path}, {unit}"].result, path)[..., unit]
            for path, unit in FILTERS
        }
        row = same(row, difference(ours, exact), f"products of {len(FILTERS)} filters alone")
    yield row
    filters = sum(leaf.shape[-1] for leaf in subject.in_scope(network.params).values())
    rounds_of_each = zip(*(timings[name].seconds for name in works), strict=True)
    alone = Timing(seconds=[sum(seconds) / len(works) for seconds in rounds_of_each])
    note = f"extrapolated: the mean of {len(works)} products, times the {filters} filters of the kernels in scope"
    yield alone.over(timings["units"], "  one product for each filter, over that", filters, at_least=300.0, note=note)


def layers(rounds: int) -> Iterator[Row]:
    """Layer-block products of every kernel, against three ways of PyTorch."""
    subject = resnet_cifar()
    side = other_side(subject)
    timings = measure(
        subject.gradient,
        {
            "layers": lambda: layer_products(subject),
            "torch shared": lambda: side().layers_shared_graph(),
            "torch one by one": lambda: side().layers_one_by_one(),
            "curvlinops": lambda: side("layers_curvlinops")(),
        },
        rounds,
    )
    row = timings["layers"].row("layer-block products of every kernel", at_most=3.0)
    theirs = timings["torch shared"]
    yield agreed(row, timings["layers"], theirs, lambda found: named(side, "kernels", found), subject.in_scope)
    yield timings["torch shared"].row("  PyTorch: one graph shared by all layers", first=None)
    yield timings["torch one by one"].row("  PyTorch: forward over reverse, layer by layer", first=None)
    yield timings["curvlinops"].row("  curvlinops: a block for each kernel", first=None)
    best = fastest(timings[name] for name in ("torch shared", "torch one by one", "curvlinops"))
    yield timings["layers"].over(best, "  layer-block products over the fastest of these", at_most=0.5)


def layers_deep(rounds: int) -> Iterator[Row]:
    """Layer-block products of a ResNet-110."""
    subject = resnet_cifar(depth=110)
    timings = measure(subject.gradient, {"layers": lambda: layer_products(subject)}, max(2, rounds // 3))
    yield timings["layers"].row("layer-block products of every kernel, ResNet-110", at_most=2.8)


def layers_many_classes(rounds: int) -> Iterator[Row]:
    """Layer-block products with a hundred classes."""
    subject = resnet_cifar(classes=100)
    timings = measure(subject.gradient, {"layers": lambda: layer_products(subject)}, max(2, rounds // 2))
    yield timings["layers"].row("layer-block products of every kernel, 100 classes", at_most=5.0)


def diagonal(rounds: int) -> Iterator[Row]:
    """The exact diagonal, against BackPACK."""
    subject = resnet_cifar()
    side = other_side(subject)
    timings = measure(
        subject.gradient,
        {
            "backpack": lambda: side("diagonal_backpack")(),
            "diagonal": lambda: jp.curvature.diagonal(subject.network, LOSS, subject.batch, scope=subject.kernels),
        },
        rounds,
    )
    row = timings["diagonal"].row("exact diagonal of every kernel", at_most=4.5)
    theirs = timings["backpack"]
    yield agreed(row, timings["diagonal"], theirs, lambda found: named(side, "kernels", found), subject.in_scope)
    yield theirs.row("  BackPACK: DiagGGNExact of the kernels, equal for this network", first=None)
    yield timings["diagonal"].over(theirs, "  exact diagonal over BackPACK", at_most=0.5)


def layer_products(subject: Subject) -> Any:
    """Computes the layer-block products of every kernel."""
    vector, kernels = subject.vector, subject.kernels
    return jp.curvature.block_product(subject.network, LOSS, subject.batch, vector, "layer", scope=kernels)


def other_side(subject: Subject) -> Callable[..., Any]:
    """Returns what makes the PyTorch side of a CIFAR ResNet on first use, or one of its prepared quantities."""

    @functools.cache
    def side(quantity: str = "") -> Any:
        # PyTorch may be missing; then this raises, and what asked for it is reported as not measured.
        from benchmark_torch import ResNet, Side

        if quantity:
            return getattr(side(), quantity)()
        module = subject.network.apply.module
        return Side(subject, ResNet(module.blocks, module.classes, module.width))

    return side


def whole(subject: Subject) -> Callable[[Any], dict[str, Any]]:
    """Returns what names every leaf of a tree."""
    names = jp.tree.names(subject.network.params)
    return lambda found: dict(zip(names, jax.tree.leaves(found), strict=True))


def named(side: Callable[..., Any], names: str, found: Any) -> dict[str, Any]:
    """Brings a result of the other side into our names and layout."""
    return side().named(getattr(side(), names), found)


def agreed(
    row: Row,
    ours: Timing,
    theirs: Timing,
    translate: Callable[[Any], Mapping[str, Any]],
    select: Callable[[Any], Mapping[str, Any]],
) -> Row:
    """Compares the numbers of both sides, so that times of equal quantities stand side by side."""
    if ours.missing or theirs.missing:
        return row
    return same(row, difference(select(ours.result), translate(theirs.result)), "the other side")


def same(row: Row, error: float, other: str) -> Row:
    """Notes how far numbers differ; a row whose numbers are not the same quantity counts as not measured."""
    if error <= SAME:
        return dataclasses.replace(row, note=f"numbers agree with {other} within {error:.1e}")
    return dataclasses.replace(row, missing=f"its numbers differ from {other} by {error:.1e}")
