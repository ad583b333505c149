"""What words of the command line mean in a search; choosers and budgets are given the batches that choosers see."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax

import jaxprune as jp
from experiments.shared.methods import DENSE, Method
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

OBJECTIVES: Mapping[str, str] = {
    "label": "the loss of the labels",
    "kl": "the divergence from the outputs of the network before the step",
    "kl-twice": "the same divergence, after a second softmax",
    "cka": "1 - CKA to the features of the network before the step",
}
"""What a criterion asks to stay, in words; "none": it looks at weights, activations or chance alone."""

_ASKED: Mapping[str, str] = {
    "second-order": "label",
    "kernel-block": "label",
    "kl": "kl",
    "kl-twice": "kl-twice",
    "cka": "cka",
}

_CRITERION_OF = {"layer": "layer_criterion", "neurons": "neuron_criterion"}


def method_of(config: Mapping[str, Any], kind: str) -> Method:
    """Says of a step how it was made: what was to stay (objective), what ranked (score), what moved the rest (update).

    Args:
      config: of the run.
      kind: what the step did: "layer" or "neurons" went, or it was only "tuned", or is the "dense" network.

    >>> method_of({"layer_criterion": "second-order", "neuron_criterion": "l2"}, "layer").word
    'label/second-order+training'
    """
    if kind not in _CRITERION_OF:
        return replace(DENSE, update="training") if kind == "tuned" else DENSE
    criterion = config[_CRITERION_OF[kind]]
    return Method(objective=_ASKED.get(criterion, "none"), score=criterion, update="training")


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
