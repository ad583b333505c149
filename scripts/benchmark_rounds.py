"""What a round of compensation takes, in gradients: what is charged for it is an upper bound of what is measured."""

from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import numpy as np
from benchmark_rows import Row, measure

import jaxprune as jp
from jaxprune.pruning import compensation, systems
from jaxprune.pruning.objective import objective

IMAGES, SPARSITY = 512, 0.8


def prices(rounds: int) -> Iterator[Row]:
    """Times the parts of a solution on ResNet-8 of width 6 and 512 digits, by products and with the Jacobian."""
    module = jp.models.resnet_cifar(8, 10, 6)
    images = jp.data.as_float(jp.data.digits().images(np.arange(IMAGES)))
    network = jp.Network.from_linen(module, jax.jit(module.init)(jax.random.key(0), images[:1]))
    prunable = jp.tree.prunable(network.params, exclude="^head/")
    mask = jp.masks.unstructured(SPARSITY)(jp.scores.magnitude()(network, []), prunable)
    target = objective(network, jp.losses.distillation(), [{"image": images}])
    point = jp.masks.apply(mask, network.params)
    written = systems.system(target, point, mask)
    with mock.patch.object(systems, "_COLUMNS", 0):
        multiplied = systems.system(target, point, mask)
        rows = measure(lambda: target.gradient(point), _works(target, point, mask, written, multiplied), rounds)
    charged: dict[str, float | None] = {
        "product": compensation.PRODUCT,
        "value on the images held out": compensation.VALUE,
        "estimate of the diagonal": compensation.DIAGONAL,
        "product with the Jacobian": compensation.PRODUCT,
        "writing the Jacobian": None,
    }
    for name, most in charged.items():
        row = rows[name].row(f"rounds: {name}, ResNet-8, {IMAGES} digits, {SPARSITY:.0%} pruned")
        yield row if most is None else Row(**{**vars(row), "at_most": most})
    product, quick, whole = (np.median(rows[name].gradients) for name in (*list(charged)[:1], *list(charged)[3:]))
    twenty = (whole + 20 * quick) / (compensation.DIAGONAL + 20 * compensation.PRODUCT)
    yield Row("  20 steps with the Jacobian over what is charged for them", (float(twenty),), "times", at_most=1.0)
    yield Row("  a product over one with the Jacobian", (float(product / quick),), "times")


def _works(target: Any, point: Any, mask: Any, written: systems.System, multiplied: systems.System) -> dict[str, Any]:
    vector = multiplied.gather(target.gradient(point))
    return {
        "product": lambda: multiplied.product(vector),
        "value on the images held out": lambda: target.value(point),
        "estimate of the diagonal": lambda: systems._diagonal(target, point, mask),
        "product with the Jacobian": lambda: written.product(vector),
        "writing the Jacobian": lambda: systems.jacobian(target.at(point), target.loss, target.fitted, mask, most=64),
    }
