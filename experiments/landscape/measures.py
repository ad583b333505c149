"""What is measured around a network: curvature, slices of the loss, the way that pruning takes, barriers."""

from dataclasses import dataclass
from typing import Any

import jax

import jaxprune as jp
from experiments.landscape.settings import Run, Settings
from experiments.shared.frozen_heads import World, finetuned, finetuned_at, prepare, sparsities
from experiments.shared.methods import DENSE
from experiments.shared.pruned import prune
from experiments.shared.splits import Inputs
from jaxprune.evaluate.transfer import accuracy, mean_loss


@dataclass(frozen=True)
class Scene:
    """What all runs of one seed share: the networks of the seed, and the images of both tasks."""

    world: World
    tasks: dict[str, str]
    """{"source": its name, "transfer": its name}."""
    images: dict[str, list[dict[str, Any]]]
    others: list[dict[str, Any]]
    """Other images of the source."""
    calibration: dict[str, Any]
    """Of which BatchNorm statistics are taken, where networks are mixed."""
    dense_tuned: jp.Network
    """Extra training without pruning."""

    def headed(self, network: jp.Network, task: str) -> jp.Network:
        """Puts the frozen head of "source" or "transfer" on a network."""
        return self.world.headed(network, self.tasks[task])

    def calibrated(self, network: jp.Network, task: str) -> jp.Network:
        """Does so, and keeps what ``jp.geometry.barrier`` needs to recalibrate BatchNorm."""
        headed = self.headed(network, task)
        if network.train_apply is None:
            return headed
        return headed.replace(train_apply=_Calibrated(headed.apply, network.train_apply))


@dataclass(frozen=True)
class _Calibrated:
    headed: Any
    body: Any

    def __call__(self, params: Any, state: Any, images: Any, rngs: Any) -> tuple[Any, Any]:
        _, inner = self.body(params, state["network"], images, rngs)
        return self.headed(params, state, images), {**state, "network": inner}


def prepare_seed(settings: Settings, inputs: Inputs, seed: int) -> Scene:
    """Makes what all runs of a seed share, and fine-tunes the dense network."""
    world = prepare(settings, inputs, seed)
    names = {"source": settings.source, "transfer": settings.transfer}
    tasks = {role: jp.data.find_task(inputs.tasks, name) for role, name in names.items()}

    def of(part: str, role: str) -> list[dict[str, Any]]:
        return list(world.batches(inputs.part(seed, part, tasks[role].classes)))

    return Scene(
        world=world,
        tasks=names,
        images={role: of("scoring", role) for role in tasks},
        others=of("head", "source"),
        calibration=inputs.part(seed, "pretraining" if inputs.weights is None else "head", inputs.classes),
        dense_tuned=finetuned(world, world.dense, jp.masks.ones(world.dense.params)).network,
    )


def measure(scene: Scene, run: Run) -> dict[str, Any]:
    """Prunes and fine-tunes, and measures the loss around each network."""
    world = scene.world
    pruned, mask, _ = prune(world, run, run.sparsity)
    tuned, rate = finetuned(world, pruned, mask)
    # Another seed that no run of a study has: the same images in another order.
    again = finetuned_at(world, pruned, mask, rate, order=run.seed + 10**6)
    pairs = {"by fine-tuning": (pruned, tuned), "other data order": (tuned, again)}
    dense = run.word == DENSE.word
    if not dense:
        pairs["to dense fine-tuned"] = (scene.dense_tuned, tuned)
    stages = {"pruned": pruned, "finetuned": tuned}
    found = sparsities(world, mask)
    return {
        "tasks": scene.tasks,
        **({} if world.pretrained is None else {"pretrained": world.pretrained}),
        "accuracy": {
            stage: {role: accuracy(scene.images[role])(scene.headed(network, role))["accuracy"] for role in scene.tasks}
            for stage, network in stages.items()
        },
        "curvature": {stage: curvature(scene, run, network, mask) for stage, network in stages.items()},
        "slices": {stage: slices(scene, run, network, mask) for stage, network in stages.items()},
        "pruning": {} if dense else pruning(scene, run, mask),
        "barriers": barriers(scene, run, pairs),
        "finetune_rate": rate,
        "sparsity": found["sparsity"],
        "mask": found["mask"],
    }


