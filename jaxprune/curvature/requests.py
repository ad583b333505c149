"""What is asked for, and what is proven of every leaf: which routes would be exact for it, and why."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jaxprune import losses, mesh, tree
from jaxprune.curvature import columns, outputs, partition
from jaxprune.mesh import Placement
from jaxprune.network import Network
from jaxprune.sites import Survey, examples, survey
from jaxprune.sites.heads import Head, find_head
from jaxprune.sites.program import with_inner
from jaxprune.types import Apply, Batch, Loss


@dataclass(frozen=True)
class Request:
    """What is asked for: the arguments of a public function."""

    network: Network
    loss: Loss
    batch: Batch
    matrix: str
    blocks: str | int
    paths: tuple[str, ...]

    @cached_property
    def survey(self) -> Survey:
        """Where the parameters of the network enter; traced as the programs are, at the precision that they have."""
        with jax.default_matmul_precision("highest"):
            return survey(self.network, self.batch["image"])

    @cached_property
    def leaves(self) -> dict[str, Any]:
        """The leaves of the parameters, by name."""
        return tree.by_name(self.network.params)

    @cached_property
    def per_example(self) -> bool:
        """Whether the loss is proven to treat every example alone."""
        return outputs.is_per_example(self.loss, self.survey.outputs, self.batch)

    @cached_property
    def placement(self) -> Placement | None:
        """Over which devices examples are divided; None where they are not, or not proven to be treated alone.

        Then the compiler divides the work, as far as it can.
        """
        placement = mesh.found(self.batch)
        if placement is None or not self._is_alike(placement):
            return None
        alone = self._are_alone(_Outputs(self.network.apply), (self.network.params, self.network.state), placement)
        if alone and not columns.is_known(self.loss):
            split = (self.survey.outputs, dict(self.batch))
            alone = examples.are_alone(_Values(self.loss), (), split, placement.size)
        return placement if alone else None

    @cached_property
    def placement_of_products(self) -> Placement | None:
        """As ``placement``, where the derivatives are proven to treat examples alone, of whichever leaf.

        A rule given by hand may mix them where the values do not: then values and both derivatives are inspected.
        """
        if self.placement is None or not self.per_example:
            return None
        inner = itertools.chain(*map(with_inner, self.survey.program.steps))
        rules = {step.primitive.name for step in inner} & {"custom_jvp_call", "custom_vjp_call"}
        if not rules:
            return self.placement
        if "custom_vjp_call" in rules:
            return None
        params, state = self.network.params, self.network.state
        function, at = _Derivatives(self.network.apply), (params, params, params, state)
        return self.placement if self._are_alone(function, at, self.placement) else None

    def _is_alike(self, placement: Placement) -> bool:
        """Whether the same is proven of every leaf where a device has its examples only."""
        images = self.batch["image"]
        part = jax.ShapeDtypeStruct((len(images) // placement.size, *images.shape[1:]), images.dtype)
        with jax.default_matmul_precision("highest"):
            own = survey(self.network, part)
        return own.proofs == self.survey.proofs and own.unserved == self.survey.unserved

    def _are_alone(self, function: Callable[..., Any], at: Any, placement: Placement) -> bool:
        with jax.default_matmul_precision("highest"):
            return examples.are_alone(function, at, self.batch["image"], placement.size)

    def leaf(self, path: str) -> Any:
        """The leaf of that name."""
        return self.leaves[path]

    @cached_property
    def zero_residual(self) -> bool:
        """Whether the gradient by the outputs is zero by the definition of the loss."""
        return losses.has_zero_residual(self.loss, self.batch)

    @cached_property
    def head(self) -> Head | None:
        """The linear head of the network, if its inputs are fewer than the columns of the output Hessian."""
        found = None if self.matrix == "empirical_fisher" else find_head(self.survey.program)
        return found if found is not None and found.width < self.columns() else None

    def matrix_of(self, path: str) -> str:
        """The matrix by whose products a leaf is served: "ggn" also where the Hessian is that of Gauss and Newton.

        H - G = sum_c dl/df_c grad^2 f_c is zero with dl/df, if both are made of the same derivatives: if those after
        the leaf belong to the values.
        """
        exact = self.matrix == "hessian" and self.zero_residual and self.is_consistent(path)
        return "ggn" if exact else self.matrix

    def is_consistent(self, path: str) -> bool:
        """Whether every derivative rule of the user's own after a leaf belongs to the values, see ``sites.Proof``."""
        proof = self.survey.proofs.get(path)
        return self.survey.consistent if proof is None else proof.consistent

    def columns(self) -> int:
        """The number of columns, or pairs of them, of the output Hessian."""
        return columns.count(self.loss, self.survey.outputs.shape[-1], self.matrix)

    def sides(self) -> int:
        """The number of backward passes that a column takes."""
        return 1 if columns.has_root(self.loss, self.matrix) else 2

    def units(self, path: str) -> tuple[int, ...]:
        """The axes of a leaf that are output."""
        return self.survey.unit_axes(path, np.ndim(self.leaf(path)))

    def members(self, path: str) -> np.ndarray:
        """The flat positions of the weights of every block of a leaf [blocks, m], -1 where one is shorter."""
        return partition.members(self.leaf(path).shape, self.blocks, self.units(path))


