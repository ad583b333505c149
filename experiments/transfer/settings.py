"""What the transfer study computes: its settings, its runs, and the check of every value."""

import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jaxprune as jp
from experiments.shared import conditions
from experiments.shared.conditions import Conditions
from experiments.shared.methods import DENSE, Method, Methods, parsed
from experiments.shared.results import fields_of
from experiments.shared.settings import Execution, each_once, listed
from experiments.shared.splits import PROTOCOLS, Inputs, open_inputs
from experiments.transfer import protocol
from jaxprune import check


@dataclass(frozen=True)
class Decisive(Conditions):
    """What decides the numbers of a run, apart from seed, method and sparsity."""

    shifts: Annotated[tuple[str, ...], listed(jp.data.SHIFTS)] = ("noise", "rotation", "blur", "contrast")
    """Shifted domains of every task, evaluated as well."""
    protocol: Annotated[str, listed(PROTOCOLS)] = "leak-free"
    """leak-free: disjoint splits.  public-proxy: that of the authors' closest public code, which says what leaks."""
    tasks: tuple[str, ...] = ()
    """Which tasks of the data.  Empty: all."""


@dataclass(frozen=True, kw_only=True)
class Run(Decisive, Method):
    """A network, pruned and fine-tuned, and one record."""

    seed: int
    sparsity: float


@dataclass(frozen=True, kw_only=True)
class Rung(Run):
    """A network of a lower sparsity, which is pruned and asked by what certifies; neither fine-tuned nor tested."""


@dataclass(frozen=True)
class Settings(Decisive, Execution):
    """Every method at every sparsity for every seed, and the dense network for every seed."""

    methods: Methods = (
        "magnitude",
        "label/diagonal",
        "logits/greedy+surgeon",
        "logits/greedy+rounds",
        "logits/greedy+adam",
        "label/greedy+rounds",
        "logits-of-all/greedy+surgeon",
        "random",
    )
    """[objective/]score[+update], such as logits/greedy+surgeon.  Objectives: label, source-head, logits, features,
    logits-of-all (not zero-shot).  Updates: surgeon, rounds, adam.  A score of your own takes (network, batches), and
    loss if it has such an argument.  Of a ViT, unless you name some, labels score by Fisher and snip, since their exact
    Hessian would take a product for every weight, the diagonal is that of the logits, and no rounds are by labels."""
    sparsities: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9)
    rungs: tuple[float, ...] = (0.25,)
    """Lower sparsities at which certificates begin: a first rung that fails ends everything.  Cheap: networks there are
    neither fine-tuned nor tested, and 0.25 is a round that others pass through.  Below all sparsities; 0.25 is left out
    where it is not."""
    out: Path = Path("results/transfer")
    margin: float = 0.05
    """A network keeps an accuracy if it loses less than this, and a certificate allows as much; only verdicts, and
    certificates, depend on it."""


def open_study(settings: Settings) -> Inputs:
    """Opens weights and data, and finds every bad value before anything expensive starts."""
    for shift in settings.shifts:
        check.choice("shifts", shift, jp.data.SHIFTS)
    for sparsity in settings.sparsities:
        check.sparsity(sparsity, "sparsities")
    each_once("sparsities", settings.sparsities)
    for rung in settings.rungs:
        check.sparsity(rung, "rungs")
    each_once("rungs", settings.rungs or ("none",))
    if settings.rungs != Settings.rungs and max(settings.rungs, default=-1) >= min(settings.sparsities):
        raise ValueError(
            f"rungs: expected sparsities below the lowest of sparsities, {min(settings.sparsities)}, but got "
            f"{settings.rungs}. A certificate asks at every sparsity anyway: leave the others out."
        )
    check.positive("margin", settings.margin)
    conditions.check_conditions(settings)
    check.choice("protocol", settings.protocol, PROTOCOLS)
    each_once("tasks", settings.tasks or ("all",))
    each_once("shifts", settings.shifts or ("none",))
    if settings.most_per_class and settings.protocol == "public-proxy":
        raise ValueError(
            f"most_per_class: expected 0 under public-proxy, which is about all test images, but got "
            f"{settings.most_per_class}. Leave it out, or take the protocol leak-free."
        )
    if settings.protocol == "public-proxy" and len(settings.finetune_rates) > 1:
        raise ValueError(
            "finetune_rates: expected one under public-proxy, whose selection images are those of the test, but got "
            f"{settings.finetune_rates}. Pass finetune_rate, or take the protocol leak-free."
        )
    if settings.protocol != "leak-free" and not settings.weights:
        raise ValueError(
            f"protocol: {settings.protocol!r} is about pretrained networks. Pass weights, or leave it out."
        )
    certifies = settings.protocol == "leak-free"
    if not certifies and settings.rungs not in ((), Settings.rungs):
        raise ValueError(
            f"rungs: expected none under public-proxy, whose images leave none to certify with, but got "
            f"{settings.rungs}. Leave them out, or take the protocol leak-free."
        )
    if certifies and not min(settings.sparsities) > 0:
        raise ValueError("sparsities: expected numbers above 0, each a rung of a certificate, but got 0. Leave it out.")
    if certifies and not min(settings.rungs, default=1) > 0:
        raise ValueError("rungs: expected numbers above 0, each a rung of a certificate, but got 0. Leave it out.")
    if certifies and not settings.margin < 1:
        raise ValueError(
            f"margin: expected a share of the images below 1, but got {settings.margin}. 0.05 is 5 points."
        )
    inputs = open_inputs(settings, tasks=settings.tasks, protocol=settings.protocol, certifies=certifies)
    if settings.protocol == "public-proxy":
        inputs = dataclasses.replace(inputs, settings=protocol.with_protocol(settings, inputs))
    return conditions.completed(inputs)


def plan(settings: Settings, inputs: Any) -> list[Run]:
    """Lists the runs of a study, in an order that keeps a seed, and a method, together."""
    fields = fields_of(settings, Decisive)
    lower = [one for one in sorted(settings.rungs) if one < min(settings.sparsities)] if inputs.certifies else []
    kinds = [*((Rung, one) for one in lower), *((Run, one) for one in settings.sparsities)]
    cells = [(DENSE, (Run, 0.0)), *itertools.product(parsed(settings), kinds)]
    return [
        kind(**fields, **vars(method), seed=seed, sparsity=sparsity)
        for seed in settings.seeds
        for method, (kind, sparsity) in cells
    ]
