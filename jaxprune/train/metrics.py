"""What a training says of itself: lines of ``metrics.jsonl``, a function of the caller's, evaluations."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxprune import check, files, tree
from jaxprune.network import Network
from jaxprune.types import Evaluator

Log = Callable[[int, dict[str, float]], object]
"""``log(step, {name: number})``."""

_OWN = ("step", "loss", "gradient_norm")


@dataclass(frozen=True)
class Hooks:
    """Who hears of a training, and how often.

    Attributes:
      log: gets what ``metrics.jsonl`` gets, or None.
      log_every: steps between the numbers of a step.
      evaluate: measures the network, or None.
      evaluate_every: steps between its calls.
    """

    log: Log | None
    log_every: int
    evaluate: Evaluator | None
    evaluate_every: int

    def due(self, done: int, end: bool) -> tuple[bool, bool]:
        """Whether the numbers of a step are logged, and whether the network is evaluated after it."""
        return end or done % self.log_every == 0, self.evaluate is not None and (end or done % self.evaluate_every == 0)

    def numbers(
        self, done: int, reports: tuple[bool, bool], metrics: Mapping[str, Any], network: Network
    ) -> dict[str, float]:
        """The numbers of a step, of an evaluation after it, or both."""
        logs, evaluates = reports
        own = {name: float(metrics[name]) for name in _OWN[1:]} if logs else {}
        return own | (evaluated(self.evaluate, network, done) if evaluates and self.evaluate else {})

    @contextmanager
    def rows(self, root: Path | None, start: int) -> Iterator[Log]:
        """Gives what appends a line to ``metrics.jsonl`` and calls ``log``.

        Lines of steps that are taken again after a resume are dropped.
        """
        log = self.log or (lambda number, found: None)
        if root is None:
            yield log
            return
        path = root / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        files.write(path, "".join(line + "\n" for line in lines if _step_of(line) <= start))
        with path.open("a") as handle:

            def both(number: int, found: dict[str, float]) -> None:
                handle.write(json.dumps({"step": number, **found}) + "\n")
                handle.flush()
                log(number, found)

            yield both


def evaluated(evaluate: Evaluator, network: Network, number: int) -> dict[str, float]:
    """Measures the network after a step.

    Raises:
      TypeError, ValueError: what ``evaluate`` returns are no finite numbers by names of their own.
    """
    # A copy, which may be kept: the next step donates the buffers of the network itself.
    found = evaluate(tree.copied(network))
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise TypeError(f"evaluate: expected it to return {{name: number}}, but after step {number} got {found!r}.")
    if clash := sorted(set(found) & set(_OWN)):
        raise ValueError(
            f"evaluate: expected names other than {', '.join(_OWN)}, which are of the training itself, but it "
            f"returned {', '.join(clash)}. Give its numbers other names, such as 'test_{clash[0]}'."
        )
    if wrong := [name for name, value in found.items() if not check.is_number(value)]:
        raise TypeError(
            f"evaluate: expected one real number for every name, but after step {number} {wrong[0]!r} is "
            f"{found[wrong[0]]!r}. Leave out what is none."
        )
    numbers = {name: float(value) for name, value in found.items()}
    files.demand_finite(f"evaluate: after step {number}", numbers)
    return numbers


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # half a line, from a process that was killed while writing it
