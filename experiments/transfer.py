"""What does a network pruned for one task keep on the others?

    python -m experiments.transfer --data digits

Predictions of Iurada, Occhiena and Tommasi (2025), arXiv 2509.24066: (P1) a pretrained network pruned with data of one
task keeps its zero-shot accuracy on that task and on tasks it was never shown, up to high sparsity; (P2) fine-tuning on
the source task alone helps the others too.  The protocol is ours: the paper's splits, grid and settings were not to be
had.  Every split is disjoint, and the head of a task is fitted once, on features of the dense network, and then frozen.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import tyro
from rich.console import Console

import jaxprune as jp
from experiments import options, transfer_data, transfer_dry_run, transfer_page
from experiments.transfer_data import Opened
from experiments.transfer_grid import FINETUNE_RATE, Common, Run, Study, completed, grid, mine, validate
from jaxprune import check, files, records
from jaxprune.evaluate import transfer
from jaxprune.evaluate.heads import HeadMaker

LARGEST_BATCH = 256
"""Images that are scored or evaluated at a time, where no setting says so."""

# ----------------------------------------------------------------------------- the dense network and its heads


@dataclass(frozen=True)
class Domain:
    """Test images of a task: as they are, or shifted."""

    task: jp.data.Task
    shift: str | None
    data: dict[str, Any]

    @property
    def name(self) -> str:
        """What records and figures call it."""
        return f"{self.task.name} + {self.shift}" if self.shift else self.task.name


@dataclass(frozen=True)
class World:
    """What all runs of one seed share."""

    loss: jp.types.Loss
    source: jp.data.Task
    dense: jp.Network
    makers: dict[str, HeadMaker]
    heads: dict[str, jp.Network]
    prunable: Any
    scoring: Sequence[dict[str, Any]]
    scoring_loss: float
    scoring_gradient: Any
    finetuning: dict[str, Any]
    fitting: dict[str, dict[str, Any]]
    tests: dict[str, Domain]
    pretrained: dict[str, float] | None
    fingerprint: str
    skipped: dict[str, int]
    separate_tests: bool
    largest: int

    def headed(self, network: jp.Network) -> jp.Network:
        """Puts the frozen head of the source task on a network."""
        return transfer.with_head(network, self.heads[self.source.name])

    def features(self, network: jp.Network, data: dict[str, Any], name: str) -> np.ndarray:
        """Reads the features of all images."""
        return transfer.features(network, batches(data, self.largest, name))


def prepare(
    settings: Common, seed: int, opened: Opened, out: Path, shifts: Sequence[str] = (), largest: int = LARGEST_BATCH
) -> World:
    """Splits the data, pretrains the network (or takes the one that was loaded) and fits the frozen heads."""
    tasks, source = opened.tasks, opened.source
    dense, pretrained = the_dense_network(settings, seed, opened, out)
    data = {
        (task.name, name): opened.part(seed, name, task.classes)
        for task in tasks
        for name in ("head", "selection", "test")
    }
    makers, heads = {}, {}
    for task in tasks:
        fitting = data[task.name, "head"]
        features = transfer.features(dense, batches(fitting, largest))
        selection = data[task.name, "selection"]
        makers[task.name] = choose_head(settings, dense, features, fitting["label"], selection, largest)
        heads[task.name] = makers[task.name](features, fitting["label"], len(task.classes))
    clean = [Domain(task, None, data[task.name, "test"]) for task in tasks]
    shifted = [Domain(task, shift, opened.shifted(seed, task.classes, shift)) for task in tasks for shift in shifts]
    loss = options.LOSSES[settings.loss]
    scoring = batches(opened.part(seed, "scoring", source.classes), largest, "scoring")
    headed = transfer.with_head(dense, heads[source.name])
    return World(
        loss=loss,
        source=source,
        dense=dense,
        makers=makers,
        heads=heads,
        # The classifier of the pretraining is not part of the pruned network: the heads replace it.
        prunable=options.prunable(dense.params, "^head/"),
        scoring=scoring,
        scoring_loss=transfer.mean_loss(loss, scoring)(headed)["loss"],
        scoring_gradient=jp.curvature.average(lambda batch: jp.curvature.gradient(headed, loss, batch), scoring),
        finetuning=opened.part(seed, "finetuning", source.classes),
        fitting={task.name: data[task.name, "head"] for task in tasks},
        tests={one.name: one for one in (*clean, *shifted)},
        pretrained=pretrained,
        fingerprint=opened.fingerprint,
        skipped=opened.skipped,
        separate_tests=opened.tests is not None and opened.protocol == "leak-free",
        largest=largest,
    )


def batches(data: dict[str, Any], largest: int = LARGEST_BATCH, name: str = "images") -> Sequence[dict[str, Any]]:
    """Cuts data into batches of at most so many examples; those from disk come to the device ahead, with a bar."""
    cut = jp.data.Batches(data, min(largest, len(data["label"])))
    if not isinstance(data["image"], jp.data.Stream):
        return cut
    return jp.data.with_progress(jp.data.prefetch(cut, place=jax.device_put), name)


def the_dense_network(
    settings: Common, seed: int, opened: Opened, out: Path
) -> tuple[jp.Network, dict[str, float] | None]:
    """Returns the network that is pruned, and its accuracy on all classes where it was trained here."""
    if opened.weights is not None:
        return opened.weights.network, None
    dense = pretrain(settings, seed, opened.part(seed, "pretraining"), len(opened.images.classes), out)
    return dense, transfer.accuracy(batches(opened.part(seed, "test")))(dense)


def pretrain(settings: Common, seed: int, data: dict[str, Any], classes: int, out: Path) -> jp.Network:
    """Trains the network on all classes with cross-entropy, or loads the checkpoint of an earlier run."""
    module = jp.models.resnet_cifar(settings.depth, classes, settings.width)
    variables = jax.jit(module.init)(jax.random.key(seed), data["image"][:1])
    network = jp.Network.from_linen(module, variables, train={"train": True})
    rate = optax.cosine_decay_schedule(settings.pretrain_rate, settings.pretrain_steps)
    names = ("depth", "width", "pretrain_steps", "pretrain_rate", "batch_size")
    identity: dict[str, Any] = {name: getattr(settings, name) for name in names} | {"seed": seed}
    # The data itself, whatever option chose it: a network fits images of any size, so nothing else would notice.
    identity["data"] = records.fingerprint(data["image"], data["label"])
    folder = check.writable("out", out / "networks" / records.digest(identity)[:16])
    with files.locked(folder.with_suffix(".lock")):
        return jp.train.fit(
            network,
            jp.losses.cross_entropy,
            optax.adamw(rate, weight_decay=1e-2),
            data,
            steps=settings.pretrain_steps,
            batch_size=settings.batch_size,
            seed=seed,
            folder=folder,
            progress=f"pretraining, seed {seed}",
        )


def choose_head(
    settings: Common, dense: jp.Network, features: Any, labels: Any, selection: Any, largest: int = LARGEST_BATCH
) -> HeadMaker:
    """Chooses the penalty of a task's head: the best on the selection split, with dense features."""
    makers = [options.HEADS[settings.head](penalty) for penalty in sorted(settings.penalties, reverse=True)]
    if len(makers) == 1:
        return makers[0]
    held_out = transfer.features(dense, batches(selection, largest))

    def accuracy(maker: HeadMaker) -> float:
        outputs = maker(features, labels, int(labels.max()) + 1)(held_out)
        return float(np.mean(np.argmax(np.asarray(outputs), axis=-1) == selection["label"]))

    return max(makers, key=accuracy)  # the first of equals: the largest penalty, so the simplest head


