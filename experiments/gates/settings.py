"""What the study of gates computes: its settings, its runs, and the check of every value."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from experiments.gates.arms import DISTANCES, METHODS, has_distance
from experiments.shared import conditions
from experiments.shared.conditions import Conditions
from experiments.shared.discovered import units
from experiments.shared.methods import DENSE, Method
from experiments.shared.results import fields_of
from experiments.shared.settings import Execution, each_once, listed
from experiments.shared.splits import Inputs, open_inputs
from jaxprune import check


@dataclass(frozen=True, kw_only=True)
class Run(Conditions, Method):
    """A network without some of its units, before and after fine-tuning, and one record.

    ``distance`` is that of the Hessian, or empty where none is asked for; ``share`` of all units is gone.
    """

    seed: int
    distance: str
    share: float


@dataclass(frozen=True)
class Settings(Conditions, Execution):
    """Every method at every share for every seed, and the dense network for every seed."""

    architecture: str = "vit"
    """The network that is trained first, whose heads and hidden units go; of ``network`` go the units that are found in
    its program before its features."""
    methods: Annotated[tuple[str, ...], listed(METHODS, alias="--method")] = tuple(METHODS)
    """[objective/]score[+update].  Updates: readjusted, by the joint Hessian at the dense network; rounds, by that of
    each round."""
    distances: Annotated[tuple[str, ...], listed(DISTANCES)] = ("squared", "kl")
    """Of which the joint Hessian is, its diagonal, and every re-adjustment."""
    shares: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8)
    """Of all heads and hidden units together, that go."""
    rounds: int = 8
    """Of methods that prune in rounds."""
    out: Path = Path("results/gates")


def open_study(settings: Settings) -> Inputs:
    """Opens the data, and finds every bad value before anything expensive starts."""
    if settings.network and settings.architecture == Settings.architecture:
        settings = replace(settings, architecture="")
    check.choice("architecture", settings.architecture, ("",) if settings.network else ("vit",))
    for name, known in (("methods", METHODS), ("distances", DISTANCES)):
        each_once(name, getattr(settings, name))
        for value in getattr(settings, name):
            check.choice(name, value, known, ordered=True)
    each_once("shares", settings.shares)
    for share in settings.shares:
        if not 0 < share < 1:
            raise ValueError(f"shares: expected shares of all units, in (0, 1), but got {share!r}. For half pass 0.5.")
    for name in ("sketch", "blocks", "round_share"):
        if getattr(settings, name) != getattr(Settings, name):
            raise ValueError(f"{name}: expected none, as gates have neither; it is of weights. Leave it out.")
    conditions.check_conditions(settings, None)
    inputs = open_inputs(settings)
    if settings.network and inputs.weights is not None:
        units(inputs.weights, inputs.images.image_shape, prove=False)
    return conditions.completed(inputs, methods=tuple(settings.methods))


def plan(settings: Settings, inputs: Any) -> list[Run]:
    """Lists the runs, those of a seed and a method together; what depends on no distance is done once."""
    del inputs
    fields = fields_of(settings, Conditions)
    cells = [(DENSE, "", 0.0)]
    for word in settings.methods:
        distances = settings.distances if has_distance(METHODS[word]) else ("",)
        cells += itertools.product((METHODS[word],), distances, settings.shares)
    return [Run(**fields, **vars(m), seed=seed, distance=d, share=s) for seed in settings.seeds for m, d, s in cells]
