"""How a run of the study searches: what training is, which criteria, budget and chooser, and the control."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from rich.console import Console

import jaxprune as jp
from experiments.joint.options import BUDGETS, CHOOSERS, CRITERIA, LOSS
from experiments.joint.settings import CONTROL, Run, search_identity, trajectory_folder
from experiments.joint.trajectory import Build, Trajectory
from jaxprune import check, exclusive, processes, records
from jaxprune.evaluate import robustness
from jaxprune.structured import Step


@dataclass(frozen=True)
class World:
    """What all runs of one seed share: the splits, the dense network, and the conditions under which it is tested."""

    out: Path
    fingerprint: str
    data: dict[str, dict[str, Any]]
    module: jp.structured.Specification
    dense: jp.Network
    suite: robustness.Suite
    console: Console = dataclasses.field(default_factory=lambda: Console(stderr=True, quiet=not processes.is_first()))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(h, w, c)."""
        return self.data["test"]["image"].shape[1:]

    @cached_property
    def dense_hits(self) -> dict[str, np.ndarray]:
        """What the dense network gets right under every condition."""
        return self.suite.hits(self.dense)


def batches(data: dict[str, Any]) -> jp.data.Batches:
    """Cuts images that are evaluated into batches of up to 512."""
    return jp.data.Batches(data, min(512, len(data["label"])))


