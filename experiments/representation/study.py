"""When does pruning benefit a representation?  Does it look at the object, find it, and decide as observers do?

    python -m experiments.representation --data shapes

Networks climb a ladder: trained, pruned by a share of what is left, trained again (after arXiv 2507.01722).  On every
rung attributions are compared with the masks of objects, objects are searched for in the features, and decisions on
distorted images are compared with those of observers.  A sweet spot, a rung that is better than the dense network, is a
claim: it is tested for all rungs at once, against the dense network and against one trained as long and not pruned.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from experiments import representation_page
from experiments.representation_data import World, open_data, prepare, truth
from experiments.representation_measures import measure
from experiments.representation_networks import Climb
from experiments.representation_settings import Run, Study, grid, resolved, truths, validate
from experiments.transfer_grid import mine
from jaxprune import records


def main(study: Study, console: Console | None = None) -> Path:
    """Computes what is missing of a study, writes its page, and returns where that lies."""
    console = console or Console()
    study = resolved(study)
    validate(study)
    open_data(study)
    store = records.Store(study.out / "records", "representation")
    told = records.Store(study.out / "records", "representation-truth")
    runs = grid(study)
    missing = store.missing(mine(runs, study.shard, world_and_network))
    console.print(
        f"{len(runs)} runs, {len(missing)} of them to do here. Whatever is interrupted goes on when called again."
    )
    untold = told.missing(truths(study))
    for one in truths(study):
        todo = [run for run in missing if run.seed == one.seed]
        if not todo and one not in untold:
            continue
        start = time.perf_counter()
        world = prepare(study, one.seed)
        demand_same_data(world, [store.read(run) for run in runs if run.seed == one.seed and store.has(run)])
        if one in untold:
            found = truth(world, study, one.seed)
            told.write(one, found, records.provenance(world.fingerprint, time.perf_counter() - start))
        for architecture in dict.fromkeys(run.architecture for run in todo):
            wanted = {(run.arm, run.rung): run for run in todo if run.architecture == architecture}
            follow(study, wanted, architecture, one.seed, world, store, console)
    undone = [run for run in runs if not store.has(run)]
    if undone:
        console.print(f"{len(undone)} runs belong to other shards; the page is written by whichever finishes last.")
        return study.out
    return representation_page.write(
        study, [store.read(run) for run in runs], [told.read(one) for one in truths(study)], console
    )


def world_and_network(run: Run) -> tuple[str, int]:
    """Says what runs share their trainings: those of one architecture and seed."""
    return run.architecture, run.seed


def demand_same_data(world: World, made: Sequence[dict[str, Any]]) -> None:
    """Checks that what was measured before was measured on these images."""
    others = [record for record in made if record["provenance"]["data"] != world.fingerprint]
    if others:
        raise ValueError(
            f"data: {len(others)} records of seed {others[0]['config']['seed']} were made with other images: their "
            f"fingerprint is {others[0]['provenance']['data']}, now it is {world.fingerprint}. Choose another folder "
            "with --out, or delete them."
        )


def follow(
    study: Study,
    wanted: dict[tuple[str, int], Run],
    architecture: str,
    seed: int,
    world: World,
    store: records.Store,
    console: Console,
) -> None:
    """Trains the arms of an architecture and a seed, and measures those networks that have no record."""
    climb = Climb(study, architecture, seed, world, study.out)
    start = time.perf_counter()
    for arrived in climb.arms(study.random_rungs, study.snip_rungs):
        run = wanted.pop((arrived.arm, arrived.rung), None)
        if run is not None:
            metrics = measure(run, world, climb, arrived)
            store.write(run, metrics, records.provenance(world.fingerprint, time.perf_counter() - start))
            hits = sum(metrics["hits"]) / len(metrics["hits"])
            place = f"seed {seed}  {architecture:12}  {arrived.arm:7} {arrived.rung}"
            console.print(f"{place}  {metrics['sparsity']:6.1%}  accuracy {hits:.3f}")
        start = time.perf_counter()
        if not wanted:
            return


def command() -> None:
    """Reads the command line; a bad value ends in one line, without a traceback."""
    study = tyro.cli(Study, description=__doc__)
    try:
        validate(resolved(study))
        open_data(study)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    try:
        main(study)
    except KeyboardInterrupt:
        raise SystemExit("interrupted: what is done is kept; call again to go on") from None


if __name__ == "__main__":
    command()
