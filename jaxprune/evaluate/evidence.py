"""What pruning changed on each image, at every rung of a ladder: flips, disagreements, drops."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxprune import check
from jaxprune.evaluate import transfer
from jaxprune.evaluate.purposes import identities
from jaxprune.network import Network
from jaxprune.types import Batch

Kind = Literal["flips", "disagreements", "drops"]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What was seen on n images of a task, at every rung of a ladder.

    Attributes:
      kind: "flips" (the dense network is right, the pruned one wrong), "disagreements" (they predict different classes;
        no label was read) or "drops" (1 for a flip, -1 the other way round, 0 else; the order is that in which labels
        are bought).
      values: bool [rungs, n], or int8 [rungs, n] of drops.
      images: which images these are, [n]: integers or strings, none twice.  ``largest`` compares them with those of the
        ladder and of the report.

    Raises:
      ValueError: values of another shape or other numbers, no image, images that are no identities or occur twice.
    """

    kind: Kind
    values: np.ndarray
    images: np.ndarray

    def __post_init__(self) -> None:
        check.choice("kind", self.kind, ("flips", "disagreements", "drops"))
        wanted = np.int8 if self.kind == "drops" else np.bool_
        if self.values.ndim != 2 or 0 in self.values.shape or self.values.dtype != wanted:
            raise ValueError(
                f"values: expected {np.dtype(wanted)} [rungs, n] of {self.kind}, but got {self.values.dtype}"
                f"{list(self.values.shape)}. safety.{self.kind}(...) makes them."
            )
        if not np.isin(self.values, (-1, 0, 1)).all():
            raise ValueError("values: expected drops of -1, 0 and 1, but got others. safety.drops(...) makes them.")
        object.__setattr__(self, "images", identities("images", self.images))
        if len(self.images) != self.n:
            raise ValueError(
                f"images: expected the number of each of the {self.n} images, but got {len(self.images)} numbers."
            )
        distinct, counts = np.unique(self.images, return_counts=True)
        if len(distinct) < self.n:
            raise ValueError(
                f"images: expected every image once, but {distinct[np.argmax(counts)]} occurs {counts.max()} times. "
                "Copies are no independent draws: keep one of each."
            )

    @property
    def rungs(self) -> int:
        """How many rungs there are."""
        return self.values.shape[0]

    @property
    def n(self) -> int:
        """How many images there are."""
        return self.values.shape[1]


def flips(dense_hits: Any, hits: Any, *, images: Any, weight: Any = None) -> Evidence:
    """Marks the images that the dense network has right and the pruned one wrong.

    The drop in accuracy is the rate of flips less the rate of gains, so it is at most the rate of flips.

    Args:
      dense_hits: which images the dense network has right, bool [n]; see ``hits``.
      hits: which those of the ladder have right, bool [rungs, n], in the order of the sparsities.
      images: identities of the images, integers or strings [n], such as their numbers in the data source.
      weight: [n], 0 or 1; images of weight 0 (padding) are left out, with their identities.  None: all count.

    Returns:
      ``Evidence`` of kind "flips".

    Raises:
      ValueError: other shapes, weights other than 0 and 1, no image, an image twice.
      TypeError: hits that are no booleans.

    >>> flips([True, True, False], [[True, False, True]], images=[7, 8, 9]).values.tolist()
    [[False, True, False]]
    """
    before, after = _paired("hits", dense_hits, hits, _booleans)
    return _evidence("flips", before & ~after, images, weight)


def disagreements(dense_predictions: Any, predictions: Any, *, images: Any, weight: Any = None) -> Evidence:
    """Marks the images on which the pruned network predicts another class than the dense one: no labels are needed.

    Where one is right and the other wrong they predict different classes, so every flip is a disagreement, whatever the
    labels are; a bound on their rate is one on the drop.

    Args:
      dense_predictions: classes that the dense network predicts, integers [n]; see ``predictions``.
      predictions: those of the ladder, integers [rungs, n], in the order of the sparsities.
      images: identities of the images, integers or strings [n], such as their numbers in the data source.
      weight: [n], 0 or 1; images of weight 0 (padding) are left out, with their identities.  None: all count.

    Returns:
      ``Evidence`` of kind "disagreements".

    Raises:
      ValueError: other shapes, weights other than 0 and 1, no image, an image twice.
      TypeError: predictions that are no integers.

    >>> disagreements([3, 1, 2], [[3, 0, 2]], images=[7, 8, 9]).values.tolist()
    [[False, True, False]]
    """
    before, after = _paired("predictions", dense_predictions, predictions, _integers)
    return _evidence("disagreements", before != after, images, weight)


def drops(dense_hits: Any, hits: Any, *, images: Any, weight: Any = None) -> Evidence:
    """Takes the difference of dense and pruned hits, -1, 0 or 1, for labels that are bought one at a time.

    It is tested by ``betting``, image by image, in the order in which they stand here; that has to be fixed without
    looking at the hits.  A label is needed only where the two predict different classes: elsewhere the drop is 0.

    Args:
      dense_hits: which images the dense network has right, bool [n]; see ``hits``.
      hits: which those of the ladder have right, bool [rungs, n], in the order of the sparsities.
      images: identities of the images, integers or strings [n], such as their numbers in the data source.
      weight: [n], 0 or 1; images of weight 0 (padding) are left out, with their identities.  None: all count.

    Returns:
      ``Evidence`` of kind "drops".

    Raises:
      ValueError: other shapes, weights other than 0 and 1, no image, an image twice.
      TypeError: hits that are no booleans.

    >>> drops([True, True, False], [[True, False, True]], images=[7, 8, 9]).values.tolist()
    [[0, 1, -1]]
    """
    before, after = _paired("hits", dense_hits, hits, _booleans)
    return _evidence("drops", before.astype(np.int8) - after.astype(np.int8), images, weight)


