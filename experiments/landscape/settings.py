"""What the landscape study computes: its settings, its runs, and the check of every value."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jaxprune as jp
from experiments.shared import conditions
from experiments.shared.conditions import Conditions
from experiments.shared.methods import DENSE, Method, Methods, parsed
from experiments.shared.results import fields_of
from experiments.shared.settings import Execution, listed, positive, seeds_below
from experiments.shared.splits import Inputs, open_inputs
from jaxprune import check


@dataclass(frozen=True)
class Decisive(Conditions):
    """What decides the numbers of a run, apart from seed and method."""

    transfer: str = ""
    """The task that the network is never shown.  Empty: the first one that is not the source."""
    sparsity: float = 0.8
    """Of every pruned network."""
    matrix: Annotated[str, listed(("hessian", "ggn"))] = "hessian"
    """What the curvature is taken of."""
    count: int = 10
    """Eigenvalues and eigenvectors."""
    steps: int = 40
    """Products that Lanczos takes, for the eigenpairs and for each probe of the density."""
    probes: int = 2
    """Random vectors behind a density."""
    trace_probes: int = 15
    """Random vectors behind a trace."""
    points: int = 11
    """Of a pruning path, of a barrier, and along each direction of a slice."""
    reach: float = 1.0
    """Of a slice, in lengths of the filters."""


@dataclass(frozen=True, kw_only=True)
class Run(Decisive, Method):
    """A network, pruned and fine-tuned, and one record."""

    seed: int


@dataclass(frozen=True)
class Settings(Decisive, Execution):
    """For every seed the dense network, and one pruned by every method."""

    methods: Methods = ("magnitude", "label/snip", "random")
    """[objective/]score, such as label/snip; paths lead to masks of the dense network, so nothing is updated.  A score
    of your own takes (network, batches), and loss if it has such an argument."""
    out: Path = Path("results/landscape")
    margin: float = 0.1
    """A barrier is none if it stays below this share of the loss at its ends; only the verdicts depend on it."""


def open_study(settings: Settings) -> Inputs:
    """Opens the data and finds the two tasks, and every bad value, before anything expensive starts."""
    check.sparsity(settings.sparsity)
    check.choice("matrix", settings.matrix, ("hessian", "ggn"))
    positive(settings, "count", "steps", "probes", "reach", "margin")
    for name, least in {"trace_probes": 2, "points": 3}.items():
        check.whole(name, getattr(settings, name), least)
    if settings.count > settings.steps:
        raise ValueError(
            f"count: expected at most steps ({settings.steps}), but got {settings.count}. Take more steps."
        )
    conditions.check_conditions(settings, ("none",))
    seeds_below(settings, 10**6)
    inputs = open_inputs(settings)
    others = [task for task in inputs.tasks if task.name != inputs.source.name]
    other = jp.data.find_task(others, settings.transfer) if settings.transfer else others[0]
    return conditions.completed(inputs, transfer=other.name)


def plan(settings: Settings, inputs: object) -> list[Run]:
    """Lists the runs of a study, a seed at a time, the dense network first."""
    fields = fields_of(settings, Decisive)
    found = (DENSE, *parsed(settings))
    return [Run(**fields, **vars(method), seed=seed) for seed in settings.seeds for method in found]
