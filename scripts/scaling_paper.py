"""What large runs would take on a pod, on paper: plans from traces, and the figures of the device; nothing is run.

A plan says what a quantity costs in gradients of the same images, each of which takes three forward passes of
arithmetic.  Its ratios weigh operations by what they take on a CPU: on a matrix unit what moves bytes weighs more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from jaxprune.sites import operations

LOSS = jp.losses.cross_entropy


class Device(NamedTuple):
    """A chip, and what is assumed of it.

    Attributes:
      name: of the chips.
      chips: how many.
      peak: bfloat16 operations a second, of one.
      memory: bytes, of one.
      bandwidth: bytes a second, of one.
      passes: of bfloat16 that a product of float32 takes, at the precision that exactness needs.
      share: of the peak that is reached: an assumption.
    """

    name: str
    chips: int
    peak: float
    memory: float
    bandwidth: float
    passes: int
    share: float

    @property
    def speed(self) -> float:
        """Operations of float32 a second, of all chips."""
        return self.chips * self.peak / self.passes * self.share


V5E = Device("TPU v5e", 256, 197e12, 16e9, 819e9, 6, 0.4)
"""Google Cloud, Cloud TPU documentation, "TPU v5e", docs.cloud.google.com/tpu/docs/v5e: 197 TFLOP/s in bfloat16, 16 GB
of memory and 819 GB/s a chip, 256 chips in a pod."""

IMAGES = (10_000, 1_281_167)


@dataclass(frozen=True)
class Subject:
    """A network, the matrix that is exact for it at a bearable cost, and the images that a chip has at a time."""

    name: str
    module: Any
    matrix: str
    each: int


def subjects() -> list[Subject]:
    """The two networks."""
    return [
        Subject("ResNet-50", jp.models.resnet(50), "hessian", 4),
        Subject("ViT-L/16", jp.models.vit("l", 16, 224, 1000), "ggn", 1),
    ]


QUANTITIES: dict[str, dict[str, Any]] = {
    "exact diagonal": {"quantity": "diagonal"},
    "unit-block products": {"quantity": "block_product"},
    "estimated diagonal, 2 probes": {"quantity": "diagonal", "probes": 2},
}


def network(module: Any) -> jp.Network:
    """A network of zeros, of which only shapes are read."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 224, 224, 3), np.float32))
    return jp.Network.from_linen(module, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))


def batch(images: int) -> dict[str, Any]:
    """Images of zeros."""
    return {"image": np.zeros((images, 224, 224, 3), np.float32), "label": np.zeros(images, np.int32)}


def forward(net: jp.Network) -> int:
    """Operations of one image's forward pass, two for every multiplication."""
    return operations.total(jp.sites.survey(net, np.zeros((1, 224, 224, 3), np.float32)).program)


def rows(only: str | None = None) -> Iterator[str]:
    """A line for every network, quantity and number of images; at last that of 64 devices."""
    chip = V5E
    yield (
        f"{chip.name}, {chip.chips} chips of {chip.peak / 1e12:.0f} TFLOP/s (bfloat16), {chip.memory / 1e9:.0f} GB and "
        f"{chip.bandwidth / 1e9:.0f} GB/s. Assumed: float32 by {chip.passes} passes of bfloat16, {chip.share:.0%} of "
        f"the peak, so {chip.speed / chip.chips / 1e12:.1f} TFLOP/s a chip; a gradient is three forward passes. 1000 "
        "outputs, images of 224 x 224, all leaves."
    )
    yield f"{'network':10} {'quantity':29} {'matrix':8} {'gradients':>9} {'TFLOP/image':>11} {'GB/chip':>8}" + "".join(
        f" {count:>11,}" for count in IMAGES
    )
    for one in subjects():
        if only not in (None, one.name):
            continue
        net = network(one.module)
        gradient = 3 * forward(net)
        for words, asked in QUANTITIES.items():
            plan = jp.curvature.plan(
                net, LOSS, batch(one.each), matrix=one.matrix, memory=int(chip.memory / 2), compile=False, **asked
            )
            each = gradient * plan.gradients
            held = (plan.bytes + 4 * jp.tree.size(net.params)) / 1e9
            times = "".join(f" {duration(count * each / chip.speed):>11}" for count in IMAGES)
            yield (
                f"{one.name:10} {words:29} {one.matrix:8} {plan.gradients:9.1f} {each / 1e12:11.2f} {held:8.2f}{times}"
            )


def divided(devices: int = 64, each: int = 4) -> str:
    """The exact diagonal of ResNet-50 on so many devices, from its trace."""
    mesh = jp.mesh.make(jax.devices()[:devices])
    net = network(jp.models.resnet(50))  # a copy for each device of this machine would not fit
    images = jp.mesh.shard_batch(mesh, batch(devices * each))
    plan = jp.curvature.plan(net, LOSS, images, "diagonal", memory=int(V5E.memory), compile=False)
    held = plan.bytes + 4 * jp.tree.size(net.params)
    return (
        f"ResNet-50 at 224, 1000 outputs, exact diagonal, {devices} devices, {each} images on each: "
        f"{held / 1e9:.2f} GB a device of {V5E.memory / 1e9:.0f}; {plan.gradients:.1f} gradients"
    )


def duration(seconds: float) -> str:
    """Writes seconds as people say them.

    >>> duration(30.0), duration(5400.0), duration(4e5)
    ('30 s', '1.5 h', '4.6 days')
    """
    for length, name in ((86_400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= length:
            return f"{seconds / length:.1f} {name}"
    return f"{seconds:.0f} s"