def hits(networks: Iterable[Network], batches: Iterable[Batch], *, classes: Sequence[str] | None = None) -> np.ndarray:
    """Says which images each of several networks has right: bool [networks, n].

    Args:
      networks: the dense one and those of a ladder, say; they are taken one after the other, so a generator of networks
        holds one of them at a time.
      batches: images and labels; examples of weight 0 are left out, other weights than 1 refused.
      classes: the names of the classes of the data; see ``jp.evaluate.transfer.accuracy``.

    Returns:
      A row for each network, examples in the order of the batches.

    Raises:
      ValueError: as of ``jp.evaluate.transfer.correct``; no network; weights other than 0 and 1.
      TypeError: a single network.

    >>> nets = [Network(lambda p, s, x, sign=sign: sign * x, {}) for sign in (1, -1)]
    >>> hits(nets, [{"image": np.eye(2), "label": np.array([0, 0])}]).tolist()
    [[True, False], [False, True]]
    """
    return _rows(networks, batches, lambda network, data: transfer.correct(network, data, classes=classes))


def predictions(
    networks: Iterable[Network], batches: Iterable[Batch], *, classes: Sequence[str] | None = None
) -> np.ndarray:
    """Says which class each of several networks predicts: int [networks, n].  Labels are not read.

    Args:
      networks: the dense one and those of a ladder, say; they are taken one after the other, so a generator of networks
        holds one of them at a time.
      batches: images; examples of weight 0 are left out, other weights than 1 refused.
      classes: the names of the classes of the data; see ``jp.evaluate.transfer.accuracy``.

    Returns:
      A row for each network, examples in the order of the batches.

    Raises:
      ValueError: as of ``jp.evaluate.transfer.predictions``; no network; weights other than 0 and 1.
      TypeError: a single network.

    >>> nets = [Network(lambda p, s, x, sign=sign: sign * x, {}) for sign in (1, -1)]
    >>> predictions(nets, [{"image": np.eye(2)}]).tolist()
    [[0, 1], [1, 0]]
    """
    return _rows(networks, batches, lambda network, data: transfer.predictions(network, data, classes=classes))


def _evidence(kind: Kind, values: np.ndarray, images: Any, weight: Any) -> Evidence:
    known = identities("images", images)
    if len(known) != values.shape[1]:
        raise ValueError(
            f"images: expected the number of each of the {values.shape[1]} images, but got {len(known)} numbers."
        )
    if weight is not None:
        counted = _unit("weight", weight, values.shape[1])
        values, known = values[:, counted], known[counted]
    return Evidence(kind, values, known)


def _paired(
    name: str, dense: Any, pruned: Any, checked: Callable[[str, np.ndarray], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Checks that the dense network has [n] and the ladder [rungs, n] of the same."""
    before, after = np.asarray(dense), np.asarray(pruned)
    checked(f"dense_{name}", before)
    checked(name, after)
    if before.ndim != 1 or after.ndim != 2 or after.shape[1] != len(before) or 0 in after.shape:
        raise ValueError(
            f"{name}: expected [n] of the dense network and [rungs, n] of the ladder, for one rung and one image or "
            f"more, but got {list(before.shape)} and {list(after.shape)}. A single rung is {name}[None]."
        )
    return before, after


def _booleans(name: str, values: np.ndarray) -> None:
    if values.dtype != np.bool_:
        raise TypeError(
            f"{name}: expected booleans, right or wrong, but got {values.dtype}. Compare: classes == labels."
        )


def _integers(name: str, values: np.ndarray) -> None:
    if not np.issubdtype(values.dtype, np.integer):
        raise TypeError(
            f"{name}: expected integers, the predicted classes, but got {values.dtype}. Of outputs take "
            "numpy.argmax(outputs, axis=-1)."
        )


def _unit(name: str, weight: Any, n: int) -> np.ndarray:
    """Says which examples count, bool [n]; a test counts each once."""
    weights = np.asarray(weight)
    if weights.shape != (n,) or not np.isin(weights, (0, 1)).all():
        raise ValueError(
            f"{name}: expected 0 (left out) or 1 for each of {n} images, but got {weights.dtype}{list(weights.shape)} "
            f"with other values or of another length. The tests count every image once: leave weights out."
        )
    return weights == 1


def _rows(
    networks: Iterable[Network], batches: Iterable[Batch], read: Callable[[Network, Any], np.ndarray]
) -> np.ndarray:
    if isinstance(networks, Network):
        raise TypeError(
            "networks: expected several, such as the dense one and a ladder's, but got one. Pass [network]."
        )
    again = _OfUnitWeight(check.batches(batches))
    rows = [read(network, again) for network in networks]
    if not rows:
        raise ValueError("networks: expected one or more, but got none. An iterator can be read only once.")
    return np.stack(rows)


@dataclass(frozen=True)
class _OfUnitWeight:
    """Batches that are checked to weigh every example 0 or 1 whenever they are read."""

    batches: Iterable[Batch]

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            if "weight" in batch:
                _unit("batches: weight", batch["weight"], len(np.asarray(batch["weight"])))
            yield batch
