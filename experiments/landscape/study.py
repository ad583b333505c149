"""What does the loss look like around a dense, a pruned and a fine-tuned network?

    python -m experiments.landscape --data digits

The network, the tasks, the frozen heads and the splits are those of ``experiments.transfer``.  Around every network, on
the task that pruned and fine-tuned it and on one it was never shown, this measures the curvature in the weights that it
has, whether the two tasks agree about the sharpest directions, what a Taylor expansion predicts of pruning, slices of
the loss, and barriers between networks.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from rich.console import Console

import jaxprune as jp
from experiments import landscape_page, transfer, transfer_data
from experiments.transfer_data import Opened
from experiments.transfer_grid import Common, check_common, each_once
from jaxprune import check, records
from jaxprune.evaluate.transfer import mean_loss, with_head

# ---------------------------------------------------------------------------------------------------------- settings


@dataclass(frozen=True)
class Settings(Common):
    """What decides the numbers of a run, apart from seed and score."""

    transfer: str = ""
    """The task that the network is never shown.  Empty: the first one that is not the source."""
    sparsity: float = 0.8
    """Of every pruned network."""
    matrix: str = "hessian"
    """hessian or ggn: what the curvature is taken of."""
    count: int = 10
    """Eigenvalues and eigenvectors."""
    steps: int = 40
    """Products that Lanczos takes, for the eigenpairs and for each probe of the density."""
    probes: int = 2
    """Random vectors behind a density."""
    trace_probes: int = 15
    """Random vectors behind a trace."""
    points: int = 11
    """Of a pruning path, of a barrier, and along each direction of a slice."""
    reach: float = 1.0
    """Of a slice, in lengths of the filters."""


@dataclass(frozen=True)
class Run(Settings):
    """A network, pruned and fine-tuned, and one record."""

    seed: int = dataclasses.field(kw_only=True)
    score: str = dataclasses.field(kw_only=True)


@dataclass(frozen=True)
class Study(Settings):
    """For every seed the dense network, and one pruned by every score."""

    scores: tuple[str, ...] = ("magnitude", "snip", "random")
    seeds: tuple[int, ...] = (0, 1, 2)
    out: Path = Path("results/landscape")
    """Where records, checkpoints, tables and the page go.  What is there already is not computed again."""
    margin: float = 0.1
    """A barrier is none if it stays below this share of the loss at its ends; only the verdicts depend on it."""


def grid(study: Study) -> list[Run]:
    """Lists the runs of a study, a seed at a time, the dense network first."""
    fields = {field.name: getattr(study, field.name) for field in dataclasses.fields(Settings)}
    return [Run(**fields, seed=seed, score=score) for seed in study.seeds for score in ("dense", *study.scores)]


def validate(study: Study) -> tuple[Opened, jp.data.Task]:
    """Opens the data and finds the two tasks, and every bad value, before anything expensive starts."""
    check.sparsity(study.sparsity)
    check.choice("matrix", study.matrix, ("hessian", "ggn"))
    for name in ("count", "steps", "probes", "reach", "margin"):
        check.positive(name, getattr(study, name))
    for name in ("trace_probes", "points"):
        if getattr(study, name) < 2:
            raise ValueError(f"{name}: expected 2 or more, but got {getattr(study, name)}.")
    if study.count > study.steps:
        raise ValueError(f"count: expected at most steps ({study.steps}), but got {study.count}. Take more steps.")
    each_once("scores", study.scores)
    check_common(study, study.scores, study.seeds, study.out)
    opened = transfer_data.open_plain(study, study.seeds)
    others = [task for task in opened.tasks if task.name != opened.source.name]
    return opened, jp.data.find_task(others, study.transfer) if study.transfer else others[0]


# -------------------------------------------------------------------------------------------------- what is looked at


@dataclass(frozen=True)
class Scene:
    """What all runs of one seed share: the world of the transfer study, and the two tasks to look at it from."""

    world: transfer.World
    images: dict[str, list[dict[str, Any]]]
    others: dict[str, list[dict[str, Any]]]
    calibration: dict[str, Any]
    dense: jp.Network
    dense_tuned: jp.Network

    def headed(self, network: jp.Network, task: str) -> jp.Network:
        """Puts the frozen head of a task on a network."""
        return with_head(network, self.world.heads[task])

    def calibrated(self, network: jp.Network, task: str) -> jp.Network:
        """Does so, and keeps what ``jp.geometry.barrier`` needs to recalibrate BatchNorm."""
        headed = self.headed(network, task)
        return headed.replace(train_apply=_Calibrated(headed.apply, network.train_apply))


@dataclass(frozen=True)
class _Calibrated:
    headed: Any
    body: Any

    def __call__(self, params: Any, state: Any, images: Any, rngs: Any) -> tuple[Any, Any]:
        _, inner = self.body(params, state["network"], images, rngs)
        return self.headed(params, state, images), {**state, "network": inner}


def prepare(settings: Settings, seed: int, opened: Opened, other: jp.data.Task, out: Path, tx: Any) -> Scene:
    """Makes the world of a seed, and fine-tunes its dense network: extra training without pruning."""
    world = transfer.prepare(settings, seed, opened, out)

    def of(part: str, task: jp.data.Task) -> list[dict[str, Any]]:
        return list(transfer.batches(opened.part(seed, part, task.classes)))

    tasks = {"source": opened.source, "transfer": other}
    everything = jp.masks.ones(world.dense.params)
    return Scene(
        world=world,
        images={name: of("scoring", task) for name, task in tasks.items()},
        others={name: of("head", task) for name, task in tasks.items()},
        calibration=opened.part(seed, "pretraining"),
        dense=world.dense,
        dense_tuned=transfer.finetune(world, settings, world.dense, everything, tx, seed),
    )


# ------------------------------------------------------------------------------------------------------ measurements


def curvature(scene: Scene, run: Run, network: jp.Network, mask: Any, names: dict[str, str]) -> dict[str, Any]:
    """Measures the spectrum in the weights that the network has, on both tasks, and how their tops align.

    The control of the alignment is the source task itself on other images of it.
    """
    key = jax.random.key(run.seed)

    def look(task: str, images: list[dict[str, Any]]) -> jp.geometry.Operator:
        headed = scene.headed(network, names[task])
        return jp.geometry.operator(
            headed, scene.world.loss, images, matrix=run.matrix, scope=scene.world.prunable, kept=mask
        )

    result, tops = {}, {}
    for task, images in scene.images.items():
        operator = look(task, images)
        top = jp.geometry.eigenpairs(operator, key=key, count=run.count, steps=run.steps)
        lowest = jp.geometry.density(operator, key=key, probes=run.probes, steps=run.steps)
        total = jp.geometry.trace(operator, key=key, probes=run.trace_probes)
        tops[task] = top.vectors
        result[task] = {
            "loss": mean_loss(scene.world.loss, images)(scene.headed(network, names[task]))["loss"],
            "weights": operator.size,
            "eigenvalues": top.values.tolist(),
            "residuals": top.residuals.tolist(),
            "lowest": float(lowest.nodes.min()),
            "trace": total._asdict(),
            "density": {"grid": lowest.grid.tolist(), "values": lowest.values.tolist()},
        }
    again = jp.geometry.eigenpairs(look("source", scene.others["source"]), key=key, count=run.count, steps=run.steps)
    for name, vectors in {"transfer": tops["transfer"], "other images": again.vectors}.items():
        found = jp.geometry.alignment(tops["source"], vectors)
        result.setdefault("alignment", {})[name] = {"overlap": found.overlap, "chance": found.chance}
    return result


def slices(scene: Scene, run: Run, network: jp.Network, mask: Any, names: dict[str, str]) -> dict[str, Any]:
    """Cuts the loss of both tasks along one and two filter-normalised directions of the weights that are there."""
    keys = jax.random.split(jax.random.key(run.seed), 2)
    first, second = (jp.geometry.filter_normalised(network.params, key, kept=mask) for key in keys)
    result = {}
    for task, images in scene.images.items():
        cut = jp.geometry.plane(
            scene.headed(network, names[task]),
            scene.world.loss,
            images,
            first,
            second,
            reach=run.reach,
            points=run.points,
        )
        result[task] = {"distances": cut.distances.tolist(), "losses": cut.losses.tolist()}
    return result


def pruning(scene: Scene, run: Run, mask: Any, names: dict[str, str]) -> dict[str, Any]:
    """Follows the loss of the dense network to the pruned one, and measures the curvature in what pruning removes."""
    result = {}
    for task, images in scene.images.items():
        headed = scene.headed(scene.dense, names[task])
        path = jp.geometry.pruning_path(headed, scene.world.loss, images, mask, points=run.points, matrix=run.matrix)
        removed = jp.geometry.operator(headed, scene.world.loss, images, matrix=run.matrix, pruned=mask)
        total = jp.geometry.trace(removed, key=jax.random.key(run.seed), probes=run.trace_probes)
        result[task] = {
            "path": {name: values.tolist() for name, values in path._asdict().items()},
            "weights": removed.size,
            "trace": total._asdict(),
        }
    return result


def barriers(scene: Scene, run: Run, pairs: dict[str, tuple[jp.Network, jp.Network]], names: Any) -> dict[str, Any]:
    """Measures the barrier between the networks of every pair, on both tasks, with statistics of all classes."""
    result: dict[str, Any] = {}
    for pair, (left, right) in pairs.items():
        for task, images in scene.images.items():
            found = jp.geometry.barrier(
                scene.calibrated(left, names[task]),
                scene.world.loss,
                images,
                scene.calibrated(right, names[task]),
                key=jax.random.key(run.seed),
                points=run.points,
                calibration=[scene.calibration],
            )
            result.setdefault(pair, {})[task] = {
                "height": found.height,
                "shares": found.shares.tolist(),
                "losses": found.losses.tolist(),
            }
    return result


def execute(scene: Scene, run: Run, mask: Any, tx: Any, names: dict[str, str]) -> dict[str, Any]:
    """Prunes and fine-tunes, and looks around each network."""
    world = scene.world
    pruned = transfer.prune(world, run, mask, run.seed)
    tuned = transfer.finetune(world, run, pruned, mask, tx, run.seed)
    # Another seed that no run of a study has: the same images in another order.
    again = transfer.finetune(world, run, pruned, mask, tx, run.seed + 10**6)
    pairs = {"by fine-tuning": (pruned, tuned), "other data order": (tuned, again)}
    dense = run.score == "dense"
    if not dense:
        pairs["to dense fine-tuned"] = (scene.dense_tuned, tuned)
    stages = {"pruned": pruned, "finetuned": tuned}
    return {
        "tasks": names,
        "accuracy": {
            stage: {
                task: jp.evaluate.transfer.accuracy(scene.images[task])(scene.headed(network, name))["accuracy"]
                for task, name in names.items()
            }
            for stage, network in stages.items()
        },
        "curvature": {stage: curvature(scene, run, network, mask, names) for stage, network in stages.items()},
        "slices": {stage: slices(scene, run, network, mask, names) for stage, network in stages.items()},
        "pruning": {} if dense else pruning(scene, run, mask, names),
        "barriers": barriers(scene, run, pairs, names),
        "sparsity": jp.masks.sparsity(mask, world.prunable),
        "mask": records.fingerprint(*map(np.asarray, jax.tree.leaves(mask))),
    }


# ---------------------------------------------------------------------------------------------------------- the study


def main(study: Study, console: Console | None = None) -> Path:
    """Computes what is missing of a study, writes its page, and returns where that lies."""
    console = console or Console()
    opened, other = validate(study)
    study = dataclasses.replace(study, source=opened.source.name, transfer=other.name)
    names = {"source": study.source, "transfer": study.transfer}
    store = records.Store(study.out / "records", "landscape")
    runs = grid(study)
    missing = store.missing(runs)
    console.print(f"{len(runs)} runs, {len(missing)} of them to do.")
    tx = transfer.transformation(study)
    for seed in dict.fromkeys(run.seed for run in missing):
        scene = prepare(study, seed, opened, other, study.out, tx)
        for run in (run for run in missing if run.seed == seed):
            start = time.perf_counter()
            mask_at: Callable[[float], Any] = transfer.masks_of(scene.world, study, run.score, seed)
            metrics = execute(scene, run, mask_at(run.sparsity), tx, names)
            seconds = time.perf_counter() - start
            store.write(run, metrics, records.provenance(scene.world.fingerprint, seconds))
            shown = [metrics["curvature"][stage]["source"]["eigenvalues"][0] for stage in ("pruned", "finetuned")]
            console.print(f"seed {seed}  {run.score:16} largest eigenvalue {shown[0]:.3g} -> {shown[1]:.3g}")
    return landscape_page.write(study, [store.read(run) for run in runs], console)


def command() -> None:
    """Reads the command line; a bad value ends in one line, without a traceback."""
    study = tyro.cli(Study, description=__doc__)
    try:
        validate(study)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    main(study)


if __name__ == "__main__":
    command()
