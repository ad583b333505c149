"""What words of the command line mean: losses, heads and scores by name, and scores of the user's own."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax

import jaxprune as jp
from experiments.shared import named
from jaxprune import check
from jaxprune.evaluate import heads
from jaxprune.types import Loss, Prunable, Score

LOSSES: Mapping[str, Loss] = {"squared_error": jp.losses.squared_error, "cross_entropy": jp.losses.cross_entropy}

HEADS: Mapping[str, Callable[[float], heads.HeadMaker]] = {
    "ridge": heads.ridge,
    "logistic": heads.logistic,
    "nearest-mean": lambda penalty: heads.nearest_mean(),
    "nearest-neighbours": lambda penalty: heads.nearest_neighbours(),
}


def prunable(params: Any, *exclude: str) -> Prunable:
    """Says which kernels of one of several architectures may be pruned: all but those that a pattern matches.

    Where ``jp.tree.prunable`` refuses a pattern that matches none, here it leaves nothing out: not every architecture
    has the kernels that are named for one of them.
    """
    found = jp.tree.by_name(jp.tree.prunable(params))
    names = [name for name, inside in found.items() if inside]
    patterns = [pattern for pattern in exclude if pattern and any(re.search(pattern, name) for name in names)]
    return jp.tree.prunable(params, exclude="|".join(f"(?:{pattern})" for pattern in patterns) or None)


PROBES = 2
"""Random signs for each example, of scores that are estimates and say so in their names."""


@dataclass(frozen=True)
class ScoreOptions:
    """What a score may be configured with."""

    loss: Loss
    scope: Prunable
    seed: int
    damping: float
    blocks: str | int = "unit"
    price_flat: bool = False

    def block_hessian(self, form: str, **more: Any) -> Score:
        """Makes a score of blocks."""
        return jp.scores.block_hessian(self.loss, form=form, blocks=self.blocks, scope=self.scope, **more)


SCORES: Mapping[str, Callable[[ScoreOptions], Score]] = {
    "magnitude": lambda o: jp.scores.magnitude(),
    "diagonal": lambda o: jp.scores.diagonal_hessian(o.loss, scope=o.scope),
    "diagonal-estimate": lambda o: jp.scores.diagonal_hessian(o.loss, scope=o.scope, probes=PROBES, seed=o.seed),
    "greedy": lambda o: o.block_hessian("greedy", damping=o.damping),
    "obs": lambda o: o.block_hessian("obs", damping=o.damping),
    "quadratic": lambda o: o.block_hessian("quadratic"),
    "quadratic-signed": lambda o: o.block_hessian("quadratic", ranking="signed"),
    "fisher": lambda o: jp.scores.fisher(o.loss),
    "snip": lambda o: jp.scores.snip(o.loss),
    "grasp": lambda o: jp.scores.grasp(o.loss),
    "synflow": lambda o: jp.scores.synflow(),
    "random": lambda o: jp.scores.random(jax.random.key(o.seed)),
}


GROW_AS_SQUARES = ("diagonal", "diagonal-estimate", "greedy", "fisher")
"""Scores of which ``jp.scores.price_flat`` knows what a weight of a flat unit would cost in another."""


def check_score(setting: str, word: str | Callable[..., Any]) -> None:
    """Checks that a score is known, or that there is such a function."""
    if isinstance(word, str) and not named.is_own(word):
        if ("." in word or ":" in word) and word not in SCORES:
            raise ValueError(
                f"{setting}: expected a score, or package.module:function for one of your own, but got {word!r}. Put a "
                "colon before the function, and dots between the modules."
            )
        check.choice(setting, word, SCORES)
    elif not _is_maker(found := named.find(setting, word)):
        given = {"loss": None} if reads_loss(setting, word) else {}
        try:
            inspect.signature(found).bind(None, None, **given)
        except TypeError as error:
            raise ValueError(
                f"{setting}: expected a score, (network, batches) -> scores, which may take loss= too, or (loss) -> "
                f"score, but {named.label(named.name(word))} takes {inspect.signature(found)}."
            ) from error


def _is_maker(function: Callable[..., Any]) -> bool:
    """Says whether a function makes a score of a loss, as those of ``jp.scores`` do."""
    return list(inspect.signature(function).parameters) == ["loss"]


def reads_loss(setting: str, word: str | Callable[..., Any]) -> bool:
    """Says whether a score asks for a loss: of the user's functions those that have such an argument."""
    if isinstance(word, str) and not named.is_own(word):
        return True
    return "loss" in inspect.signature(named.find(setting, word)).parameters


def score(setting: str, word: str | Callable[..., Any], options: ScoreOptions) -> Score:
    """Makes the score of a name.

    A function of the user's is the score itself, ``(network, batches) -> scores``; where it has an argument ``loss``,
    it gets that of the study.  Where that is all it takes, it makes the score.
    """
    if isinstance(word, str) and word in SCORES:
        made = SCORES[word](options)
        return jp.scores.price_flat(made) if options.price_flat and word in GROW_AS_SQUARES else made
    own = named.find(setting, word)
    if _is_maker(own):
        return own(options.loss)
    return partial(own, loss=options.loss) if reads_loss(setting, word) else own