@dataclass(frozen=True)
class _Outputs:
    apply: Apply

    def __call__(self, at: Any, images: Any) -> Any:
        params, state = at
        return self.apply(params, state, images)


@dataclass(frozen=True)
class _Derivatives:
    apply: Apply

    def __call__(self, at: Any, images: Any) -> Any:
        params, one, other, state = at

        def first(params: Any) -> Any:
            return jax.jvp(lambda params: self.apply(params, state, images), (params,), (one,))

        return jax.jvp(first, (params,), (other,))


@dataclass(frozen=True)
class _Values:
    loss: Loss

    def __call__(self, _: Any, split: Any) -> Any:
        outputs, batch = split
        return losses.values(self.loss, outputs, batch)


def reason_against_signals(request: Request, path: str) -> str:
    """Why class-backward signals would not be exact for a leaf; ``""`` if they are."""
    found = request.survey
    if path in found.unserved:
        return found.unserved[path]
    proof = found.proofs[path]
    if request.matrix_of(path) == "hessian" and not proof.piecewise_linear:
        if request.zero_residual:
            return "a derivative rule of its own follows that does not belong to the values"
        return "what follows is not proven piecewise linear"
    if proof.examples is None:
        return "the examples are not proven independent"
    if proof.examples.axis in found.sites[path].output_axes:
        return "every example has weights of its own"
    if _is_spanned(found, path):
        return "its kernel lies across the examples"
    if not request.per_example:
        return "the loss is not proven to treat every example alone"
    return ""


def is_served(request: Request, path: str) -> bool:
    """Whether class-backward signals are exact for a leaf that has a derivative at all."""
    return not is_idle(request, path) and not reason_against_signals(request, path)


def _is_spanned(found: Survey, path: str) -> bool:
    """Whether the examples of z are not those of the other input: what the gradients of every example start from."""
    site, proof = found.sites[path], found.proofs[path]
    examples = None if proof.examples is None else proof.examples.axis
    params, rank = site.operation(found.program).params, len(found.program.avals[site.output].shape)
    if site.kind == "convolution":
        return examples != params["dimension_numbers"].out_spec[0]
    if site.kind == "dense":
        contracted, batched = params["dimension_numbers"]
        groups = len(batched[0])
        own = len(site.axes) - len(contracted[site.position]) - groups
        start = rank - own if site.position else groups
        return examples in range(groups) or examples in range(start, start + own)
    return False


def is_idle(request: Request, path: str) -> bool:
    """Whether the outputs do not depend on a leaf, so that everything is zero."""
    found = request.survey
    return (
        request.leaf(path).size == 0
        or found.unserved.get(path) == ""
        or (path in found.proofs and not found.proofs[path].reached)
    )


def why_signals(request: Request) -> str:
    """Why class-backward signals are exact."""
    if request.matrix == "hessian" and request.zero_residual:
        return "the residual is zero: the Hessian is the Gauss-Newton matrix of the distance to the network as given"
    if request.matrix == "hessian":
        return "what follows is piecewise linear, so the Hessian block is that of Gauss and Newton"
    return f"the {request.matrix.replace('_', ' ')} matrix is a sum over signals"


def is_bias(request: Request, path: str) -> bool:
    """Whether a leaf is added or multiplied, so that every weight is a unit."""
    return request.survey.sites[path].kind in ("add", "multiply")


def positions(request: Request, path: str) -> int:
    """How many products a unit takes in activation space; 0 where that is not exact, or more than it has weights."""
    found = request.survey
    if path not in found.sites or is_bias(request, path) or request.matrix == "empirical_fisher":
        return 0
    examples = found.proofs[path].examples
    if examples is None or _is_spanned(found, path):
        return 0
    if not request.per_example or _meets_custom(found, path):
        return 0
    site, shape = found.sites[path], found.program.avals[found.sites[path].output].shape
    kept = {examples.axis, *site.output_axes}
    count = int(np.prod([extent for axis, extent in enumerate(shape) if axis not in kept], dtype=np.int64))
    count *= examples.before * examples.after
    leaf = request.leaf(path)
    inputs = leaf.size // (int(partition.labels(leaf.shape, "unit", request.units(path)).max()) + 1)
    return count if count < inputs else 0


def _meets_custom(found: Survey, path: str) -> bool:
    """Whether a derivative given by hand follows a site: the second may mix examples though the first does not."""
    reached = {found.sites[path].output}
    for step in found.program.steps:
        if reached.intersection(atom for atom in step.inputs if isinstance(atom, int)):
            if step.name == "custom_jvp_call":
                return True
            reached.update(step.outputs)
    return False