# ------------------------------------------------------------------------------------------------------ the runs


def masks_of(world: World, settings: Common, score: str, seed: int) -> Any:
    """Returns sparsity -> mask; one-shot pruning scores once for all sparsities."""
    if score == "dense":
        return lambda sparsity: jp.masks.ones(world.dense.params)
    headed = world.headed(world.dense)
    make = options.SCORES[score](options.ScoreOptions(world.loss, world.prunable, seed, settings.damping))
    if settings.rounds > 1:
        return lambda sparsity: jp.pruning.prune(
            headed, make, world.scoring, world.prunable, jp.schedules.exponential(sparsity, settings.rounds)
        )
    values = make(headed, world.scoring)
    check.finite("scores", values, "Look at the loss and at the images.")
    return lambda sparsity: jp.masks.unstructured(sparsity)(values, world.prunable)


def measure(world: World, network: jp.Network) -> dict[str, Any]:
    """Evaluates every test domain with the frozen head, and with one fitted anew on this network's features."""
    refitted = {}
    for task, data in world.fitting.items():
        features, classes = world.features(network, data, f"head of {task}"), int(data["label"].max()) + 1
        refitted[task] = world.makers[task](features, data["label"], classes)
    result: dict[str, Any] = {"frozen": {}, "refitted": {}}
    for name, one in world.tests.items():
        features = world.features(network, one.data, name)
        for kind, heads in (("frozen", world.heads), ("refitted", refitted)):
            outputs = np.asarray(heads[one.task.name](features))
            check.finite(f"outputs on {name}", outputs, "The network is damaged: lower finetune_rate.")
            hits = np.argmax(outputs, axis=-1) == one.data["label"]
            result[kind][name] = {**transfer.summary(hits), "hits": "".join("01"[int(hit)] for hit in hits)}
    return result


