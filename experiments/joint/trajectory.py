"""A search on disk: every step a network that loads by itself, and enough beside it to go on after a kill.

TRAJECTORY/run.json                          all that decides the search
TRAJECTORY/step_003/specification.json       the shape of the network
TRAJECTORY/step_003/weights.safetensors      its weights
TRAJECTORY/step_003/step.json                how it came about; written last, so it is there when all is
"""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import jaxprune as jp
from jaxprune import check, files

_NOTED = ("number", "kind", "macs", "parameters", "filters", "removed", "scores", "seconds")


Build = Callable[[Mapping[str, Any]], jp.structured.Specification]


class Trajectory:
    """The steps of one run, on disk; ``identity`` is all that decides the search: a folder of another is refused.

    ``build`` makes a specification of what one wrote.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], build: Build = jp.models.specification) -> None:
        self._build = build
        self.folder = check.writable("out", folder)
        marker, text = folder / "run.json", json.dumps(identity, indent=1, sort_keys=True) + "\n"
        if not marker.exists():
            if any(folder.glob("step_*")):
                raise ValueError(f"out: {str(folder)!r} has steps, but no run.json that says whose. Move it away.")
            files.write(marker, text)
        elif marker.read_text() != text:
            raise ValueError(
                f"out: {str(folder)!r} holds the trajectory of another search. Choose another folder with --out, or "
                "move it away."
            )

    def steps(self) -> list[jp.structured.Step]:
        """Loads the steps that are complete, from the dense network on."""
        complete = itertools.takewhile(lambda path: (path / "step.json").exists(), map(self.path, itertools.count()))
        return [_loaded(path, self._build) for path in complete]

    def append(self, step: jp.structured.Step, image_shape: Sequence[int]) -> None:
        """Saves a step."""
        root = jp.structured.save(self.path(step.number), step.specification, step.params, step.state, image_shape)
        gates = {name: as_text(open_gates) for name, open_gates in step.gates.items()}
        notes = {name: getattr(step, name) for name in _NOTED} | {"base": step.base.describe(), "gates": gates}
        files.demand_finite("step", notes)
        files.write(root / "step.json", json.dumps(notes, indent=1) + "\n")

    def path(self, number: int) -> Path:
        """Returns where a step lies, or would lie."""
        return self.folder / f"step_{number:03}"


def _loaded(folder: Path, build: Build) -> jp.structured.Step:
    try:
        specification, network = jp.structured.load(folder, build)
        notes = json.loads((folder / "step.json").read_text())
        return jp.structured.Step(
            specification=specification,
            params=network.params,
            state=network.state,
            base=build(notes["base"]),
            gates={name: np.array([one == "1" for one in text]) for name, text in notes["gates"].items()},
            **{name: notes[name] for name in _NOTED},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"out: the step in {str(folder)!r} is damaged ({type(error).__name__}: {error}). Delete this step and "
            "those after it; they are computed again."
        ) from error


def as_text(bits: np.ndarray) -> str:
    """Writes bools as text of 0 and 1."""
    return "".join("01"[int(one)] for one in bits)
