"""Layers or neurons?  Both are removed together, step by step, until the network is really smaller.

    python -m experiments.joint_pruning --data digits

At every step a candidate without a block and one without filters are made of the current network, of equal operations;
both are tuned briefly; the chooser keeps one, which is tuned for longer (after arXiv 2506.04513).  Every step is saved
as a network that loads by itself.  Choosers and budgets are compared side by side, from the same dense networks.
"""

import dataclasses
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from rich.console import Console

import jaxprune as jp
from experiments import joint_page
from experiments.joint_search import LOSS, World, extra_training, make_search, size_of, transformation
from experiments.joint_settings import (
    CONTROL,
    FRACTIONS,
    Run,
    Study,
    grid,
    quirks,
    resolved,
    searched,
    trajectory,
    validate,
)
from experiments.joint_trajectory import Trajectory
from jaxprune import check, files, records
from jaxprune.evaluate import robustness, transfer
from jaxprune.structured import Step

# --------------------------------------------------------------------------------------------------------- the world


def prepare(study: Study, seed: int, images: Any) -> World:
    """Splits the data, trains the dense network (or loads it) and makes the conditions of the robustness tests."""
    parts = jp.data.split(images.labels, images.name, seed, FRACTIONS)
    data = {name: jp.data.select(images, indices) for name, indices in parts.items()}
    fingerprint = records.fingerprint(*(part[name] for part in data.values() for name in ("image", "label")))
    module = jp.models.resnet_cifar(study.depth, len(images.classes), study.width, keras=study.keras)
    dense = pretrain(study, module, seed, data["training"], fingerprint)
    suite = conditions(study, data["test"], seed).against(dense)
    return World(module, dense, data, suite, fingerprint)


def pretrain(study: Study, module: Any, seed: int, data: dict[str, Any], fingerprint: str) -> jp.Network:
    """Trains the dense network, or loads the checkpoint of an earlier run."""
    variables = jax.jit(module.init)(jax.random.key(seed), data["image"][:1])
    network = jp.Network.from_linen(module, variables, train={"train": True})
    names = ("pretrain_steps", "pretrain_rate", "batch_size", "optimizer")
    identity = {name: getattr(study, name) for name in names} | {"seed": seed, "data": fingerprint}
    identity["module"] = module.describe()
    folder = check.writable("out", study.out / "networks" / records.digest(identity)[:16])
    with files.locked(folder.with_suffix(".lock")):
        return jp.train.fit(
            network,
            LOSS,
            transformation(study.optimizer, study.pretrain_rate, study.pretrain_steps),
            data,
            steps=study.pretrain_steps,
            batch_size=study.batch_size,
            seed=seed,
            folder=folder,
            progress=f"pretraining, seed {seed}",
        )


def conditions(study: Study, test: dict[str, Any], seed: int) -> robustness.Suite:
    """The test set clean, corrupted, shifted and attacked."""

    def batches(changed: np.ndarray) -> jp.data.Batches:
        return jp.data.Batches({**test, "image": changed}, size_of(test))

    attacks = {}
    for epsilon in study.epsilons:
        name = f"{epsilon * 255:g}/255"
        attacks[f"fgsm-{name}"] = partial(robustness.fgsm, epsilon=epsilon)
        attacks[f"pgd-{name}"] = partial(robustness.pgd, epsilon=epsilon, step_size=epsilon / 4, steps=10)
    return robustness.Suite(
        LOSS,
        batches(test["image"]),
        corrupted={
            f"{name}-{severity}": batches(jp.data.corrupt(test["image"], name, severity, seed))
            for name in jp.data.CORRUPTIONS
            for severity in study.severities
        },
        shifted={name: batches(jp.data.shift(test["image"], name, seed)) for name in jp.data.SHIFTS},
        attacks=attacks,
    )


# ---------------------------------------------------------------------------------------------------------- the runs


