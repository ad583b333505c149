"""One run of the study of methods: prune, look, predict what it costs, fine-tune, look again."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from experiments.methods.arms import ARMS, Scene, prune
from experiments.methods.settings import Inputs, Run
from experiments.shared import options
from experiments.shared.cooling import adam
from experiments.shared.frozen_heads import CLASSIFIER, Tuned, best_rate, movable, pretrain
from experiments.shared.methods import DENSE
from jaxprune.data.splits import shuffled
from jaxprune.evaluate import transfer
from jaxprune.types import Batch

_HELD_OUT = 4  # one image in so many says which option of a method is best


def prepare_seed(settings: Any, inputs: Inputs, seed: int) -> Scene:
    """Trains the network of a seed, and splits what every method has."""
    training = inputs.part(seed, "pretraining")
    dense = pretrain(settings, seed, training, len(inputs.images.classes))
    chosen = shuffled(len(training["label"]), f"the images of every method, {seed}")[: settings.examples]
    batch = {name: jnp.asarray(entry[chosen]) for name, entry in training.items() if name in ("image", "label")}
    held = np.arange(settings.examples) % _HELD_OUT == _HELD_OUT - 1
    fitted, held_out = ({name: one[np.flatnonzero(rows)] for name, one in batch.items()} for rows in (~held, held))
    prunable = options.prunable(dense.params, CLASSIFIER)
    test, selection = inputs.part(seed, "test"), inputs.part(seed, "selection")
    return Scene(settings, seed, dense, batch, fitted, held_out, test, selection, prunable, movable(dense.params))


def measure(scene: Scene, run: Run) -> dict[str, Any]:
    """Prunes, measures, fine-tunes on the images that every method has, and measures again."""
    dense = scene.dense
    if run.word == DENSE.word:
        mask, params, chosen, gradients = jp.masks.ones(dense.params), dense.params, None, 0.0
    else:
        mask, params, chosen, gradients = prune(scene, ARMS[run.word], run.sparsity)
    pruned = dense.replace(params=params)
    tuned, rate = _finetuned(scene, pruned, mask)
    return {
        "sparsity": jp.masks.sparsity(mask, scene.prunable),
        "options": {} if chosen is None else chosen._asdict(),
        "gradients": -1.0 if gradients is None else gradients,
        "pruned": hits(pruned, scene.test),
        "finetuned": hits(tuned, scene.test),
        "finetune_rate": rate,
        "increase": increase(scene, params),
    }


def increase(scene: Scene, params: Any) -> dict[str, float]:
    """Compares what pruning costs, in the divergence from the dense network, with what is predicted of it.

    "quadratic" is d'Hd/2 with d the change of the weights; "linearised" the divergence of the outputs z + J d, one
    forward-mode product; both at the dense network.
    """
    dense, image, loss = scene.dense, scene.images["image"], jp.losses.distillation("kl")
    step = jax.tree.map(jnp.subtract, params, dense.params)
    outputs, moved = _linearised(dense, image, step)
    taught = {"image": image, "teacher": outputs}
    product = jp.curvature.ggnvp(dense, loss, taught, step)
    return {
        "true": float(jp.losses.mean(loss, dense.replace(params=params)(image), taught)),
        "quadratic": float(jp.tree.dot(step, product)) / 2,
        "linearised": float(jp.losses.mean(loss, outputs + moved, taught)),
        "distance": float(jnp.mean(jnp.sum((dense.replace(params=params)(image) - outputs) ** 2, axis=1))),
    }


@jax.jit
@jax.default_matmul_precision("highest")
def _linearised(network: jp.Network, image: Any, step: Any) -> Any:
    return jax.jvp(lambda params: network.replace(params=params)(image), (network.params,), (step,))


def hits(network: jp.Network, data: Batch) -> str:
    """Whether each image is classified rightly, as 0 and 1."""
    found = transfer.correct(network, [{"image": data["image"], "label": data["label"]}])
    return "".join("01"[int(hit)] for hit in found)


def _finetuned(scene: Scene, pruned: jp.Network, mask: Any) -> Tuned:
    """Trains what is left, at the rate that is best on the selection images."""
    settings = scene.settings
    images = {name: np.asarray(entry) for name, entry in scene.images.items()}

    def train(rate: float) -> jp.Network:
        tx = jp.optim.with_mask(adam(rate, settings.finetune_steps), mask)
        options = {"steps": settings.finetune_steps, "batch_size": settings.batch_size, "seed": scene.seed}
        return jp.train.fit(pruned, jp.losses.cross_entropy, tx, images, **options)

    return best_rate(settings.finetune_rates, train, lambda network: hits(network, scene.selection).count("1"))
