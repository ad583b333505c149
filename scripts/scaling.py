"""What a device does of work that is divided, on 1 to 64 simulated devices; nothing is run but what compiles.

    python scripts/scaling.py [--devices 1 2 8 64] [--images 8] [--only diagonal]
    python scripts/scaling.py paper      # what large networks would take on a pod, from plans alone

A row for each quantity, network and number of devices, at as many images a device: bytes of temporaries, the turns of
its longest loop, numbers in the largest all-gather, and operations, each of one device: by the library's own counter
where it divides loops itself, by the compiler's where that divides all.  Beside them, for all images on one device,
operations once more: 1 / devices of these is what can be had.
"""

import argparse
import itertools
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scaling_paper
from jax.sharding import NamedSharding, PartitionSpec

import jaxprune as jp
from jaxprune.curvature import blocks, estimates, routes
from jaxprune.curvature.compiled import Compiled
from jaxprune.curvature.counting import count_only
from jaxprune.curvature.requests import why_signals
from jaxprune.scores import one_block, solving, surgeon
from jaxprune.train import stepping

LOSS = jp.losses.cross_entropy
GATHER = re.compile(r"= \(?([^=]*?)\)? all-gather(?:-start)?\(")
SHAPE = re.compile(r"\w+\[([\d,]*)\]")
TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')