def follow(run: Run, world: World, out: Path, console: Console) -> list[Step]:
    """Runs a search, or what is left of it, and saves every step."""
    config = dataclasses.asdict(run)
    folder = out / "trajectories" / trajectory(config)
    saved = Trajectory(folder, {"search": searched(config), "data": world.fingerprint})
    steps = saved.steps()
    search = (
        partial(extra_training, run, world)
        if run.chooser == CONTROL
        else partial(make_search(run, world), world.module, world.dense)
    )
    for step in search(steps[-1] if steps else None):
        saved.append(step, world.image_shape)
        steps.append(step)
        removed = 1 - step.macs / steps[0].macs
        console.print(f"seed {run.seed}  {run.budget}  {run.chooser:14} {step.number:2} {step.kind:8} {removed:6.1%}")
    jp.structured.export(steps[-1].network, world.image_shape, folder / "final.jaxexport")
    return steps


# ------------------------------------------------------------------------------------------------------ measurements


def measure(run: Run, world: World, steps: Sequence[Step]) -> dict[str, Any]:
    """Evaluates every step on the test split, and some of them under every condition."""
    test = world.data["test"]
    batches = jp.data.Batches(test, size_of(test))
    told = []
    for step in steps:
        hits = transfer.correct(jp.structured.reopen(world.module, world.dense, step), batches)
        told.append(
            {
                "number": step.number,
                "kind": step.kind,
                "macs": step.macs,
                "parameters": step.parameters,
                "filters": step.filters,
                "removed": step.removed,
                "scores": step.scores,
                "shape": step.specification.describe(),
                "hits": written(hits),
            }
        )
    robust = {}
    for number in checkpoints(run.checkpoints, len(steps)):
        reopened = partial(jp.structured.reopen, world.module, world.dense, steps[number])
        hits = world.dense_hits if number == 0 else world.suite.hits(reopened())
        robust[str(number)] = {name: written(each) for name, each in hits.items()}
    return {"steps": told, "robustness": robust, "labels": test["label"].tolist()}


def checkpoints(count: int, steps: int) -> list[int]:
    """Chooses steps evenly, the first and the last among them.

    >>> checkpoints(4, 8)
    [0, 2, 5, 7]
    """
    if count == 0 or count >= steps:
        return list(range(steps))
    return sorted({round(place * (steps - 1) / (count - 1)) for place in range(count)})


def written(hits: np.ndarray) -> str:
    """Writes bools as text."""
    return "".join("01"[int(hit)] for hit in hits)


def timed(world: World, steps: Sequence[Step]) -> dict[str, Any]:
    """Measures the latency of the last network against the dense one, and what the search took."""
    pair = {"dense": steps[0].network, "pruned": steps[-1].network}
    latency = {}
    for size in (1, 64):
        images = np.resize(world.data["test"]["image"], (size, *world.image_shape))
        found = jp.cost.compare(pair, images)
        latency[str(size)] = {
            **{name: one.seconds for name, one in found.latencies.items()},
            "ratio": [found.ratios["pruned"].median, found.ratios["pruned"].low, found.ratios["pruned"].high],
        }
    return {"latency": latency, "search_seconds": [step.seconds for step in steps[1:]]}


# --------------------------------------------------------------------------------------------------------- the study


def main(study: Study, console: Console | None = None) -> Path:
    """Computes what is missing of a study, writes its page, and returns where that lies."""
    console = console or Console()
    study = resolved(study)
    images = validate(study)
    for quirk in quirks(study) if study.paper else ():
        console.print(f"paper: {quirk}")
    store = records.Store(study.out / "records", "joint_pruning")
    runs = grid(study)
    missing = store.missing(runs)
    console.print(f"{len(runs)} runs, {len(missing)} of them to do.")
    for seed in dict.fromkeys(run.seed for run in missing):
        console.print(
            f"seed {seed}: the dense network and its tests. A search that is interrupted goes on when called again."
        )
        world = prepare(study, seed, images)
        for run in (run for run in missing if run.seed == seed):
            start = time.perf_counter()
            steps = follow(run, world, study.out, console)
            metrics = measure(run, world, steps)
            extra = timed(world, steps)
            provenance = records.provenance(world.fingerprint, time.perf_counter() - start)
            store.write(run, metrics, {**provenance, **extra})
    return joint_page.write(study, [store.read(run) for run in runs], console)


def command() -> None:
    """Reads the command line; a bad value ends in one line, without a traceback."""
    study = tyro.cli(Study, description=__doc__)
    try:
        validate(resolved(study))
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    main(study)


if __name__ == "__main__":
    command()
