"""Layer or neurons?  Which of the two candidates of a step is kept.

A chooser either compares the candidates with their parent, after both were tuned briefly, or decides before there are
any.  Of equal candidates the layer is kept, as in arXiv 2506.04513.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxprune import check, losses, processes, similarity
from jaxprune.network import Network
from jaxprune.sites import read_jit
from jaxprune.structured.criteria import listed
from jaxprune.structured.gates import outputs
from jaxprune.types import Batch

# Below every similarity that there is.
_COLLAPSED = -2.0

KINDS = ("layer", "neurons")
"""The two kinds of candidates, the one that wins ties first."""


@dataclass(frozen=True)
class Chooser:
    """How a candidate is chosen.

    Attributes:
      name: what to call it.
      compare: ``(parent, {kind: candidate}) -> {kind: number}``, the largest wins; ties go to the layer.  None: it
        decides before.
      before: ``(step, kinds that there are) -> kind``; then no other candidate is made.  None: it compares.
      kinds: the candidates that it takes at all; where there is none of them, the search ends.
    """

    name: str
    compare: Callable[[Network, Mapping[str, Network]], dict[str, float]] | None = None
    before: Callable[[int, Sequence[str]], str] | None = None
    kinds: tuple[str, ...] = KINDS


def representation(
    batches: Iterable[Batch],
    measure: Callable[[list[tuple[Any, Any]]], float],
    *,
    site: str = "features",
    name: str = "representation",
) -> Chooser:
    """Keeps the candidate whose representation is most similar to its parent's.

    A candidate that has the same features for every image, to which no similarity is defined, loses.

    Args:
      batches: held-out images; labels are not used, examples of weight 0 do not count.
      measure: from the pairs (parent's features [n, d], candidate's) of all batches to a similarity, larger = closer.
      site: the tagged value that is compared.
      name: what to call it.
    """
    kept = listed(batches)

    def features(network: Network) -> list[np.ndarray]:
        return [
            processes.read(read_jit(network, batch["image"], (site,))[0])[processes.read(losses.weights(batch)) > 0]
            for batch in kept
        ]

    def compare(parent: Network, candidates: Mapping[str, Network]) -> dict[str, float]:
        before, found = features(parent), {}
        for kind, candidate in candidates.items():
            after = features(candidate)
            collapsed = np.ptp(np.concatenate(after), axis=0).max() == 0
            found[kind] = _COLLAPSED if collapsed else measure(list(zip(before, after, strict=True)))
        return found

    return Chooser(name, compare)


def cka(batches: Iterable[Batch], *, kind: str = "debiased", site: str = "features") -> Chooser:
    """Keeps the candidate with the larger CKA to its parent.

    Args:
      batches: held-out images.
      kind: "debiased" (linear), "biased" (linear, as in arXiv 2506.04513), "rbf", "minibatch" (Nguyen et al. 2021,
        arXiv 2010.15327) or "streaming" (debiased and exact, of narrow features, a batch at a time).
      site: the tagged value that is compared.

    Raises:
      ValueError: an unknown kind.
    """
    measures: dict[str, Callable[[list[tuple[Any, Any]]], float]] = {
        "debiased": lambda pairs: similarity.linear_cka(*_whole(pairs), debiased=True),
        "biased": lambda pairs: similarity.linear_cka(*_whole(pairs), debiased=False),
        "rbf": lambda pairs: similarity.rbf_cka(*_whole(pairs)),
        "minibatch": similarity.minibatch_cka,
        "streaming": similarity.streaming_cka,
    }
    return representation(batches, measures[check.choice("kind", kind, measures)], site=site, name=f"cka-{kind}")


def procrustes(batches: Iterable[Batch], *, site: str = "features") -> Chooser:
    """Keeps the candidate with the smaller Procrustes distance to its parent."""
    return representation(batches, lambda pairs: -similarity.procrustes(*_whole(pairs)), site=site, name="procrustes")


def accuracy(batches: Iterable[Batch]) -> Chooser:
    """Keeps the candidate with the higher accuracy on held-out data."""
    kept = listed(batches, ("image", "label"))

    def share(network: Network) -> float:
        right = total = 0.0
        for batch in kept:
            weights = processes.read(losses.weights(batch))
            hits = np.argmax(processes.read(outputs(network, batch["image"])), axis=-1) == processes.read(
                batch["label"]
            )
            right, total = right + float(np.sum(weights * hits)), total + float(np.sum(weights))
        return right / total

    return Chooser("accuracy", lambda parent, candidates: {kind: share(one) for kind, one in candidates.items()})


def random(seed: int) -> Chooser:
    """Keeps a layer or neurons by the toss of a coin, a function of (seed, step): the control."""

    def toss(step: int, kinds: Sequence[str]) -> str:
        # Raw bits, which NumPy does not change with its versions.
        return kinds[int(np.random.Philox(key=[seed, step]).random_raw() % np.uint64(len(kinds)))]

    return Chooser("random", before=toss)


def always(kind: str) -> Chooser:
    """Keeps the candidate of one kind, "layer" or "neurons", as long as there is one.

    Raises:
      ValueError: another kind.
    """
    check.choice("kind", kind, KINDS)
    return Chooser(f"always-{kind}", before=lambda step, kinds: kind, kinds=(kind,))


def _whole(pairs: Sequence[tuple[Any, Any]]) -> tuple[np.ndarray, np.ndarray]:
    left, right = zip(*pairs, strict=True)
    return np.concatenate(left), np.concatenate(right)
