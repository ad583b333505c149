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

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

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
"""``{"image": [b, h, w, c], "label": [b], "weight": [b]}``.  Weight 0 marks padding; without
``"weight"`` every example weighs 1."""

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
