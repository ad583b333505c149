"""What words of the command line mean in a search: criteria, choosers and budgets by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

import jaxprune as jp
from jaxprune.structured import Chooser, Criterion
from jaxprune.structured.budgets import Budget
from jaxprune.types import Loss


@dataclass(frozen=True)
class SearchOptions:
    """What criteria, choosers and budgets of a search may be configured with."""

    loss: Loss
    seed: int
    share: float | None
    images: Any
    """Batches that the chooser sees."""


CRITERIA: Mapping[str, Callable[[SearchOptions], Criterion]] = {
    "second-order": lambda o: jp.structured.effects.second_order(o.loss),
    "kernel-block": lambda o: jp.structured.effects.kernel_block(o.loss),
    "kl": lambda o: jp.structured.effects.kl(),
    "kl-twice": lambda o: jp.structured.effects.kl(softmax_twice=True),
    "cka": lambda o: jp.structured.effects.cka(),
    "l1": lambda o: jp.structured.criteria.l1(),
    "l2": lambda o: jp.structured.criteria.l2(),
    "batchnorm": lambda o: jp.structured.criteria.batchnorm_scale(),
    "activation": lambda o: jp.structured.criteria.activation(),
    "random": lambda o: jp.structured.criteria.random(jax.random.key(o.seed)),
}

CHOOSERS: Mapping[str, Callable[[SearchOptions], Chooser]] = {
    "cka": lambda o: jp.structured.choosers.cka(o.images),
    "cka-biased": lambda o: jp.structured.choosers.cka(o.images, kind="biased"),
    "cka-rbf": lambda o: jp.structured.choosers.cka(o.images, kind="rbf"),
    "cka-minibatch": lambda o: jp.structured.choosers.cka(o.images, kind="minibatch"),
    "cka-streaming": lambda o: jp.structured.choosers.cka(o.images, kind="streaming"),
    "procrustes": lambda o: jp.structured.choosers.procrustes(o.images),
    "accuracy": lambda o: jp.structured.choosers.accuracy(o.images),
    "random": lambda o: jp.structured.choosers.random(o.seed),
    "always-layer": lambda o: jp.structured.choosers.always("layer"),
    "always-neurons": lambda o: jp.structured.choosers.always("neurons"),
}

BUDGETS: Mapping[str, Callable[[SearchOptions], Budget]] = {
    "macs": lambda o: jp.structured.budgets.macs(o.share),
    "parameters": lambda o: jp.structured.budgets.parameters(o.share),
    "filters": lambda o: jp.structured.budgets.filters(),
    "latency": lambda o: jp.structured.budgets.latency(o.images[0]["image"], o.share),
}