def increase(world: World, pruned: Any) -> dict[str, float]:
    """Compares the increase of the loss on the scoring data with what its Taylor expansion predicts."""
    dense = world.headed(world.dense)
    step = jax.tree.map(lambda new, old: new - old, pruned, dense.params)
    product = jp.curvature.average(lambda batch: jp.curvature.hvp(dense, world.loss, batch, step), world.scoring)
    after = transfer.mean_loss(world.loss, world.scoring)(dense.replace(params=pruned))["loss"]
    return {
        "true": after - world.scoring_loss,
        "quadratic": float(jp.tree.dot(step, product)) / 2,
        "linear": float(jp.tree.dot(step, world.scoring_gradient)),
    }


def transformation(settings: Common, protocol: str = "leak-free") -> optax.GradientTransformation:
    """Makes the transformation that fine-tunes: one for all runs, so that fine-tuning is compiled once."""
    rate = settings.finetune_rate or FINETUNE_RATE
    if protocol == "public-proxy":
        return transfer_data.proxy_transformation(rate, settings.finetune_steps)
    return optax.adam(optax.cosine_decay_schedule(rate, settings.finetune_steps))


def prune(world: World, settings: Common, mask: Any, seed: int) -> jp.Network:
    """Returns the dense network under a mask, with BatchNorm statistics of its own where the settings say so."""
    pruned = world.dense.replace(params=jp.masks.apply(mask, world.dense.params))
    if settings.recalibrate:
        # A network that is trained here sees all images at once; a pretrained one is too large for that.
        largest = world.largest if world.pretrained is None else len(world.finetuning["label"])
        pruned = jp.train.recalibrate(pruned, whole_batches(world.finetuning, largest), jax.random.key(seed))
    return pruned