@lru_cache
def transformation(optimizer: str, rate: float, steps: int) -> optax.GradientTransformation:
    """The optimizer: with a schedule over so many steps, or at a constant rate (0 steps); a new one compiles anew."""
    if optimizer == "adamw":
        return optax.adamw(optax.cosine_decay_schedule(rate, steps) if steps else rate, weight_decay=1e-2)
    drops = {steps // 2: 0.1, steps * 3 // 4: 0.1}
    schedule = optax.piecewise_constant_schedule(rate, drops) if steps else rate
    # Keras's l2(1e-4) adds 1e-4 |w|^2 to the loss: a decay of 2e-4, of convolutions only.
    decay = optax.add_decayed_weights(2e-4, mask=partial(jax.tree.map, lambda leaf: leaf.ndim == 4))
    return optax.chain(decay, optax.sgd(schedule, momentum=0.9, nesterov=True))


@dataclass(frozen=True)
class Distilled:
    """Cross-entropy to the label and to the parent's outputs, ``(1 - share) CE(label) + share CE(parent)``."""

    share: float

    def __call__(self, outputs: Any, batch: Any) -> Any:
        return (1 - self.share) * LOSS(outputs, batch) + self.share * LOSS(outputs, batch | {"label": batch["teacher"]})


def tuner(run: Run, data: dict[str, Any]) -> jp.structured.Tune:
    """Makes what trains candidates and winners on the training split; with the same seeds for every chooser."""

    def tune(network: jp.Network, parent: jp.Network, step: int, stage: str) -> jp.Network:
        brief = stage == "brief"
        return jp.train.fit(
            network,
            Distilled(run.distil) if run.distil else LOSS,
            transformation(run.optimizer, run.tune_rate, 0 if brief else run.long_steps),
            data | ({"teacher": probabilities(parent, data)} if run.distil else {}),
            steps=run.brief_steps if brief else run.long_steps,
            batch_size=run.batch_size,
            seed=10_000 * (run.seed + 1) + 2 * step + (not brief),
        )

    return tune


_softmax = jax.jit(lambda network, images: jax.nn.softmax(network(images)))


def probabilities(network: jp.Network, data: dict[str, Any]) -> np.ndarray:
    """Returns the softmax of the outputs for every image."""
    found = [np.asarray(_softmax(network, batch["image"])) for batch in batches(data)]
    return np.concatenate(found)[: len(data["label"])]


def make_search(run: Run, world: World) -> jp.structured.Search:
    """Configures the search of a run."""
    scoring, seen = world.data["scoring"], batches(world.data[run.choose_on])
    # One object for both kinds where they are the same: it is asked once in a step.
    criteria = {name: CRITERIA[name](run) for name in {run.layer_criterion, run.neuron_criterion}}
    calibration = jp.data.Batches(scoring, len(scoring["label"]))
    recalibrate = partial(jp.train.recalibrate, batches=calibration, key=jax.random.key(0))
    examples = run.batch_size * (2 * run.brief_steps + run.long_steps)
    return jp.structured.Search(
        criteria={"layer": criteria[run.layer_criterion], "neurons": criteria[run.neuron_criterion]},
        chooser=CHOOSERS[run.chooser](run, seen),
        tune=tuner(run, world.data["training"]),
        scoring=batches(scoring),
        image_shape=world.image_shape,
        target=run.target or None,
        budget=BUDGETS[run.budget](run, seen),
        allocation=run.allocation,
        multiple=run.multiple,
        compaction=jp.structured.Compaction(run.compile_macs, examples) if run.compile_macs else None,
        adjust=recalibrate if run.recalibrate else None,
        seed=run.seed,
    )


def search_steps(run: Run, world: World) -> list[Step]:
    """Runs a search, or what is left of it, and saves every step."""
    config = records.plain(run)
    folder = check.writable("out", world.out / trajectory_folder(config, world.fingerprint))
    # Runs that differ only in what is measured share a search.  So do processes of one program: none has a part of it,
    # so whoever is first searches, and the others read what it found.
    with exclusive.wait(folder.with_suffix(".claim")):
        saved = Trajectory(folder, search_identity(config, world.fingerprint), _build(world))
        steps = saved.steps()
        search = partial(extra_training, run, world)
        if run.chooser != CONTROL:
            search = partial(make_search(run, world), world.module, world.dense)
        for step in search(steps[-1] if steps else None):
            saved.append(step, world.image_shape)
            steps.append(step)
            line = f"seed {run.seed}  {run.budget}  {run.chooser:14} {step.number:2} {step.kind:8}"
            world.console.print(f"{line} {1 - step.macs / steps[0].macs:6.1%}", highlight=False)
        _export(steps[-1], world, folder / "final.jaxexport")
    return steps


def _build(world: World) -> Build:
    """Reads what a specification of this seed's networks wrote."""
    if isinstance(world.module, jp.structured.Traced):
        return partial(jp.structured.Traced.described, network=world.dense)
    return jp.models.specification


def _export(step: Step, world: World, path: Path) -> None:
    """Writes the artefact to serve; a user's own function may not take a batch of any size."""
    try:
        jp.structured.export(step.network, world.image_shape, path)
    except Exception as error:
        if not isinstance(step.specification, jp.structured.Traced):
            raise
        world.console.print(
            f"{path.name} was not written, since the network takes no batch of an open size ({check.first_line(error)}"
            "): write x.shape[0] for len(x), and -1 in a reshape.",
            markup=False,
        )


def extra_training(run: Run, world: World, start: Step | None) -> Iterator[Step]:
    """Tunes the dense network as a search tunes what it keeps, and removes nothing: the control."""
    search = make_search(dataclasses.replace(run, chooser="random"), world)
    step = start or next(search(world.module, world.dense))
    if start is None:
        yield step
    for number in range(step.number + 1, _length(run, world) + 1):
        parent = jp.structured.reopen(world.module, world.dense, step)
        network = search.tune(search.tune(parent, parent, number, "brief"), parent, number, "long")
        params, state = jax.tree.map(np.asarray, (network.params, network.state["network"]))
        step = dataclasses.replace(step, number=number, kind="tuned", params=params, state=state)
        yield step


def _length(run: Run, world: World) -> int:
    """The steps of a search that removes as many operations in each as its budget says."""
    network = world.module, world.dense.params, world.dense.state
    book = jp.structured.account(*network, world.image_shape)
    amount = jp.structured.budgets.macs(run.share or None).amount(jp.structured.budgets.Base(*network, book))
    whole = book.macs(jp.structured.ones(book.groups))
    return round((run.target or 1.0) * whole / (amount or whole))
