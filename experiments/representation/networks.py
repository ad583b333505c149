"""The networks of a study, and their arms: the ladder, more training, random masks, SNIP."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp
from experiments import options
from experiments.representation_data import World
from experiments.representation_settings import CONTROL, LADDER, RANDOM, SNIP, Settings, schedule
from jaxprune import check, files, records

LOSS = jp.losses.cross_entropy

_SCORED = 256  # training images that a score sees


class Arrived(NamedTuple):
    """A network on a rung of an arm."""

    arm: str
    rung: int
    mask: Any
    network: jp.Network


class Climb:
    """All arms of one architecture and seed.

    Every training has a folder named by all that decides it, the weights and the mask that it starts from included:
    what was trained already is loaded, wherever a study was killed, and arms that share a beginning train it once.

    Args:
      settings: of the study.
      architecture: one of ``options.ARCHITECTURES``.
      seed: of the initialisation and of the order of images.
      world: the images.
      out: where the folders lie.
    """

    def __init__(self, settings: Settings, architecture: str, seed: int, world: World, out: Path) -> None:
        self._settings, self._seed, self._world, self._out = settings, seed, world, out
        self._kind = options.ARCHITECTURES[architecture]
        self.module = self._kind.module(len(world.classes), settings.image)
        images = world.training["image"][:1]
        variables = jax.jit(self.module.init)(jax.random.key(seed), images)
        self._start = jp.Network.from_linen(self.module, variables, train={"train": True})
        self.everything = jp.tree.prunable(self._start.params)
        unpruned = self._kind.unpruned if settings.legacy else ""
        self.prunable = options.prunable(self._start.params, settings.exclude, unpruned)
        self._targets = schedule(settings)

    def arms(self, random_rungs: Sequence[int], snip_rungs: Sequence[int]) -> Iterator[Arrived]:
        """Trains arm after arm, rung after rung, or loads what was trained."""
        scored = {name: values[:_SCORED] for name, values in self._world.training.items()}
        configured = options.ScoreOptions(LOSS, self.prunable, self._seed, damping=1e-2)
        score = options.SCORES[self._settings.score](configured)
        for rung in self._ladder(self._start, score, [scored], self._targets, self._train):
            yield Arrived(LADDER, rung.number, rung.mask, rung.network)
        trained = []
        for rung in self._ladder(self._start, score, [], (0.0,) * len(self._targets), self._train):
            trained.append(rung.network)
            if rung.number:
                yield Arrived(CONTROL, rung.number, rung.mask, rung.network)
        for number in random_rungs:
            chance = jp.scores.random(jax.random.key(1000 * self._seed + number))
            train = self._shifted(number)
            (rung,) = self._ladder(trained[number - 1], chance, [], (self._targets[number],), train)
            yield Arrived(RANDOM, number, rung.mask, rung.network)
        for number in snip_rungs:
            (rung,) = self._ladder(self._start, self._snip, [scored], (self._targets[number],), self._train)
            yield Arrived(SNIP, number, rung.mask, rung.network)

    def _snip(self, network: jp.Network, batches: Any) -> Any:
        """Scores at initialisation with BatchNorm statistics of the images: those it starts with fit no network."""
        if jax.tree.leaves(network.state):
            network = jp.train.recalibrate(network, batches, jax.random.key(self._seed))
        return jp.scores.snip(LOSS)(network, batches)

    def _ladder(self, network: jp.Network, score: Any, batches: Any, targets: Any, train: Any) -> Any:
        return jp.pruning.ladder(network, score, batches, self.prunable, targets, train)

    def _shifted(self, first: int) -> Callable[[jp.Network, Any, int], jp.Network]:
        return lambda network, mask, number: self._train(network, mask, first + number)

    def _train(self, network: jp.Network, mask: Any, number: int) -> jp.Network:
        settings = self._settings
        steps = settings.steps if number else settings.first_steps
        leaves = [*jax.tree.leaves((network.params, network.state)), *jax.tree.leaves(mask)]
        identity = {
            "module": self.module.describe(),
            "steps": steps,
            "rate": self._kind.rate,
            "batch_size": settings.batch_size,
            "order": [self._seed, number],
            "data": self._world.fingerprint,
            "start": records.fingerprint(*map(np.asarray, leaves)),
        }
        folder = check.writable("out", self._out / "networks" / records.digest(identity)[:16])
        with files.locked(folder.with_suffix(".lock")):
            trained = jp.train.fit(
                network,
                LOSS,
                jp.optim.with_mask(_transformation(self._kind.rate, steps), mask),
                self._world.training,
                steps=steps,
                batch_size=settings.batch_size,
                # Ladder and control see equal batches on equal rungs.
                seed=1000 * self._seed + number,
                folder=folder,
            )
        # What was loaded is bound to its device, what was just trained is not: programs would be compiled for both.
        return jax.tree.map(lambda leaf: jnp.array(np.asarray(leaf)), trained)


@cache
def _transformation(rate: float, steps: int) -> optax.GradientTransformation:
    """Makes one transformation for all trainings of this length, so that each is compiled once."""
    warm = optax.warmup_cosine_decay_schedule(0.0, rate, max(1, steps // 10), steps)
    return optax.adamw(warm, weight_decay=1e-2)