def curvature(scene: Scene, run: Run, network: jp.Network, mask: Any) -> dict[str, Any]:
    """Measures the spectrum in the weights that the network has, on both tasks, and how their tops align.

    The control of the alignment is the source task itself on other images of it.
    """
    key = jax.random.key(run.seed)

    def look(task: str, images: list[dict[str, Any]]) -> jp.geometry.Operator:
        headed = scene.headed(network, task)
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
            "loss": mean_loss(scene.world.loss, images)(scene.headed(network, task))["loss"],
            "weights": operator.size,
            "eigenvalues": top.values.tolist(),
            "residuals": top.residuals.tolist(),
            "lowest": float(lowest.nodes.min()),
            "trace": total._asdict(),
            "density": {"grid": lowest.grid.tolist(), "values": lowest.values.tolist()},
        }
    again = jp.geometry.eigenpairs(look("source", scene.others), key=key, count=run.count, steps=run.steps)
    for name, vectors in {"transfer": tops["transfer"], "other images": again.vectors}.items():
        found = jp.geometry.alignment(tops["source"], vectors)
        result.setdefault("alignment", {})[name] = {"overlap": found.overlap, "chance": found.chance}
    return result


def slices(scene: Scene, run: Run, network: jp.Network, mask: Any) -> dict[str, Any]:
    """Cuts the loss of both tasks along one and two filter-normalised directions of the weights that are there."""
    keys = jax.random.split(jax.random.key(run.seed), 2)
    first, second = (jp.geometry.filter_normalised(network.params, key, kept=mask) for key in keys)
    result = {}
    for task, images in scene.images.items():
        cut = jp.geometry.plane(
            scene.headed(network, task),
            scene.world.loss,
            images,
            first,
            second,
            reach=run.reach,
            points=run.points,
        )
        result[task] = {"distances": cut.distances.tolist(), "losses": cut.losses.tolist()}
    return result


def pruning(scene: Scene, run: Run, mask: Any) -> dict[str, Any]:
    """Follows the loss of the dense network to the pruned one, and measures the curvature in what pruning removes."""
    result = {}
    for task, images in scene.images.items():
        headed = scene.headed(scene.world.dense, task)
        path = jp.geometry.pruning_path(headed, scene.world.loss, images, mask, points=run.points, matrix=run.matrix)
        removed = jp.geometry.operator(headed, scene.world.loss, images, matrix=run.matrix, pruned=mask)
        total = jp.geometry.trace(removed, key=jax.random.key(run.seed), probes=run.trace_probes)
        result[task] = {
            "path": {name: values.tolist() for name, values in path._asdict().items()},
            "weights": removed.size,
            "trace": total._asdict(),
        }
    return result


def barriers(scene: Scene, run: Run, pairs: dict[str, tuple[jp.Network, jp.Network]]) -> dict[str, Any]:
    """Measures the barrier between the networks of every pair, on both tasks, with statistics of all classes."""
    result: dict[str, Any] = {}
    for pair, (left, right) in pairs.items():
        for task, images in scene.images.items():
            found = jp.geometry.barrier(
                scene.calibrated(left, task),
                scene.world.loss,
                images,
                scene.calibrated(right, task),
                key=jax.random.key(run.seed),
                points=run.points,
                calibration=[scene.calibration] if left.train_apply else None,
            )
            result.setdefault(pair, {})[task] = {
                "height": found.height,
                "shares": found.shares.tolist(),
                "losses": found.losses.tolist(),
            }
    return result
