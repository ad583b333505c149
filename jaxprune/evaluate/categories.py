"""Decisions among the categories of people: sixteen of them from a thousand classes, and shape against texture."""

import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from jaxprune import check
from jaxprune.evaluate.trials import Trials

_EQUAL = 1e-12  # relative; a sum of 1000 terms in float64 is off by 1e-13 at most


def sixteen_classes() -> dict[str, tuple[int, ...]]:
    """Returns the sixteen entry-level categories, each with its classes of ImageNet-1k: 207, none twice.

    Source: ``helper/human_categories.py`` of github.com/bethgelab/model-vs-human (MIT licence); Geirhos et al. (2018),
    arXiv 1808.08750.

    >>> groups = sixteen_classes()
    >>> len(groups), groups["airplane"], len(groups["dog"])
    (16, (404,), 109)
    """
    text = resources.files("jaxprune.evaluate").joinpath("sixteen_classes.json").read_text()
    return {name: tuple(classes) for name, classes in json.loads(text).items()}


def decide(probabilities: Any, *, groups: Mapping[str, Sequence[int]] | None = None, how: str = "mean") -> np.ndarray:
    """Decides on a category for each image: ``argmax over g of mean over i in g of p_i``.

    The mean, not the sum: with sums a category of 109 classes would win wherever a network is unsure.  Of categories
    that are equal, to twelve digits, the first in ``groups`` is taken: what differs in the last digits of sums of
    different length is rounding, as where a network gives all classes the same.

    Args:
      probabilities: softmax outputs, [n, c].
      groups: the classes of each category.  None: ``sixteen_classes``, for the 1000 classes of ImageNet-1k.
      how: "mean", as the field does it, or "sum", to see what that changes.

    Returns:
      The names of the categories, [n].

    Raises:
      ValueError: not probabilities; a category without a class; a class outside the outputs, or in two categories.
      TypeError: a category whose classes are no sequence, or not whole numbers.

    Source: Geirhos et al. (2021), arXiv 2106.07411.

    >>> decide(np.array([[0.6, 0.4, 0.0], [0.3, 0.3, 0.4]]), groups={"dog": (0, 1), "knife": (2,)}).tolist()
    ['dog', 'knife']
    """
    check.choice("how", how, ("mean", "sum"))
    values = np.asarray(probabilities, np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"probabilities: expected [n, c] with n and c of 1 or more, but got the shape {values.shape}.")
    check.finite("probabilities", values, "Inspect the network's outputs.")
    # The sum in half precision is off by this much.
    if values.min() < 0 or np.max(np.abs(values.sum(axis=1) - 1)) > 0.02:
        raise ValueError(
            f"probabilities: expected rows of 0 or more that sum to 1, but the lowest is {values.min():g} and the sums "
            f"lie in [{values.sum(axis=1).min():g}, {values.sum(axis=1).max():g}]. Pass the softmax of the outputs: "
            "jax.nn.softmax."
        )
    found = sixteen_classes() if groups is None else groups
    _check_groups(found, values.shape[1], given=groups is not None)
    reduce = np.mean if how == "mean" else np.sum
    rated = np.stack([reduce(values[:, list(classes)], axis=1) for classes in found.values()], axis=1)
    best = rated >= (1 - _EQUAL) * rated.max(axis=1, keepdims=True)
    return np.array(list(found))[np.argmax(best, axis=1)]


def _check_groups(groups: Mapping[str, Sequence[int]], classes: int, given: bool) -> None:
    if not given and classes != 1000:
        raise ValueError(
            f"groups: the sixteen categories are made of the 1000 classes of ImageNet-1k, but there are {classes} "
            "outputs. Pass the classes of each category: groups={'dog': (0, 3), 'cat': (1,)}."
        )
    wrong = [name for name, members in groups.items() if np.ndim(members) != 1]
    if wrong:
        raise TypeError(
            f"groups: expected the classes of each category, such as {{'dog': (0, 3), 'cat': (1,)}}, but "
            f"{wrong[0]!r} has {groups[wrong[0]]!r}. A single class needs a tuple too."
        )
    empty = [name for name, members in groups.items() if len(members) == 0]
    if empty or not groups:
        raise ValueError(
            f"groups: expected one or more classes in each category, but {empty or 'the mapping'} is empty. Leave such "
            "categories out."
        )
    members = np.concatenate(
        [check.label_range(f"groups[{name!r}]", list(row), classes) for name, row in groups.items()]
    )
    values, counts = np.unique(members, return_counts=True)
    if counts.max() > 1:
        raise ValueError(
            f"groups: expected every class at most once, but class {int(values[counts > 1][0])} occurs "
            f"{int(counts.max())} times. Give it to one category."
        )


