"""Safe sparsity: how far a network may be pruned so that it loses no more than is allowed, with stated confidence.

A ladder of networks, pruned further and further, is made on some images.  Others, that nothing of it has seen, then
say up to which rung the loss of accuracy is at most alpha, and err with probability delta at most: whatever the
network, the score and the data, and for any number of images that is large enough (``images_needed``) and chosen
beforehand:

    found = safety.predictions([dense, *pruned], batches)                          # [1 + rungs, n], no labels needed
    seen = {"5-9": safety.disagreements(found[0], found[1:], images=numbers)}
    print(safety.largest(seen, sparsities, alpha=0.05, made={"scoring": others}, reported={"test": tests}))

What is meant by "on other images" is the population of which the images are independent draws, or the pool of which
they are a random sample without replacement.  Whoever tries again after a failure, on new images, makes a second test:
the two together err with probability 2 delta at most.  What may be looked at after every image is a test by ``drops``.

A certificate of other form was tried and certified nothing, or was wrong: by Hoeffding and Bentkus on rescaled drops,
and by the curvature of the loss.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from jaxprune import check
from jaxprune.check.trees import kind_of
from jaxprune.evaluate.betting import betting, betting_p_values, labels_needed
from jaxprune.evaluate.binomial import demand_images, fixed_sequence, images_needed, p_values, proper_share
from jaxprune.evaluate.evidence import Evidence, Kind, disagreements, drops, flips, hits, predictions
from jaxprune.evaluate.purposes import demand_disjoint

__all__ = [
    "Certificate",
    "Evidence",
    "Outcome",
    "betting",
    "betting_p_values",
    "demand_disjoint",
    "demand_images",
    "disagreements",
    "drops",
    "fixed_sequence",
    "flips",
    "hits",
    "images_needed",
    "labels_needed",
    "largest",
    "p_values",
    "predictions",
]


@dataclass(frozen=True)
class Outcome:
    """What the images of one task said of every rung, those beyond where testing stopped too.

    Attributes:
      task: its name; "" where there is one without a name.
      kind: what was counted: "flips", "disagreements" or "drops".
      alpha: the allowed drop.
      n: images.
      counts: flips, disagreements, or hits lost less hits gained, of every rung.
      p_values: of every rung.  Beyond the rung where testing stopped they certify nothing, however small.
    """

    task: str
    kind: Kind
    alpha: float
    n: int
    counts: tuple[int, ...]
    p_values: tuple[float, ...]


@dataclass(frozen=True)
class Certificate:
    """The largest sparsity that is certified, and how that was found; its text is one line.

    Attributes:
      sparsity: the largest certified; None where nothing is.  All rungs up to it are certified with it.
      sparsities: of all rungs, increasing.
      delta: how often a certificate may be wrong; its confidence is 1 - delta.
      outcomes: for every task, its counts and p-values.
    """

    sparsity: float | None
    sparsities: tuple[float, ...]
    delta: float
    outcomes: tuple[Outcome, ...]

    @property
    def p_values(self) -> tuple[float, ...]:
        """Of every rung, over all tasks: the largest of theirs."""
        return tuple(np.max([one.p_values for one in self.outcomes], axis=0).tolist())

    @property
    def stopped(self) -> int | None:
        """The number of the first rung that was not certified, from 0; None where all were."""
        certified = 0 if self.sparsity is None else 1 + self.sparsities.index(self.sparsity)
        return certified if certified < len(self.sparsities) else None

    def __str__(self) -> str:
        confidence = f"at {_percent(1 - self.delta)} confidence"
        if self.sparsity is None:
            return f"{confidence}, nothing is certified: {self._failure()}"
        line = f"{confidence}, pruning to {_percent(self.sparsity)} costs at most {_costs(self.outcomes)}"
        ways = {one.kind for one in self.outcomes}
        if ways == {"flips"}:
            return line
        parts = []
        for kind, words in _WORDS.items():
            names = [one.task for one in self.outcomes if one.kind == kind and one.task]
            if kind in ways:
                parts.append(f"tested {words[0] if len(ways) == 1 or not names else words[1] + _listed(names)}")
        return f"{line}, {', '.join(parts)}"

    def _failure(self) -> str:
        """Says which task stopped the first rung, and what would help."""
        worst = max(self.outcomes, key=lambda one: one.p_values[0])
        count, rate = worst.counts[0], worst.counts[0] / worst.n
        where = f" on {worst.task}" if worst.task else ""
        line = (
            f"already pruning to {_percent(self.sparsities[0])} may cost more than {_points(worst.alpha)}{where} "
            f"({count} {worst.kind} in {worst.n} images, p = {worst.p_values[0]:.2g}; the smallest p of the ladder is "
            f"{min(self.p_values):.2g}); "
        )
        if rate >= worst.alpha:
            return line + "at this rate no number of images will do: begin the ladder lower, or allow a larger drop"
        if worst.kind == "drops":
            return line + "at this rate more labels will do"
        try:
            needed = images_needed(worst.alpha, self.delta, flip_rate=rate)
        except ValueError:  # so close to alpha that nobody has as many
            return line + "at this rate hardly any number of images will do: begin the ladder lower"
        return line + f"at this rate {needed} new images would probably do"


_WORDS: Mapping[Kind, tuple[str, str]] = {
    "disagreements": ("without their labels", "without labels on "),
    "drops": ("with labels bought one at a time", "with labels bought one at a time on "),
}


def largest(
    evidence: Evidence | Mapping[str, Evidence],
    sparsities: Iterable[float],
    *,
    alpha: float | Mapping[str, float],
    made: Mapping[str, Any],
    reported: Mapping[str, Any],
    delta: float = 0.05,
) -> Certificate:
    """Finds the largest sparsity of a ladder whose drop in accuracy is at most alpha, with confidence 1 - delta.

    Rungs are tested in increasing sparsity, each at level delta, up to the first that fails (``fixed_sequence``): of
    all certificates that can be made so, at most delta certify any rung whose drop exceeds alpha.  A first rung that
    fails ends everything, so the lowest rungs should be so low that they are certain to pass; they cost nothing.  The
    more rungs, the finer is the answer; none of them makes it less certain.

    The drop of a rung, accuracy of the dense network less that of the pruned one, is at most the rate of flips, and
    that at most the rate of disagreements, which needs no labels.  Of flips and disagreements the p-value is exact,
    ``P(Bin(n, alpha) <= count)``.  Of drops it is that of ``betting``.  Of several tasks a rung counts only if it is
    rejected on each, and needs no correction for that: its p-value is the largest of theirs.

    The ladder must not have been made, or chosen, with images of the certificate, and accuracies should not be reported
    on these, where the certified rung looks better than it is: ``made`` and ``reported`` are compared with them.

    Args:
      evidence: what ``flips``, ``disagreements`` or ``drops`` return; or such for every task, by name.
      sparsities: of the rungs, increasing, in (0, 1): the rows of the evidence.
      alpha: the allowed drop, in (0, 1): five points are 0.05.  One for all tasks, or task -> alpha.
      made: purpose -> identities of the images that served it, [n]: pretraining, heads, scoring, training, selection.
        An empty dictionary says that no image was used.
      reported: what is reported -> identities of its images, [n].  Empty: nothing is, beside the certificate.
      delta: 1 - confidence, in (0, 1).

    Returns:
      A ``Certificate``; where not even the first rung passes its sparsity is None.

    Raises:
      ValueError: an image that serves two purposes; fewer images than certify alpha without a single flip, with the
        number that could; sparsities that do not increase, or are not as many as rungs; alpha or delta outside of
        (0, 1), or missing for a task; no task.
      TypeError: evidence that is none.

    Source: thresholds by fixed-sequence tests are those of Learn then Test, Angelopoulos et al. (2021), arXiv
    2110.01052, and have been used on a ladder pruned by magnitude, arXiv 2408.04759.  Several tasks: Berger (1982),
    Technometrics 24(4).

    >>> before = np.ones(300, bool)
    >>> after = np.ones((3, 300), bool)
    >>> after[1, :8], after[2, :30] = False, False
    >>> seen = flips(before, after, images=np.arange(300))
    >>> print(largest({"5-9": seen}, (0.3, 0.5, 0.7), alpha=0.05, made={"scoring": [300, 301]}, reported={}))
    at 95 % confidence, pruning to 50 % costs at most 5 points on 5-9
    """
    tasks = _tasks(evidence)
    proper_share("delta", delta, "95 % confidence is 0.05.")
    rungs = _increasing(sparsities)
    allowed = _allowed(alpha, list(tasks))
    demand_disjoint({task: one.images for task, one in tasks.items()}, made, reported)
    for task, one in tasks.items():
        if one.rungs != len(rungs):
            raise ValueError(
                f"sparsities: expected one for each of the {one.rungs} rungs of the evidence{_of(task)}, but got "
                f"{len(rungs)}. The dense network is no rung."
            )
        if one.kind != "drops":
            demand_images(one.n, allowed[task], delta, task=task)
    outcomes = tuple(_test(task, one, allowed[task]) for task, one in tasks.items())
    certified = int(fixed_sequence(np.max([one.p_values for one in outcomes], axis=0), delta))
    return Certificate(rungs[certified - 1] if certified else None, rungs, float(delta), outcomes)


def _test(task: str, evidence: Evidence, alpha: float) -> Outcome:
    counts = evidence.values.sum(axis=1, dtype=np.int64)
    if evidence.kind == "drops":
        found = betting_p_values(evidence.values, alpha)
    else:
        found = p_values(counts, evidence.n, alpha)
    return Outcome(task, evidence.kind, alpha, evidence.n, tuple(counts.tolist()), tuple(found.tolist()))


def _tasks(evidence: Any) -> dict[str, Evidence]:
    tasks = dict(evidence) if isinstance(evidence, Mapping) else {"": evidence}
    wrong = [one for one in tasks.values() if not isinstance(one, Evidence)]
    if wrong:
        raise TypeError(
            f"evidence: expected what flips, disagreements or drops return, or task -> such, but got "
            f"{kind_of(wrong[0])}. safety.flips(dense_hits, hits, images=...) makes it of hits."
        )
    if not tasks:
        raise ValueError("evidence: expected that of one task or more, but got none.")
    return tasks


def _increasing(sparsities: Iterable[float]) -> tuple[float, ...]:
    if not isinstance(sparsities, Iterable) or isinstance(sparsities, str):
        raise TypeError(f"sparsities: expected those of the rungs, such as (0.3, 0.5), but got {sparsities!r}.")
    rungs = tuple(check.sparsity(value, "sparsities") for value in sparsities)
    if not rungs or rungs[0] == 0 or any(low >= high for low, high in pairwise(rungs)):
        raise ValueError(
            f"sparsities: expected one or more that increase, above 0, but got {rungs}. Order the rungs, leave out the "
            "dense network, and name no sparsity twice."
        )
    return rungs


def _allowed(alpha: Any, tasks: list[str]) -> dict[str, float]:
    """The allowed drop of every task."""
    given: dict[str, Any] = dict(alpha) if isinstance(alpha, Mapping) else dict.fromkeys(tasks, alpha)
    if set(given) != set(tasks):
        raise ValueError(f"alpha: expected one for each of the tasks {tasks}, but got those of {list(given)}.")
    for task in tasks:
        proper_share(f"alpha{_of(task)}", given[task], "Five points are 0.05.")
    return {task: float(given[task]) for task in tasks}


def _of(task: str) -> str:
    return f" of {task}" if task else ""


def _costs(outcomes: Sequence[Outcome]) -> str:
    """Says what may be lost where: "5 points on each of 0-4 and 5-9", "5 points on 0-4 and 2 points on 5-9"."""
    parts = []
    for alpha in dict.fromkeys(one.alpha for one in outcomes):
        names = [one.task for one in outcomes if one.alpha == alpha and one.task]
        where = f" on {'each of ' if len(names) > 1 else ''}{_listed(names)}" if names else ""
        parts.append(f"{_points(alpha)}{where}")
    return _listed(parts)


def _listed(names: Sequence[str]) -> str:
    """Writes "a", "a and b", "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _points(share: float) -> str:
    number = f"{100 * share:.6g}"
    return f"{number} point" if number == "1" else f"{number} points"


def _percent(share: float) -> str:
    short = f"{100 * share:.4g}"
    return f"{short if short != '100' else f'{100 * share:.12g}'} %"  # what is less than all is not written as all
