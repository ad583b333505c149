"""What does a network pruned for one task keep on the others?

Predictions of Iurada, Occhiena and Tommasi (2025), arXiv 2509.24066: (P1) a pretrained network pruned with data of one
task keeps its zero-shot accuracy on that task and on tasks it was never shown, up to high sparsity; (P2) fine-tuning on
the source task alone helps the others too.  The protocol is ours: the paper's splits, runs and settings were not to be
had.  Every split is disjoint, and the head of a task is fitted once, on features of the dense network, and then frozen.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from experiments.shared import study
from experiments.shared.frozen_heads import (
    World,
    accuracies,
    adam,
    finetuned,
    prepare,
    sparsities,
)
from experiments.shared.methods import DENSE
from experiments.shared.pruned import prune
from experiments.shared.splits import Inputs
from experiments.transfer import page, protocol
from experiments.transfer.estimate import estimate
from experiments.transfer.results import Results, claims
from experiments.transfer.settings import Run, Rung, Settings, open_study, plan
from jaxprune import check
from jaxprune.evaluate import transfer


def prepare_seed(settings: Settings, inputs: Inputs, seed: int) -> World:
    """Makes what all runs of a seed share."""
    made = protocol.transformation if settings.protocol == "public-proxy" else adam
    return prepare(settings, inputs, seed, shifts=settings.shifts, transformation=made)


def measure(world: World, run: Run) -> dict[str, Any]:
    """Prunes, evaluates, fine-tunes on the source task through its frozen head, and evaluates again.

    A lower rung of a certificate is only pruned, and asked by that.
    """
    inputs = world.inputs
    pruned, mask, gradients = prune(world, run, run.sparsity)
    if isinstance(run, Rung):
        return {"certificate": answers(world, pruned), **sparsities(world, mask)}
    tuned = finetuned(world, pruned, mask)
    separate = inputs.tests is not None and inputs.protocol == "leak-free"
    return {
        "source": inputs.source.name,
        **({} if world.pretrained is None else {"pretrained": world.pretrained}),
        **({"skipped": inputs.skipped} if inputs.skipped else {}),
        **({"separate_tests": True} if separate else {}),
        "domains": {
            name: {"task": one.task.name, "shift": one.shift, "chance": one.task.chance}
            for name, one in world.tests.items()
        },
        "pruned": accuracies(world, pruned),
        "finetuned": accuracies(world, tuned.network),
        "finetune_rate": tuned.rate,
        "loss_increase": increase(world, pruned.params),
        "update_gradients": gradients,
        **({"certificate": answers(world, pruned)} if inputs.certifies else {}),
        **sparsities(world, mask),
    }


def answers(world: World, pruned: jp.Network) -> dict[str, dict[str, Any]]:
    """Asks the frozen heads for the classes of the images that certify, and whether they are right."""
    found = {}
    for task in world.inputs.tasks:
        data = world.inputs.part(world.seed, "certificate", task.classes)
        outputs = np.asarray(world.heads[task.name](world.features(pruned, data, f"certificate of {task.name}")))
        check.finite(f"outputs on {task.name}", outputs, "The network is damaged: prune less of it.")
        predicted = np.argmax(outputs, axis=-1)
        hits = "".join("01"[int(hit)] for hit in predicted == data["label"])
        found[task.name] = {"predicted": predicted.tolist(), "hits": hits}
    return found


def increase(world: World, pruned: Any) -> dict[str, float]:
    """Compares the increase of the loss on the scoring data with what its Taylor expansion predicts."""
    dense = world.headed(world.quick)
    step = jax.tree.map(jnp.subtract, pruned, dense.params)
    product = jp.curvature.average(lambda batch: jp.curvature.hvp(dense, world.loss, batch, step), world.scoring)
    after = transfer.mean_loss(world.loss, world.scoring)(dense.replace(params=pruned))["loss"]
    return {
        "true": after - world.scoring_loss,
        "quadratic": float(jp.tree.dot(step, product)) / 2,
        "linear": float(jp.tree.dot(step, world.scoring_gradient)),
    }


def outcome(run: Run, metrics: dict[str, Any]) -> str:
    """Says what came out of a run."""
    if isinstance(run, Rung):
        return "a rung of the certificate"
    shown = [metrics[stage]["frozen"][metrics["source"]]["accuracy"] for stage in ("pruned", "finetuned")]
    return f"source {shown[0]:.3f} -> {shown[1]:.3f}"


__all__ = ["STUDY", "Settings"]

STUDY = study.Study(
    name="transfer",
    version=4,  # 2: other SynFlow and Fisher scores; 3: the rate of fine-tuning is chosen; 4: methods of three axes
    open=open_study,
    plan=plan,
    shared=lambda run: run.seed,
    prepare=prepare_seed,
    measure=measure,
    apart=lambda run: None if run.word == DENSE.word else run.word,
    results=lambda inputs, records: Results(records, inputs),
    claims=claims,
    page=page.compose,
    tables=page.tables,
    outcome=outcome,
    summary=page.summary,
    estimate=estimate,
)
