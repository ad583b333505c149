"""Which heads and hidden units of a ViT go: judged jointly, by the exact Hessian of all their gates, or one by one?

Every method has the same images of the source, the same re-adjustment by the same Hessian (and none), and the same
fine-tuning.  Networks, tasks, frozen heads and splits are those of the transfer study.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from experiments.gates import page
from experiments.gates.arms import Scene
from experiments.gates.results import claims
from experiments.gates.settings import Run, Settings, open_study, plan
from experiments.shared import study
from experiments.shared.frozen_heads import accuracies, finetuned, prepare
from experiments.shared.methods import DENSE
from jaxprune import losses, processes
from jaxprune.structured.gates import outputs


def prepare_seed(settings: Settings, inputs: Any, seed: int) -> Scene:
    """Makes what all runs of a seed share."""
    return Scene(prepare(settings, inputs, seed))


def measure(scene: Scene, run: Run) -> dict[str, Any]:
    """Drops units, fine-tunes on the source, and evaluates every task before and after.

    Of allocations that one is taken whose network is nearest to the dense one on the selection images of the source.
    """
    world, found = scene.world, scene.factors(run)
    networks = {name: jp.structured.fold(scene.dense, scene.groups, one) for name, one in found.items()}
    held_out = {name: float(np.mean(divergences(scene, one, world.selection))) for name, one in networks.items()}
    chosen = min(held_out, key=lambda one: held_out[one])
    pruned, gates = networks[chosen], {name: one != 0 for name, one in found[chosen].items()}
    tuned = finetuned(world, pruned, kept(scene, gates))
    tests = {task.name: world.tests[task.name].data for task in world.inputs.tasks}
    before, after = (accuracies(world, one)["frozen"] for one in (pruned, tuned.network))
    return {
        "source": run.source,
        "chance": world.chances,
        "pretrained": world.pretrained,
        "allocation": chosen,
        "held_out": held_out,
        "divergence": {name: divergences(scene, pruned, data).tolist() for name, data in tests.items()},
        "removed": 1 - sum(map(np.sum, gates.values())) / sum(group.size for group in scene.groups),
        "left": {name: int(np.sum(one)) for name, one in gates.items()},
        "pruned": before,
        "finetuned": after,
        "finetune_rate": tuned.rate,
    }


def divergences(scene: Scene, network: jp.Network, data: dict[str, Any]) -> np.ndarray:
    """KL(dense || network) of the outputs, all classes of the pretraining, for every image: [n], in nats."""
    parts = []
    for batch in scene.world.batches(data):
        p, q = (jax.nn.log_softmax(outputs(one, batch["image"])) for one in (scene.dense, network))
        distance, weights = processes.read((jnp.sum(jnp.exp(p) * (p - q), axis=-1), losses.weights(batch)))
        parts.append(distance[weights > 0])
    return np.concatenate(parts)


def kept(scene: Scene, gates: dict[str, np.ndarray]) -> Any:
    """Makes the mask of the weights that are there: kernels do not read units that are gone."""
    ones = scene.dense.replace(params=jax.tree.map(jnp.ones_like, scene.dense.params))
    folded = jp.structured.fold(ones, scene.groups, {name: 1.0 * alive for name, alive in gates.items()})
    return jax.tree.map(lambda leaf: leaf != 0, folded.params)


def outcome(run: Run, metrics: dict[str, Any]) -> str:
    """Says what came out of a run."""
    del run
    shown = [metrics[stage][metrics["source"]]["accuracy"] for stage in ("pruned", "finetuned")]
    kl = np.mean(np.concatenate(list(metrics["divergence"].values())))
    return f"KL {kl:.3f}, source {shown[0]:.3f} -> {shown[1]:.3f}"


__all__ = ["STUDY", "Settings"]

STUDY = study.Study(
    name="gates",
    open=open_study,
    plan=plan,
    shared=lambda run: run.seed,
    prepare=prepare_seed,
    measure=measure,
    apart=lambda run: None if run.word == DENSE.word else run.word,
    claims=claims,
    page=page.compose,
    outcome=outcome,
)
