"""How far each network may be pruned, with a guarantee, from images on which nothing else is reported."""

from typing import Any, NamedTuple

import numpy as np

from experiments.transfer.results import Results
from jaxprune.evaluate import safety

ROLES = {"transfer": "tasks it was never shown", "all": "all tasks"}
"""What is certified: the tasks never shown, pooled, and these with the source."""

_MADE = ("pretraining", "scoring", "head", "finetuning", "selection")


class Line(NamedTuple):
    """What was certified of the ladder of a method and a seed.

    Attributes:
      method: its word.
      seed: of the network.
      role: of ``ROLES``.
      labels: whether they were read.
      found: the certificate; where there are too few images for any, why, in words.
    """

    method: str
    seed: int
    role: str
    labels: bool
    found: safety.Certificate | str

    @property
    def reached(self) -> float:
        """The certified sparsity, 0 where there is none."""
        return 0.0 if isinstance(self.found, str) else self.found.sparsity or 0.0


def certificates(results: Results, alpha: float) -> list[Line]:
    """Certifies the ladder of every method and seed, at 95 % confidence each, with labels and without.

    Args:
      results: of the study.
      alpha: the drop that is allowed.
    """
    if not results.inputs.certifies:
        return []
    lines = []
    for method in results.methods:
        for place, seed in enumerate(results.seeds):
            dense = results.metrics("dense", 0.0)[place]
            rungs = [results.metrics(method, sparsity)[place] for sparsity in results.ladder]
            for role in ROLES:
                for labels in (False, True):
                    found = _certificate(results, seed, dense, rungs, role, alpha, labels)
                    lines.append(Line(method, seed, role, labels, found))
    return lines


def _certificate(
    results: Results, seed: int, dense: Any, rungs: Any, role: str, alpha: float, labels: bool
) -> safety.Certificate | str:
    inputs = results.inputs
    tasks = [task for task in inputs.tasks if role == "all" or task.name != inputs.source.name]
    images = [one for task in tasks for one in inputs.identities(seed, "certificate", task.classes)]

    def read(metrics: Any) -> np.ndarray:
        found = [metrics["certificate"][task.name] for task in tasks]
        if labels:
            return np.frombuffer("".join(one["hits"] for one in found).encode(), np.uint8) == ord("1")
        return np.concatenate([np.asarray(one["predicted"]) for one in found])

    count = safety.flips if labels else safety.disagreements
    evidence = count(read(dense), np.stack([read(one) for one in rungs]), images=images)
    made = [name for name in _MADE if inputs.weights is None or name != "pretraining"]
    try:
        return safety.largest(
            {" and ".join(task.name for task in tasks): evidence},
            results.ladder,
            alpha=alpha,
            made={name: inputs.identities(seed, name) for name in made},
            reported={"test": inputs.identities(seed, "test")},
        )
    except ValueError as error:
        if evidence.values.shape[1] >= safety.images_needed(alpha):
            raise
        return str(error)
