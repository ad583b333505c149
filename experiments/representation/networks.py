"""The networks of a study, and their arms: the ladder, more training, random masks, SNIP."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp
from experiments.representation.architectures import digest, find
from experiments.representation.data import Images
from experiments.representation.settings import CONTROL, LADDER, RANDOM, SNIP, Settings, ladder_method
from experiments.shared import options
from experiments.shared.checkpoints import initialised, trained
from jaxprune.pruning import Rung

LOSS = jp.losses.cross_entropy
DAMPING = 1e-2
"""Of scores and updates of the surgeon, relative to the mean diagonal of a leaf."""
_SCORED = 256  # training images that a score sees


class Trainings:
    """The trainings of all arms of one architecture and seed.

    What was trained already is loaded, wherever a study was killed, and arms that share a beginning train it once: see
    ``checkpoints.trained``.  The seed is that of the initialisation, of the order of images and of random masks.
    """

    def __init__(self, settings: Settings, architecture: str, seed: int, images: Images, out: Path) -> None:
        self._settings, self._seed, self._images, self._out = settings, seed, images.training(), out
        self._kind = find(architecture)
        self._named = digest(architecture, settings.image)
        module = self._kind.module(len(images.test.classes), settings.image)
        variables = initialised(module, jax.random.key(seed), self._images["image"][:1])
        self._start = jp.Network.from_linen(module, variables, train={"train": True})
        self.everything = jp.tree.prunable(self._start.params)
        unpruned = self._kind.unpruned if settings.legacy else ""
        self.prunable = options.prunable(self._start.params, settings.exclude, unpruned)
        self._scored = [{name: values[:_SCORED] for name, values in self._images.items()}]
        method = ladder_method(settings)
        loss = jp.losses.distillation() if method.objective == "logits" else LOSS
        configured = options.ScoreOptions(loss, self.prunable, seed, damping=DAMPING)
        self._score = options.score("method", method.score, configured)
        self._update = jp.scores.surgeon_update(loss, damping=DAMPING) if method.update == "surgeon" else None
        self._targets = jp.schedules.ladder(settings.rungs, settings.share)
        self._reached: dict[str, tuple[Iterator[Rung], Rung]] = {}

    def network(self, arm: str, rung: int) -> Rung:
        """Trains the network of a rung, and those that it comes from; or loads those of them that were trained.

        Rungs may be asked for in any order.  Of each arm that goes from rung to rung the last network is kept.
        """
        if arm == RANDOM:
            chance = jp.scores.random(jax.random.key(1000 * self._seed + rung))
            return self._at_once(self._reach(CONTROL, rung - 1).network, chance, rung, number=rung)
        return self._at_once(self._start, self._snip, rung, number=0) if arm == SNIP else self._reach(arm, rung)

    def _reach(self, arm: str, rung: int) -> Rung:
        """Goes on to a rung from the last one that was asked for, or anew from the first."""
        # Taken out meanwhile: after a training that failed nothing can go on from there.
        rungs, last = self._reached.pop(arm, (None, None))
        if rungs is None or last is None or last.number > rung:
            targets = self._targets if arm == LADDER else (0.0,) * len(self._targets)
            arguments = (self._start, self._score, self._scored, self.prunable, targets, self._train)
            rungs = jp.pruning.ladder(*arguments, update=self._update)
            last = next(rungs)
        while last.number < rung:
            last = next(rungs)
        self._reached[arm] = rungs, last
        return last

    def _at_once(self, network: jp.Network, score: Any, rung: int, *, number: int) -> Rung:
        """Prunes a network to the sparsity of a rung, and trains it once, as on the rung of this number."""
        train = lambda network, mask, _: self._train(network, mask, number)  # noqa: E731
        return next(jp.pruning.ladder(network, score, self._scored, self.prunable, (self._targets[rung],), train))

    def _snip(self, network: jp.Network, batches: Any) -> Any:
        """Scores at initialisation with BatchNorm statistics of the images: those it starts with fit no network."""
        if jax.tree.leaves(network.state):
            network = jp.train.recalibrate(network, batches, jax.random.key(self._seed))
        return jp.scores.snip(LOSS)(network, batches)

    def _train(self, network: jp.Network, mask: Any, number: int) -> jp.Network:
        steps = self._settings.steps if number else self._settings.first_steps
        tx, identity = _transformation(self._kind.rate, steps), {"network": self._named}
        # Ladder and control see equal batches on equal rungs.
        fit = {"steps": steps, "batch_size": self._settings.batch_size, "seed": 1000 * self._seed + number}
        made = trained(self._out, network, LOSS, tx, self._images, identity, mask, **fit)
        # What was loaded is bound to its device, what was just trained is not: programs would be compiled for both.
        return jax.tree.map(lambda leaf: jnp.array(np.asarray(leaf)), made)


@cache
def _transformation(rate: float, steps: int) -> optax.GradientTransformation:
    """Makes one transformation for all trainings of this length, so that each is compiled once."""
    warm = optax.warmup_cosine_decay_schedule(0.0, rate, max(1, steps // 10), steps)
    return optax.adamw(warm, weight_decay=1e-2)