@dataclass
class Figures:
    """What the programs of a quantity take on one device.

    Attributes:
      temporaries: bytes, the most of any program.
      trips: turns of the longest loop.
      gathered: numbers in the largest all-gather.
      operations: weighted, of all calls.
    """

    temporaries: int = 0
    trips: int = 0
    gathered: int = 0
    operations: float = 0.0
    programs: list[str] = field(default_factory=list)

    def measure(self, program: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Compiled:
        """Compiles a program and reads what it takes; a ``Measure`` of the library's tasks."""
        compiled = program.trace(*arguments, **options).lower().compile()
        text = compiled.as_text()
        memory = compiled.memory_analysis()
        self.temporaries = max(self.temporaries, memory.temp_size_in_bytes)
        self.trips = max([self.trips, *map(int, TRIPS.findall(text))])
        gathered = (shape for found in GATHER.findall(text) for shape in SHAPE.findall(found))
        self.gathered = max([self.gathered, *(int(np.prod([int(n) for n in s.split(",") if n])) for s in gathered)])
        self.programs.append(text)
        return count_only(program, arguments, options)


def _image(x: Any, kernel: Any) -> Any:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@dataclass(frozen=True)
class Convolved:
    """Two convolutions and a head."""

    activation: Callable[[Any], Any]

    def __call__(self, p: Any, s: Any, x: Any) -> Any:
        """Evaluates it."""
        x = self.activation(_image(self.activation(_image(x, p["first"])), p["second"]))
        return x.mean((1, 2)) @ p["head"]


def networks() -> dict[str, jp.Network]:
    """A network whose Hessian signals serve, and one that takes products."""
    shapes = {"first": (3, 3, 3, 8), "second": (3, 3, 8, 16), "head": (16, 10)}
    params = {name: jnp.asarray(np.random.default_rng(0).normal(size=s) / 5, jnp.float32) for name, s in shapes.items()}
    return {name: jp.Network(Convolved(getattr(jax.nn, name)), params) for name in ("relu", "gelu")}


def _asked(network: jp.Network, batch: Any, matrix: str, size: str | int) -> Any:
    return blocks.request(network, LOSS, batch, matrix, size, None)


def _diagonal(matrix: str) -> Callable[[Any, Any], list[Any]]:
    return lambda network, batch: routes.diagonal_tasks(_asked(network, batch, matrix, "unit"))


def _product(size: str | int) -> Callable[[Any, Any], list[Any]]:
    return lambda network, batch: routes.product_tasks(_asked(network, batch, "hessian", size), network.params)


def _dense(network: Any, batch: Any) -> list[Any]:
    asked = _asked(network, batch, "ggn", "unit")
    return routes.signal_tasks(asked, asked.paths, [("dense", "unit")], None, why_signals(asked))


def _estimate(network: Any, batch: Any) -> list[Any]:
    return [estimates.sketch_task(_asked(network, batch, "ggn", "unit"), "diagonal", 2)]


TASKS: dict[str, Callable[[Any, Any], list[Any]]] = {
    "diagonal": _diagonal("hessian"),
    "fisher": _diagonal("empirical_fisher"),
    "unit": _product("unit"),
    "layer": _product("layer"),
    "runs": _product(4),
    "gram": _dense,
    "estimate": _estimate,
}
"""The tasks of every quantity that loops over examples."""


def of_task(name: str, network: jp.Network, devices: int, images: int, *, compiles: bool = True) -> Figures:
    """Compiles the tasks of a quantity for so many images on so many devices; or counts its operations only."""
    mesh = jp.mesh.make(jax.devices()[:devices])
    batch = {"image": np.zeros((images, 16, 16, 3), np.float32), "label": np.arange(images) % 10}
    batch = jp.mesh.shard_batch(mesh, batch) if devices > 1 else jax.tree.map(jnp.asarray, batch)
    placed = jp.mesh.replicate(mesh, network) if devices > 1 else network
    figures = Figures()
    for task in TASKS[name](placed, batch):
        _, operations, _ = task.cost(figures.measure if compiles else count_only)
        figures.operations += operations
    return figures


def of_solve(name: str, _: Any, devices: int, units: int, *, compiles: bool = True) -> Figures:
    """Compiles the solves of so many units of 96 inputs on so many devices, and what factors of 24 rows take."""
    mesh = jp.mesh.make(jax.devices()[:devices])
    placement = jp.mesh.Placement(mesh) if devices > 1 else None
    everywhere = NamedSharding(mesh, PartitionSpec())
    figures = Figures()
    measure = figures.measure if compiles else count_only

    def shaped(*shape: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=everywhere if devices > 1 else None)

    if name == "obs by factors":
        members = np.arange(units * 96, dtype=np.int32).reshape(units, 96)
        order = np.arange(units * 96, dtype=np.int32)
        given: tuple[Any, ...] = (shaped(units, 96), shaped(units, 24, 96), members, order, shaped())
        figures.operations = measure(surgeon._by_factors, given, {"placement": placement}).operations
        return figures
    given = (shaped(units, 96, 96), shaped(units, 96), shaped(units, 96, dtype=jnp.bool_), shaped())
    options = {"solve": SOLVES[name], "placement": placement}
    figures.operations = measure(solving._each_block, given, options).operations
    return figures


def of_whole(name: str, network: jp.Network, devices: int, images: int, *, compiles: bool = True) -> Figures:
    """Compiles what the compiler divides, for so many images on so many devices; always, since it counts too."""
    del compiles
    mesh = jp.mesh.make(jax.devices()[:devices])
    batch = {"image": np.zeros((images, 16, 16, 3), np.float32), "label": np.arange(images) % 10}
    batch = jp.mesh.shard_batch(mesh, batch)
    figures = Figures()
    program, arguments, options = WHOLE[name](jp.mesh.replicate(mesh, network), batch)
    figures.measure(program, arguments, options)
    analysis = program.lower(*arguments, **options).compile().cost_analysis()
    figures.operations = analysis["flops"]
    return figures


def _training(network: Any, batch: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    tx = optax.adam(1e-3)
    options = {"loss": LOSS, "update": tx.update}
    return stepping.step, (network, tx.init(network.params), batch, jax.random.key(0)), options


_GRADIENT = jax.jit(lambda network, batch: jp.curvature.gradient(network, LOSS, batch))
_HVP = jax.jit(lambda network, batch: jp.curvature.hvp(network, LOSS, batch, network.params))
_OUTPUTS = jax.jit(lambda network, images: jnp.argmax(network(images), axis=-1))

WHOLE: dict[str, Callable[[Any, Any], tuple[Any, tuple[Any, ...], dict[str, Any]]]] = {
    "gradient": lambda network, batch: (_GRADIENT, (network, batch), {}),
    "hvp": lambda network, batch: (_HVP, (network, batch), {}),
    "training step": _training,
    "evaluation": lambda network, batch: (_OUTPUTS, (network, batch["image"]), {}),
}
"""(network, batch) -> (program, arguments, options)."""

SOLVES = {
    "obs": one_block.costs_alone,
    "greedy": one_block.costs_in_turn,
    "update": one_block.readjustment,
    "obs by factors": None,
}


def rows(devices: list[int], images: int, only: str | None = None) -> Iterator[str]:
    """A line of text for each figure."""
    yield f"{'':18} devices  images a device  temporaries  longest loop  largest gather    operations  of one device"
    for kind, network in networks().items():
        most = max(leaf.size for leaf in jax.tree.leaves(network.params))
        for name in (*WHOLE, *TASKS, *(SOLVES if kind == "relu" else ())):
            if only is not None and only != name:
                continue
            for count in devices:
                figures = of_task if name in TASKS else of_whole if name in WHOLE else of_solve
                here = figures(name, network, count, images * count)
                alone = figures(name, network, 1, images * count, compiles=False)
                share = here.operations / alone.operations
                leaf = 96 * images * count if name in SOLVES else most
                yield (
                    f"{kind + ' ' + name:18} {count:7}  {images:15}  {here.temporaries:11}  {here.trips:12}  "
                    f"{here.gathered:7} of {leaf:6}  {here.operations:10.4g}  {share:13.3f}"
                )


def main() -> None:
    """Prints every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", nargs="?", choices=["rows", "paper"], default="rows")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 8, 64])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--only", choices=[*WHOLE, *TASKS, *SOLVES])
    given = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", max(given.devices))
    jax.config.update("jax_disable_most_optimizations", True)
    written = rows(given.devices, given.images, given.only)
    if given.what == "paper":
        written = itertools.chain(scaling_paper.rows(), (scaling_paper.divided() for _ in range(1)))
    for row in written:
        sys.stdout.write(f"{row}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
