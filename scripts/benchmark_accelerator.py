"""Networks of ImageNet's size on an accelerator, beside curvlinops compiled in the same run."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from benchmark_curvature import agreed, named, whole
from benchmark_networks import LOSS, Subject, subject
from benchmark_rows import Row, measure

import jaxprune as jp


def resnet50(rounds: int) -> Iterator[Row]:
    """A ResNet-50 at 224, batch 64, 1000 classes."""
    yield from large("ResNet-50 at 224, batch 64", lambda: jp.models.resnet(50), _torch_resnet, rounds)


def vit_small(rounds: int) -> Iterator[Row]:
    """A ViT-S/16 at 224, batch 64, 1000 classes."""
    yield from large("ViT-S/16 at 224, batch 64", lambda: jp.models.vit("s"), _torch_vit, rounds)


def large(title: str, make: Callable[[], Any], convert: Callable[[Any], Any], rounds: int) -> Iterator[Row]:
    """Measures the products and the unit blocks of a large network, where there is an accelerator."""
    if jax.default_backend() == "cpu":
        yield Row(title, missing="not run: there is no accelerator here")
        return
    here = subject(make(), image=224, batch=64, classes=1000)
    network, batch, vector = here.network, here.batch, here.vector
    prepared: dict[str, Any] = {}

    def theirs(quantity: str) -> Any:
        if not prepared:
            prepared["side"] = _side(here, convert)
        if quantity not in prepared:
            prepared[quantity] = prepared["side"].compiled_curvlinops(quantity)
        return prepared[quantity]()

    timings = measure(
        here.gradient,
        {
            "gradient": here.gradient,
            "hvp": lambda: jp.curvature.hvp(network, LOSS, batch, vector),
            "ggnvp": lambda: jp.curvature.ggnvp(network, LOSS, batch, vector),
            "curvlinops hvp": lambda: theirs("hessian"),
            "curvlinops ggnvp": lambda: theirs("ggn"),
        },
        rounds,
    )
    units = measure(
        here.gradient,
        {"units": lambda: jp.curvature.block_product(network, LOSS, batch, vector, "unit", scope=here.kernels)},
        1,
    )
    yield timings["gradient"].row(f"gradient, {title}")
    for name, text, bound in (("hvp", "Hessian-vector product", 2.5), ("ggnvp", "Gauss-Newton product", 2.2)):
        ours, other = timings[name], timings[f"curvlinops {name}"]
        yield ours.row(f"  {text}", at_most=bound)
        row = other.row(f"  curvlinops compiled: {text}")
        yield agreed(row, ours, other, lambda found: named(lambda: prepared["side"], "names", found), whole(here))
        yield timings[name].over(other, f"  {text} over curvlinops")
    yield units["units"].row("  unit-block products of every kernel")


def _side(here: Subject, convert: Callable[[Any], Any]) -> Any:
    # PyTorch may be missing; then this raises, and what asked for it is reported as not measured.
    from benchmark_torch import Side

    return Side(here, convert(here.network.apply.module))


def _torch_resnet(module: Any) -> Any:
    from benchmark_torch import ResNet

    options = {"bottleneck": module.bottleneck, "large_images": module.large_images}
    return ResNet(module.depths, module.classes, module.width, **options)


def _torch_vit(module: Any) -> Any:
    from benchmark_torch import ViT

    return ViT(module.width, module.heads, module.depth, module.patch, module.image, module.classes)