class ShapeBias(NamedTuple):
    """How often decisions follow the shape rather than the texture.

    Attributes:
      bias: ``s / (s + t)``; NaN where no decision follows either.
      shape: s, the share of the images with a conflict whose shape was answered.
      texture: t, the share whose texture was answered.
      n: how many images with a conflict there are.
    """

    bias: float
    shape: float
    texture: float
    n: int


def cues(imagename: str) -> tuple[str, str]:
    """Reads shape and texture from the name of an image with conflicting cues.

    Raises:
      ValueError: the name does not end as those do.

    >>> cues("XXX_dog10-bird2.png")
    ('dog', 'bird')
    """
    match = re.fullmatch(r"(?P<shape>[^\d.-]+)\d*-(?P<texture>[^\d.-]+)\d*(\.\w+)?", imagename.split("_")[-1])
    if match is None:
        raise ValueError(
            f"imagename: expected shape and texture, as in 'XXX_dog10-bird2.png', but got {imagename!r}. Is this the "
            "data set cue-conflict? For other names pass arrays: shape_bias_of(decisions, shapes, textures)."
        )
    return match["shape"], match["texture"]


def shape_bias(trials: Trials) -> ShapeBias:
    """Measures the shape bias in trials of the data set cue-conflict, whose file names say shape and texture.

    Args:
      trials: of one subject or of several, pooled.

    Returns:
      The bias; images whose shape and texture are the same do not count.

    Raises:
      ValueError: a name without two cues; a right answer that is not the shape; no image with a conflict.

    Source: Geirhos et al. (2019), arXiv 1811.12231.

    >>> from jaxprune.evaluate.trials import make_trials
    >>> shape_bias(make_trials("dense", ["dog", "cat"], ["dog", "bear"], ["dog1-cat2.png", "bear3-cat1.png"]))
    ShapeBias(bias=0.5, shape=0.5, texture=0.5, n=2)
    """
    names = trials.imagename.tolist()
    shapes, textures = (np.array(column, dtype=str) for column in ([cues(name)[i] for name in names] for i in (0, 1)))
    other = np.flatnonzero(shapes != trials.category)
    if other.size:
        raise ValueError(
            f"trials: expected the shape as the right answer, but {names[other[0]]!r} has the category "
            f"{str(trials.category[other[0]])!r} ({other.size} of {len(trials)} trials)."
        )
    return shape_bias_of(trials.object_response, shapes, textures)


def shape_bias_of(decisions: Any, shapes: Any, textures: Any) -> ShapeBias:
    """Measures the shape bias of decisions: ``s / (s + t)``, where s follow the shape and t the texture.

    Args:
      decisions: what was answered, names or numbers of categories [n].
      shapes: the category of each image's shape, [n].
      textures: that of its texture, [n].

    Returns:
      The bias; images whose shape and texture are the same do not count.

    Raises:
      ValueError: arrays of different lengths; no image with a conflict.

    Source: Geirhos et al. (2019), arXiv 1811.12231.

    >>> shape_bias_of([0, 1, 2, 0], [0, 1, 1, 0], [1, 0, 2, 0])
    ShapeBias(bias=0.6666666666666666, shape=0.6666666666666666, texture=0.3333333333333333, n=3)
    """
    answers, first, second = np.asarray(decisions), np.asarray(shapes), np.asarray(textures)
    if answers.ndim != 1 or not answers.shape == first.shape == second.shape:
        raise ValueError(
            f"decisions, shapes, textures: expected one length n, but got {answers.shape}, {first.shape} and "
            f"{second.shape}."
        )
    conflict = first != second
    n = int(np.sum(conflict))
    if n == 0:
        raise ValueError(
            f"shapes, textures: expected images in which they differ, but in all {answers.size} they are the same. The "
            "bias is read from conflicting cues."
        )
    s, t = (int(np.sum((answers == cue)[conflict])) for cue in (first, second))
    return ShapeBias(s / (s + t) if s + t else float("nan"), s / n, t / n, n)
