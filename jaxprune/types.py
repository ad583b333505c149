"""The glossary of jaxprune as code: three trees, four callables, one batch.

Read this module first.  Everything else in the library makes one of these things or turns one into
another, always in two steps: configure, then apply.

    score = jp.scores.snip(jp.losses.cross_entropy)      # configure: hyperparameters
    tree = score(network, batches)                       # apply: data

The three trees share one structure.  ``"P"`` binds the structure and ``"?*w"`` the shape of every
leaf: a function annotated with them refuses a tree with a missing or transposed leaf (annotations
are checked at run time in the tests, and cost nothing elsewhere).  Functions that users call with
trees of their own check them in words, see ``jaxprune.check``.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, PyTree

Params = PyTree[Float[Array, "?*w"], "P"]
"""The weights: float leaves in any nesting of containers."""

Scores = PyTree[Float[Array, "?*w"], "P"]
"""One number for every weight.  Larger means: keep."""

Mask = PyTree[Bool[Array, "?*w"], "P"]
"""True for every weight that is kept.  Total: what is not prunable is True, never absent."""

Prunable = PyTree[bool]
"""Static: which leaves may be pruned.  One Python bool for every leaf of the parameters."""

Scope = PyTree[bool] | None
"""Static: which leaves a curvature is wanted for.  None means every leaf."""

State = Any
"""What a network carries and does not train (BatchNorm statistics, a frozen head).  May be ``{}``."""

Batch = Mapping[str, Any]
"""``{"image": [b, h, w, c], "label": [b], "teacher": [b, c], "weight": [b]}``, all but images optional.
A loss asks for what it reads.  Weight 0 marks padding, in every entry; without ``"weight"`` every
example weighs 1."""

Outputs = Float[Array, "b c"]
"""What a network returns for a batch: one row of ``c`` numbers for each of ``b`` examples."""

Apply = Callable[[Any, State, Any], Any]
"""``apply(params, state, images) -> outputs [b, c]``, in evaluation mode."""

TrainApply = Callable[[Any, State, Any, Any], tuple[Any, State]]
"""``train_apply(params, state, images, rngs) -> (outputs [b, c], state)``, in training mode."""


@runtime_checkable
class Loss(Protocol):
    """A loss of each example: ``(outputs [b, c], batch) -> [b]``."""

    def __call__(self, outputs: Any, batch: Batch, /) -> Any: ...


@runtime_checkable
class Score(Protocol):
    """Rates every weight of a network on data: ``(network, batches) -> scores``."""

    def __call__(self, network: Any, batches: Iterable[Batch], /) -> Any: ...


@runtime_checkable
class Select(Protocol):
    """Decides what stays: ``(scores, prunable) -> mask``."""

    def __call__(self, scores: Any, prunable: Any, /) -> Any: ...


@runtime_checkable
class Evaluator(Protocol):
    """Measures a network: ``(network) -> {name: number}``."""

    def __call__(self, network: Any, /) -> dict[str, float]: ...


@dataclass(frozen=True)
class Preprocess:
    """What a network expects of its images: a record that travels beside a loaded network.

    An image is resized, its central square is cut out, and the network sees ``(byte / 255 - mean) / std``.  The
    record is JSON: ``Preprocess(**json.loads(json.dumps(dataclasses.asdict(record))))`` equals it.

    Attributes:
      resize: the shorter side in pixels, or (height, width).  None: as it is.
      crop: the side of the central square in pixels.  None: no crop.
      interpolation: of the resize; both are antialiased, as those of Pillow are.
      mean: of each channel (red, green, blue), of pixels in [0, 1].
      std: of each channel, the same units.

    Raises:
      ValueError: a size that is not a whole number of 1 or more, an unknown interpolation, a mean or std that is
        not three finite numbers, a std of 0 or less.

    >>> Preprocess(resize=256, crop=224).crop
    224
    """

    resize: int | Sequence[int] | None = None
    crop: int | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: Sequence[float] = (0.485, 0.456, 0.406)
    std: Sequence[float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        for name in ("resize", "mean", "std"):
            if isinstance(getattr(self, name), list):  # JSON has no tuples; equal records are equal all the same
                object.__setattr__(self, name, tuple(getattr(self, name)))
        sides = self.resize if isinstance(self.resize, tuple) else (self.resize,)
        wrong = [side for side in (*sides, self.crop) if side is not None and not _is_side(side)]
        if wrong or (isinstance(self.resize, tuple) and (len(self.resize) != 2 or None in self.resize)):
            raise ValueError(
                f"preprocess: expected resize as the shorter side or (height, width), and crop as one side, all whole "
                f"pixels of 1 or more, but got resize={self.resize!r} and crop={self.crop!r}."
            )
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(
                f"preprocess: expected interpolation 'bilinear' or 'bicubic', but got {self.interpolation!r}."
            )
        for name in ("mean", "std"):
            values = getattr(self, name)
            numbers = isinstance(values, tuple) and all(isinstance(value, (int, float)) for value in values)
            least = -math.inf if name == "mean" else 0.0
            if not numbers or len(values) != 3 or not all(least < value < math.inf for value in values):
                raise ValueError(
                    f"preprocess: expected {name} as three finite numbers{', above 0' if least == 0 else ''}, for "
                    f"pixels in [0, 1], but got {values!r}. Divide those for bytes by 255."
                )


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
