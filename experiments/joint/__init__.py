"""Layers or neurons?  Both are removed together, step by step, until the network is really smaller.

At every step a candidate without a block and one without filters are made of the current network, of equal operations;
both are tuned briefly; the chooser keeps one, which is tuned for longer (after arXiv 2506.04513).  Every step is saved
as a network that loads by itself.  Choosers and budgets are compared side by side, from the same dense networks.
"""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from rich.console import Console

import jaxprune as jp
from experiments.joint import page, tables
from experiments.joint.options import method_of
from experiments.joint.results import Results, claims, evenly
from experiments.joint.search import LOSS, World, batches, search_steps, transformation
from experiments.joint.settings import FRACTIONS, RADIUS, VERSION, Inputs, Run, Settings, open_study, plan, quirks
from experiments.joint.trajectory import as_text
from experiments.shared import study
from experiments.shared.checkpoints import initialised, trained
from experiments.shared.discovered import discovered
from jaxprune.evaluate import robustness, transfer
from jaxprune.structured import Specification, Step


def prepare(settings: Settings, inputs: Inputs, seed: int) -> World:
    """Splits the data, trains the dense network (or loads it) and makes the conditions of the robustness tests."""
    images = inputs.images
    parts = jp.data.split(images.labels, images.name, seed, FRACTIONS)
    data = {name: jp.data.select(images, indices) for name, indices in parts.items()}
    if settings.network:
        module, network = discovered(settings.network, tuple(images.image_shape), len(images.classes))
    else:
        module = jp.models.resnet_cifar(settings.depth, len(images.classes), settings.width, keras=settings.keras)
        variables = initialised(module, jax.random.key(seed), data["training"]["image"][:1])
        network = jp.Network.from_linen(module, variables, train={"train": True})
    own = {"network": settings.network} if settings.network else {}
    dense = trained(
        settings.out,
        network,
        LOSS,
        transformation(settings.optimizer, settings.pretrain_rate, settings.pretrain_steps),
        data["training"],
        {"module": module.describe(), "optimizer": settings.optimizer, "rate": settings.pretrain_rate, **own},
        steps=settings.pretrain_steps,
        batch_size=settings.batch_size,
        seed=seed,
        progress=f"pretraining, seed {seed}",
    )
    suite = conditions(settings, data["test"], seed).against(dense)
    return World(settings.out, inputs.fingerprint, data, module, dense, suite)


def conditions(settings: Settings, test: dict[str, Any], seed: int) -> robustness.Suite:
    """Makes the test images under every corruption and shift, and configures the attacks."""
    attacks, levels = {}, itertools.product(jp.data.CORRUPTIONS, settings.severities)
    for epsilon in settings.epsilons:
        name = RADIUS.format(255 * epsilon)
        attacks[f"fgsm-{name}"] = partial(robustness.fgsm, epsilon=epsilon)
        attacks[f"pgd-{name}"] = partial(robustness.pgd, epsilon=epsilon, step_size=epsilon / 4, steps=10)
    corrupted = {f"{name}-{level}": jp.data.corrupt(test["image"], name, level, seed) for name, level in levels}
    shifted = {name: jp.data.shift(test["image"], name, seed) for name in jp.data.SHIFTS}
    cut = lambda found: {name: batches({**test, "image": images}) for name, images in found.items()}  # noqa: E731
    return robustness.Suite(LOSS, batches(test), corrupted=cut(corrupted), shifted=cut(shifted), attacks=attacks)


def measure(world: World, run: Run) -> dict[str, Any]:
    """Searches; evaluates every step on the test split, and some of them under every condition."""
    steps = search_steps(run, world)
    test = world.data["test"]
    classes = world.dense(test["image"][:1]).shape[1]
    reopened = partial(jp.structured.reopen, world.module, world.dense)
    described = [
        {
            **{name: getattr(step, name) for name in ("number", "kind", *tables.COUNTS, "removed", "scores")},
            **vars(method_of(vars(run), step.kind)),
            "shape": shape_of(step.specification, classes),
            "hits": as_text(transfer.correct(reopened(step), batches(test))),
        }
        for step in steps
    ]
    robust = {}
    for number in evenly(run.checkpoints, len(steps)):
        hits = world.dense_hits if number == 0 else world.suite.hits(reopened(steps[number]))
        robust[str(number)] = {name: as_text(each) for name, each in hits.items()}
    found = {"latency": latencies(world, steps), "search_seconds": [step.seconds for step in steps[1:]]}
    return {"steps": described, "robustness": robust, "labels": test["label"].tolist(), "provenance": found}


def shape_of(specification: Specification, classes: int) -> dict[str, Any]:
    """Writes the shape of a network: its own description, or the width of every group that was discovered."""
    if isinstance(specification, jp.structured.Traced):
        return {"classes": classes, "blocks": {group.name: [group.size] for group in specification.groups()}}
    return specification.describe()


def latencies(world: World, steps: Sequence[Step]) -> dict[str, Any]:
    """Measures the latency of the last network against the dense one."""
    pair, images = {"dense": steps[0].network, "pruned": steps[-1].network}, world.data["test"]["image"]
    latency = {}
    for size in tables.BATCHES:
        found = jp.cost.compare(pair, np.resize(images, (size, *world.image_shape)))
        ratio, seconds = found.ratios["pruned"], {name: one.seconds for name, one in found.latencies.items()}
        latency[str(size)] = {**seconds, "ratio": [ratio.median, ratio.low, ratio.high]}
    return latency


def outcome(run: Run, metrics: dict[str, Any]) -> str:
    """Says what came out of a run."""
    first, last = metrics["steps"][0], metrics["steps"][-1]
    accuracies = [f"{one['hits'].count('1') / len(one['hits']):.3f}" for one in (first, last)]
    return f"accuracy {' -> '.join(accuracies)}, {1 - last['macs'] / first['macs']:.1%} of the operations removed"


def estimate(settings: Settings, inputs: Inputs, console: Console) -> None:
    """Says what of the authors' choices a study with ``--paper`` has."""
    for quirk in quirks(settings):
        console.print(f"paper: {quirk}", markup=False, highlight=False)


STUDY = study.Study(
    name="joint",
    version=VERSION,
    open=open_study,
    plan=plan,
    shared=lambda run: run.seed,
    prepare=prepare,
    measure=measure,
    claims=claims,
    page=page.compose,
    results=lambda inputs, records: Results(records, inputs.tested),
    tables=tables.further,
    outcome=outcome,
    summary=page.summary,
    estimate=estimate,
)
