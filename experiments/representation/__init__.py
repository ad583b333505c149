"""When does pruning benefit a representation?  Does it look at the object, find it, and decide as observers do?

Networks climb a ladder: trained, pruned by a share of what is left, trained again (after arXiv 2507.01722).  On every
rung attributions are compared with the masks of objects, objects are searched for in the features, and decisions on
distorted images are compared with those of observers.  A sweet spot, a rung that is better than the dense network, is a
claim: it is tested for all rungs at once, against the dense network and against one trained as long and not pruned.
"""

from typing import Any, NamedTuple

from experiments.representation import page
from experiments.representation.data import Images, Inputs, open_study
from experiments.representation.measures import measure_network, measure_truth
from experiments.representation.networks import Trainings
from experiments.representation.results import Results, claims, tables
from experiments.representation.settings import Run, Settings, Truth, plan
from experiments.shared import study


class World(NamedTuple):
    """What the runs of one seed and architecture share; what is true of a seed needs no trainings."""

    images: Images
    trainings: Trainings | None


def prepare(settings: Settings, inputs: Inputs, key: tuple[int, str]) -> World:
    """Makes the images of a seed, and what trains an architecture on them."""
    (seed, architecture), images = key, inputs.images(key[0])
    return World(images, Trainings(settings, architecture, seed, images, settings.out) if architecture else None)


def measure(world: World, run: Truth | Run) -> dict[str, Any]:
    """Measures a network, or what all networks of a seed are held against."""
    if isinstance(run, Truth) or world.trainings is None:
        return measure_truth(world.images, run, run.seed)
    return measure_network(run, world.images, world.trainings)


def outcome(run: Truth | Run, metrics: dict[str, Any]) -> str:
    """Says what came out of a run."""
    hits = metrics.get("hits", [])  # a truth has none
    return f"{metrics['sparsity']:6.1%}  accuracy {sum(hits) / len(hits):.3f}" if hits else ""


STUDY = study.Study(
    name="representation",
    open=open_study,
    plan=plan,
    shared=lambda run: (run.seed, getattr(run, "architecture", "")),
    prepare=prepare,
    measure=measure,
    results=lambda inputs, records: Results(inputs.settings, records, inputs.tested),
    claims=claims,
    page=page.compose,
    tables=tables,
    outcome=outcome,
    summary=page.summary,
)
