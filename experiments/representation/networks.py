"""The networks of a study, and their arms: the ladder, more training, random masks, SNIP."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp
from experiments.representation import architectures
from experiments.representation.data import Images
from experiments.representation.settings import CONTROL, LADDER, RANDOM, SNIP, Decisive, schedule
from experiments.shared import options
from experiments.shared.checkpoints import trained

LOSS = jp.losses.cross_entropy

_SCORED = 256  # training images that a score sees


class Pruned(NamedTuple):
    """A network after its training, and the mask of its weights."""

    mask: Any
    network: jp.Network


class Trainings:
    """The trainings of all arms of one architecture and seed.

    Every training has a folder named by all that decides it, the weights and the mask that it starts from included:
    what was trained already is loaded, wherever a study was killed, and arms that share a beginning train it once.

    Args:
      settings: of the study.
      architecture: its name.
      seed: of the initialisation and of the order of images.
      images: of that seed.
      out: where the folders lie.
    """

    def __init__(self, settings: Decisive, architecture: str, seed: int, images: Images, out: Path) -> None:
        self._settings, self._seed, self._images, self._out = settings, seed, images.training(), out
        self._kind = architectures.find(architecture)
        self._named = architectures.digest(architecture, settings.image)
        module = self._kind.module(len(images.test.classes), settings.image)
        variables = jax.jit(module.init)(jax.random.key(seed), self._images["image"][:1])
        self._start = jp.Network.from_linen(module, variables, train={"train": True})
        self.everything = jp.tree.prunable(self._start.params)
        unpruned = self._kind.unpruned if settings.legacy else ""
        self.prunable = options.prunable(self._start.params, settings.exclude, unpruned)
        self._scored = {name: values[:_SCORED] for name, values in self._images.items()}
        configured = options.ScoreOptions(LOSS, self.prunable, seed, damping=1e-2)
        self._score = options.score("score", settings.score, configured)
        self._targets = schedule(settings)
        self._reached: dict[str, tuple[Iterator[jp.pruning.Rung], jp.pruning.Rung]] = {}

    def network(self, arm: str, rung: int) -> Pruned:
        """Trains the network of a rung, and those that it comes from; or loads those of them that were trained.

        Rungs may be asked for in any order.  Of each arm that goes from rung to rung the last network is kept.
        """
        if arm == RANDOM:
            chance = jp.scores.random(jax.random.key(1000 * self._seed + rung))
            return self._at_once(self._reach(CONTROL, rung - 1).network, chance, [], rung, number=rung)
        if arm == SNIP:
            return self._at_once(self._start, self._snip, [self._scored], rung, number=0)
        return self._reach(arm, rung)

    def _reach(self, arm: str, rung: int) -> Pruned:
        """Goes on to a rung from the last one that was asked for, or anew from the first."""
        # Taken out meanwhile: after a training that failed nothing can go on from there.
        rungs, last = self._reached.pop(arm, (None, None))
        if rungs is None or last is None or last.number > rung:
            targets = self._targets if arm == LADDER else (0.0,) * len(self._targets)
            rungs = self._ladder(self._start, self._score, [self._scored], targets, self._train)
            last = next(rungs)
        while last.number < rung:
            last = next(rungs)
        self._reached[arm] = rungs, last
        return Pruned(last.mask, last.network)

    def _at_once(self, network: jp.Network, score: Any, batches: Any, rung: int, *, number: int) -> Pruned:
        """Prunes a network to the sparsity of a rung, and trains it once, as on the rung of this number."""
        train = lambda network, mask, _: self._train(network, mask, number)  # noqa: E731
        (last,) = self._ladder(network, score, batches, (self._targets[rung],), train)
        return Pruned(last.mask, last.network)

    def _ladder(self, network: jp.Network, score: Any, batches: Any, targets: Any, train: Any) -> Any:
        return jp.pruning.ladder(network, score, batches, self.prunable, targets, train)

    def _snip(self, network: jp.Network, batches: Any) -> Any:
        """Scores at initialisation with BatchNorm statistics of the images: those it starts with fit no network."""
        if jax.tree.leaves(network.state):
            network = jp.train.recalibrate(network, batches, jax.random.key(self._seed))
        return jp.scores.snip(LOSS)(network, batches)

    def _train(self, network: jp.Network, mask: Any, number: int) -> jp.Network:
        settings = self._settings
        steps = settings.steps if number else settings.first_steps
        made = trained(
            self._out,
            network,
            LOSS,
            _transformation(self._kind.rate, steps),
            self._images,
            {"network": self._named},
            mask,
            steps=steps,
            batch_size=settings.batch_size,
            # Ladder and control see equal batches on equal rungs.
            seed=1000 * self._seed + number,
        )
        # What was loaded is bound to its device, what was just trained is not: programs would be compiled for both.
        return jax.tree.map(lambda leaf: jnp.array(np.asarray(leaf)), made)


@cache
def _transformation(rate: float, steps: int) -> optax.GradientTransformation:
    """Makes one transformation for all trainings of this length, so that each is compiled once."""
    warm = optax.warmup_cosine_decay_schedule(0.0, rate, max(1, steps // 10), steps)
    return optax.adamw(warm, weight_decay=1e-2)