def whole_batches(data: dict[str, Any], largest: int) -> list[dict[str, Any]]:
    """Cuts data into batches of one size, since padding would enter statistics.  What is left over is left out."""
    count = -(-len(data["label"]) // largest)
    return list(jp.data.Batches(data, len(data["label"]) // count))[:count]


def finetune(
    world: World, settings: Common, pruned: jp.Network, mask: Any, tx: optax.GradientTransformation, seed: int
) -> jp.Network:
    """Trains a pruned network on the source task through its frozen head; the seed decides the order of the data."""
    tuned = jp.train.fit(
        world.headed(pruned),
        world.loss,
        jp.optim.with_mask(tx, mask),
        world.finetuning,
        steps=settings.finetune_steps,
        batch_size=settings.batch_size,
        seed=seed,
        progress="fine-tuning" if isinstance(world.finetuning["image"], jp.data.Stream) else None,
    )
    return pruned.replace(params=tuned.params)


def execute(world: World, run: Run, mask: Any, tx: optax.GradientTransformation) -> dict[str, Any]:
    """Prunes, evaluates, fine-tunes on the source task through its frozen head, and evaluates again."""
    pruned = prune(world, run, mask, run.seed)
    tuned = finetune(world, run, pruned, mask, tx, run.seed)
    kept = jp.tree.map_named(lambda name, leaf: float(np.mean(np.asarray(leaf))), mask)
    layers = zip(jp.tree.names(mask), jax.tree.leaves(kept), jax.tree.leaves(world.prunable), strict=True)
    return {
        "source": world.source.name,
        **({} if world.pretrained is None else {"pretrained": world.pretrained}),
        **({"skipped": world.skipped} if world.skipped else {}),
        **({"separate_tests": True} if world.separate_tests else {}),
        "domains": {
            name: {"task": one.task.name, "shift": one.shift, "chance": one.task.chance}
            for name, one in world.tests.items()
        },
        "pruned": measure(world, pruned),
        "finetuned": measure(world, tuned),
        "loss_increase": increase(world, pruned.params),
        "sparsity": jp.masks.sparsity(mask, world.prunable),
        "layer_sparsity": {name: 1 - share for name, share, flag in layers if flag},
        "mask": records.fingerprint(*map(np.asarray, jax.tree.leaves(mask))),
    }


def main(study: Study, opened: Opened | None = None, console: Console | None = None) -> Path:
    """Computes what is missing of a study, writes its page, and returns where that lies."""
    console = console or Console()
    opened = opened or validate(study)
    study = completed(study, opened)
    store = records.Store(study.out / "records", "transfer")
    runs = grid(study)
    missing = store.missing(mine(runs, study.shard, lambda run: (run.seed, run.score)))
    console.print(f"{len(runs)} runs, {len(missing)} of them to do here.")
    for leak in transfer_data.PROTOCOLS[study.protocol]:
        console.print(f"Leak: {leak}")
    for name, count in opened.skipped.items():
        console.print(
            f"{name}: {count} pictures are left out, which could not be read or are hidden.", emoji=False, markup=False
        )
    tx = transformation(study, study.protocol)
    for seed in dict.fromkeys(run.seed for run in missing):
        world = prepare(study, seed, opened, study.out, study.shifts, study.largest_batch)
        for score in dict.fromkeys(run.score for run in missing if run.seed == seed):
            mask_at = masks_of(world, study, score, seed)
            for run in (run for run in missing if (run.seed, run.score) == (seed, score)):
                start = time.perf_counter()
                metrics = execute(world, run, mask_at(run.sparsity), tx)
                store.write(run, metrics, records.provenance(world.fingerprint, time.perf_counter() - start))
                shown = [metrics[stage]["frozen"][study.source]["accuracy"] for stage in ("pruned", "finetuned")]
                console.print(f"seed {seed}  {score:16} {run.sparsity:4.0%}  source {shown[0]:.3f} -> {shown[1]:.3f}")
    undone = [run for run in runs if not store.has(run)]
    if undone:
        console.print(f"{len(undone)} runs belong to other shards; the page is written by whichever finishes last.")
        return study.out
    return transfer_page.write(study, opened.images, opened.tasks, [store.read(run) for run in runs], console)


def command() -> None:
    """Reads the command line; a bad value ends in one line, without a traceback."""
    study = tyro.cli(Study, description=__doc__)
    try:
        opened = validate(study)
        if study.dry_run:
            transfer_dry_run.report(completed(study, opened), opened, Console())
            return
    except (ValueError, TypeError, MemoryError) as error:
        raise SystemExit(f"error: {error}") from None
    try:
        main(study, opened)
    except (ValueError, MemoryError, FloatingPointError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    command()
