"""Optax wrappers: training that keeps pruned weights at zero."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from jaxprune import check, masks, tree


class MaskedState(NamedTuple):
    """The state of ``with_mask``: the mask, and the state of the transformation inside."""

    mask: Any
    inner: Any


def with_mask(tx: optax.GradientTransformation, mask: Any) -> optax.GradientTransformationExtraArgs:
    """Wraps an optax transformation so that pruned weights stay exactly zero.

    ``tx`` sees the pruned network and nothing else: pruned weights are zero in the parameters that it is given, in
    ``init`` as in ``update``, their gradients are cut, and so are both in further arguments (``grad``, ``value_fn`` and
    the like).  They enter no moment, no norm and no average, and training from dense weights is that from masked ones.
    Whatever ``tx`` does to a pruned weight w afterwards (weight decay, momentum), its update becomes -w.

    The mask lives in the optimizer state: it is an argument of the jitted step, never a constant in it, and it is saved
    and sharded with the state.  Two wrappers of one ``tx.update`` share their own, so one compiled step serves every
    mask.  ``optax.tree.map_params`` takes it for what it is, no copy of the parameters.

    Args:
      tx: the transformation.  The state of the one inside is ``state.inner``, which is what
        ``optax.contrib.schedule_free_eval_params`` asks for.
      mask: bool leaves, True = kept, structure and shapes of the parameters.

    Returns:
      An optax transformation; its ``update`` needs ``params``.

    Raises:
      ValueError: the mask does not fit the parameters, or a pruned weight is NaN or infinite, which no update makes
        zero (at ``init``); ``update`` is called without ``params``.
      TypeError: ``tx`` is ``optax.lookahead``, which has two sets of parameters (at ``init``).

    >>> params = {"w": jnp.array([1.0, 2.0])}
    >>> tx = with_mask(optax.adamw(0.1), {"w": jnp.array([True, False])})
    >>> updates, _ = tx.update({"w": jnp.ones(2)}, tx.init(params), params)
    >>> optax.apply_updates(params, updates)["w"][1]
    Array(0., dtype=float32)
    """
    return optax.GradientTransformationExtraArgs(_MaskedInit(tx, mask), _masked_update(tx.update))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class _MaskedInit:
    """The ``init`` of ``with_mask``, which says what its mask is."""

    tx: optax.GradientTransformation
    mask: Any

    def __call__(self, params: Any) -> MaskedState:
        if _is_placeholder(params):
            return MaskedState(self.mask, self.tx.init(params))
        refuse_lookahead(params)
        check.mask("mask", self.mask, params)
        hidden, wrong = _hidden_and_wrong(self.mask, params)
        if not isinstance(wrong, Tracer) and wrong:
            raise ValueError(
                f"params: expected finite numbers where the mask prunes, but {int(wrong)} of them are NaN or infinite. "
                "An update is added to a weight, and nothing added to them makes 0. Begin with jp.masks.apply(mask, "
                "params)."
            )
        inner = self.tx.init(hidden)
        refuse_lookahead(inner)
        # The state owns its copy of the mask: a step that donates its state must not delete the caller's mask.
        return MaskedState(tree.copied(self.mask), inner)


def _is_placeholder(params: Any) -> bool:
    """Whether these are no parameters but what ``optax.tree.map_params`` puts in their place: a node without leaves."""
    return not jax.tree.leaves(params) and not isinstance(params, (Mapping, tuple, list, type(None)))


@jax.jit
def _hidden_and_wrong(mask: Any, params: Any) -> tuple[Any, Any]:
    """The parameters with pruned weights zero, and how many of the pruned ones are not finite."""
    wrong = jax.tree.map(lambda keep, leaf: jnp.sum(~keep & ~jnp.isfinite(leaf)), mask, params)
    return _hide(mask, params), sum(jax.tree.leaves(wrong), start=jnp.zeros((), int))


@functools.lru_cache(maxsize=128)
def _masked_update(inside: Callable[..., Any]) -> Any:
    def update(updates: Any, state: MaskedState, params: Any = None, **extra: Any) -> tuple[Any, MaskedState]:
        if params is None:
            raise ValueError("params: expected the parameters, but got None. Call tx.update(gradients, state, params).")
        hide = functools.partial(_hidden, state.mask)
        extra = {name: hide(value) for name, value in extra.items()}
        updates, inner = call(inside, _hide(state.mask, updates), state.inner, _hide(state.mask, params), extra)
        check.same_structure("tx: its updates", updates, "params", params)
        updates = jax.tree.map(lambda keep, leaf, w: jnp.where(keep, leaf, -w), state.mask, updates, params)
        return updates, MaskedState(state.mask, _without_revived(inner, hide))

    return update


def _hide(mask: Any, values: Any) -> Any:
    # where() and never a product: NaN times zero is NaN.
    return jax.tree.map(lambda keep, leaf: jnp.where(keep, leaf, 0), mask, values)


def _hidden(mask: Any, value: Any) -> Any:
    """What has the form of the parameters, without what is pruned; of a function, its arguments and what it returns."""
    leaves, structure = jax.tree.flatten(value)
    same = structure == jax.tree.structure(mask) and not any(map(callable, leaves))
    if same and [np.shape(leaf) for leaf in leaves] == [np.shape(keep) for keep in jax.tree.leaves(mask)]:
        return _hide(mask, value)
    if not callable(value):
        return value

    @functools.wraps(value)  # optax reads its signature
    def seen(*points: Any, **named: Any) -> Any:
        return _hidden(mask, value(*(_hidden(mask, point) for point in points), **named))

    return seen


def _without_revived(inner: Any, hide: Callable[[Any], Any]) -> Any:
    """The state, where the weights that a schedule-free transformation keeps in it are zero too where they are pruned.

    What it wraps may write there (Muon, decay, noise), and the evaluated weights are made of them.
    """

    def is_free(node: Any) -> bool:
        return isinstance(node, optax.contrib.ScheduleFreeState)

    return jax.tree.map(lambda node: node._replace(z=hide(node.z)) if is_free(node) else node, inner, is_leaf=is_free)


def call(
    update: Callable[..., Any], gradient: Any, state: Any, params: Any, extra: Mapping[str, Any]
) -> tuple[Any, Any]:
    """Calls the ``update`` of a transformation with those of the further arguments that it takes."""
    kinds = inspect.signature(update).parameters
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in kinds.values()):
        extra = {name: value for name, value in extra.items() if name in kinds}
    return update(gradient, state, params, **extra)


def start(tx: optax.GradientTransformation, params: Any) -> Any:
    """The weights that training with ``tx`` starts from: masked, where it is ``with_mask``."""
    return masks.apply(tx.init.mask, params) if isinstance(tx.init, _MaskedInit) else params


def without_masks(state: Any) -> tuple[Any, list[Any]]:
    """Returns a state without the masks of ``with_mask``, and those masks, outer ones first."""
    found: list[Any] = []

    def inside(node: Any) -> Any:
        while isinstance(node, MaskedState):
            found.append(node.mask)
            node = node.inner
        return node

    rest = jax.tree.map(inside, state, is_leaf=lambda node: isinstance(node, MaskedState))
    if not found:
        return rest, []
    rest, more = without_masks(rest)
    return rest, found + more


def refuse_lookahead(value: Any) -> None:
    """Raises where parameters or a state are those of ``optax.lookahead``."""
    kinds = (optax.LookaheadParams, optax.LookaheadState)
    if any(isinstance(node, kinds) for node in jax.tree.leaves(value, is_leaf=lambda node: isinstance(node, kinds))):
        raise TypeError(
            "tx: expected a transformation of one set of parameters, but optax.lookahead has two, fast and slow ones "
            "(optax.LookaheadParams), of which only the caller knows which to train and which to evaluate. Take the "
            "optimizer inside of it, or optax.contrib.schedule_free, which averages weights with one set."
        )


def arguments(objective: Callable[[Any], Any], value: Any, gradient: Any) -> dict[str, Any]:
    """What transformations may ask for beside the gradient, by the names that optax has for it."""

    # Line searches raise where anybody is given a further argument that value_fn does not take.
    def value_fn(point: Any, obj_fn: Any = None, grad_fn: Any = None) -> Any:
        del obj_fn, grad_fn
        return objective(point)

    return {
        "value": value,
        "grad": gradient,
        "value_fn": value_fn,
        "obj_fn": objective,
        "grad_fn": lambda point, *_: jax.grad(objective)(point),
    }


def demand_served(tx: optax.GradientTransformation, state: Any, params: Any) -> Any:
    """Checks, without computing, that ``tx`` makes updates of these parameters from a mean gradient.

    Returns:
      The traced program (jaxpr) of one update.
    """
    refuse_lookahead(state)
    leaves, structure = jax.tree.flatten((state, params))
    shapes = tuple((jnp.shape(leaf), jnp.result_type(leaf), getattr(leaf, "weak_type", False)) for leaf in leaves)
    config: Any = jax.config
    given = (tx.update, structure, shapes, config.jax_enable_x64)
    try:
        hash(given)
    except TypeError:
        return _traced(*given)
    return _served(*given)


# Remembered by shapes: a study fine-tunes hundreds of networks with one transformation.
@functools.lru_cache(maxsize=64)
def _served(update: Callable[..., Any], structure: Any, shapes: Any, float64: bool) -> Any:
    return _traced(update, structure, shapes, float64)


def _traced(update: Callable[..., Any], structure: Any, shapes: Any, float64: bool) -> Any:
    def total(point: Any) -> Any:
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(point))

    def once(state: Any, params: Any) -> tuple[Any, Any]:
        return call(update, params, state, params, arguments(total, total(params), params))

    leaves = [jax.ShapeDtypeStruct(shape, dtype, weak_type=weak) for shape, dtype, weak in shapes]
    state, params = jax.tree.unflatten(structure, leaves)
    try:
        program, (updates, after) = jax.make_jaxpr(once, return_shape=True)(state, params)
        check.same_structure("its updates", updates, "the parameters", params)
        check.same_structure("its state", after, "the state before", state)
    except Exception as error:  # optax, and whoever made tx, raises what it likes
        raise ValueError(
            "tx: expected a transformation of the mean gradient of a batch that asks for nothing but value, grad, "
            f"value_fn, obj_fn or grad_fn, but got {type(error).__name__}: {error} Choose another one, or write the "
            "loop around tx.update yourself."
        ) from error
    return program
