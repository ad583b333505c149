"""What words of the command line mean in a search; choosers and budgets are given the batches that choosers see."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

import jaxprune as jp
from jaxprune.structured import Chooser, Criterion, budgets, choosers, criteria, effects
from jaxprune.structured.budgets import Budget

LOSS = jp.losses.cross_entropy

CRITERIA: Mapping[str, Callable[[Any], Criterion]] = {
    "second-order": lambda run: effects.second_order(LOSS),
    "kernel-block": lambda run: effects.kernel_block(LOSS),
    "kl": lambda run: effects.kl(),
    "kl-twice": lambda run: effects.kl(softmax_twice=True),
    "cka": lambda run: effects.cka(),
    "l1": lambda run: criteria.l1(),
    "l2": lambda run: criteria.l2(),
    "batchnorm": lambda run: criteria.batchnorm_scale(),
    "activation": lambda run: criteria.activation(),
    "random": lambda run: criteria.random(jax.random.key(run.seed)),
}

CHOOSERS: Mapping[str, Callable[[Any, Any], Chooser]] = {
    "cka": lambda run, seen: choosers.cka(seen),
    "cka-biased": lambda run, seen: choosers.cka(seen, kind="biased"),
    "cka-rbf": lambda run, seen: choosers.cka(seen, kind="rbf"),
    "cka-minibatch": lambda run, seen: choosers.cka(seen, kind="minibatch"),
    "cka-streaming": lambda run, seen: choosers.cka(seen, kind="streaming"),
    "procrustes": lambda run, seen: choosers.procrustes(seen),
    "accuracy": lambda run, seen: choosers.accuracy(seen),
    "random": lambda run, seen: choosers.random(run.seed),
    "always-layer": lambda run, seen: choosers.always("layer"),
    "always-neurons": lambda run, seen: choosers.always("neurons"),
}

BUDGETS: Mapping[str, Callable[[Any, Any], Budget]] = {
    "macs": lambda run, seen: budgets.macs(run.share or None),
    "parameters": lambda run, seen: budgets.parameters(run.share or None),
    "filters": lambda run, seen: budgets.filters(),
    "latency": lambda run, seen: budgets.latency(seen[0]["image"], run.share or None),
}
