"""Which route serves which leaf: exact first, then cheap, then small.

Every public quantity is a list of tasks (``tasks``): the plan reads their cost, and the computation runs them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import tree
from jaxprune.curvature import activation, backward, outputs, partition, restricted
from jaxprune.curvature.tasks import WIDTH, Task
from jaxprune.network import Network
from jaxprune.sites import Survey, operations, survey
from jaxprune.types import Batch, Loss

SIGNALS = "class-backward signals"
LAYERS = "one product for each layer"
UNITS = "products of units in activation space"
POSITIONS = "products of positions in activation space"
PRODUCTS = "one product for each block"
EXAMPLES = "one gradient for each example"
NOTHING = "nothing to compute"


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

    def leaf(self, path: str) -> Any:
        """The leaf of that name."""
        return self.leaves[path]

    def columns(self) -> int:
        """The number of columns, or pairs of them, of the output Hessian."""
        return outputs.count(self.loss, self.survey.outputs.shape[-1], self.matrix)

    def signals(self) -> int:
        """The number of backward passes that class signals take."""
        return self.columns() * (1 if outputs.has_root(self.loss, self.matrix) else 2)

    def units(self, path: str) -> tuple[int, ...]:
        """The axes of a leaf that are output."""
        return self.survey.unit_axes(path, np.ndim(self.leaf(path)))


def reason_against_signals(request: Request, path: str) -> str:
    """Why class-backward signals would not be exact for a leaf; ``""`` if they are."""
    found = request.survey
    if path in found.unserved:
        return found.unserved[path]
    proof = found.proofs[path]
    if request.matrix == "hessian" and not proof.piecewise_linear:
        return "what follows is not proven piecewise linear"
    if proof.examples is None:
        return "the examples are not proven independent"
    if proof.examples in found.sites[path].output_axes:
        return "every example has weights of its own"
    if _is_spanned(found, path):
        return "its kernel lies across the examples"
    if not request.per_example:
        return "the loss is not proven to treat every example alone"
    return ""


def _is_spanned(found: Survey, path: str) -> bool:
    """Whether the examples of z are not those of the other input: what the gradients of every example start from."""
    site, examples = found.sites[path], found.proofs[path].examples
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


def product_tasks(request: Request, vector: Any) -> list[Task]:
    """The tasks of ``block_product``; each returns one array for every leaf that it serves."""
    tasks, by_signals, by_layers = [], [], []
    vectors = tree.by_name(vector)
    for path in request.paths:
        against = reason_against_signals(request, path)
        if is_idle(request, path):
            tasks.append(Task(NOTHING, (path,), "the outputs do not depend on it"))
        elif request.blocks == "layer":
            (by_layers if against else by_signals).append(path)
        elif not against:
            by_signals.append(path)
        else:
            tasks.append(_block_by_block(request, path, vectors[path], against))
    if request.blocks == "layer":
        by_signals, by_layers, why = _cheaper(request, by_signals, by_layers)
    else:
        why = _why_signals(request)
    own = all(vectors[path] is request.leaf(path) for path in by_signals)
    if by_signals:
        tasks.append(_signal_task(request, by_signals, vectors, own, why))
    if by_layers:
        tasks.append(_layer_task(request, by_layers, vectors, why))
    return tasks


def _why_signals(request: Request) -> str:
    if request.matrix == "hessian":
        return "what follows is piecewise linear, so the Hessian block is that of Gauss and Newton"
    return f"the {request.matrix.replace('_', ' ')} matrix is a sum over signals"


def _signal_task(request: Request, paths: list[str], vectors: dict[str, Any], own: bool, why: str) -> Task:
    given = [vectors[path] for path in paths]
    options = {"blocks": request.blocks, "paths": tuple(paths), "own": own}
    return _by_signals(request, backward.products, paths, why, options, given)


def _by_signals(
    request: Request, program: Any, paths: Sequence[str], why: str, options: dict[str, Any], *given: Any
) -> Task:
    """A task of ``backward``: a program that sums, or joins, what every column of the output Hessian adds."""
    return Task(
        SIGNALS,
        tuple(paths),
        why,
        program,
        (request.network, request.batch, *given),
        {"loss": request.loss, "matrix": request.matrix, **options},
        request.columns(),
        backward.width(request.columns()),
    )


def _layer_task(request: Request, paths: list[str], vectors: dict[str, Any], why: str) -> Task:
    # Where Hessian and Gauss-Newton block are the same, the latter's product is the cheaper one.
    matrices = tuple(
        "ggn" if request.matrix == "hessian" and not reason_against_signals(request, path) else request.matrix
        for path in paths
    )
    return Task(
        LAYERS,
        tuple(paths),
        why,
        restricted.layer_products,
        (request.network, request.batch, [vectors[path] for path in paths]),
        {"loss": request.loss, "matrices": matrices, "paths": tuple(paths)},
    )


def _cheaper(request: Request, by_signals: list[str], by_layers: list[str]) -> tuple[list[str], list[str], str]:
    """Chooses between class signals and one product for each layer, by the operations of both."""
    if not by_signals:
        return [], by_layers, "exact for every network, and one product is all that a layer takes"
    found = request.survey
    forward = operations.total(found.program)
    sites = [found.sites[path] for path in by_signals]
    tails = operations.after(found.program, [site.output for site in sites])
    signals = (request.signals() * max(tails.values()) + 2 * forward) / (3 * forward)
    products = (2 * sum(tails.values()) + 2 * forward) / (3 * forward)
    counts = f"{request.signals()} signals take about {signals:.1f} gradients, {len(sites)} products {products:.1f}"
    if signals <= products:
        return by_signals, by_layers, f"{_why_signals(request)}; {counts}"
    return [], [*by_signals, *by_layers], counts


def _block_by_block(request: Request, path: str, vector: Any, against: str) -> Task:
    leaf, found = request.leaf(path), request.survey
    if path in found.sites and request.blocks == "unit" and request.matrix != "empirical_fisher":
        options = {"loss": request.loss, "matrix": request.matrix, "path": path}
        units = partition.labels(leaf.shape, "unit", request.units(path)).max() + 1
        arguments = (request.network, request.batch, vector)
        return Task(UNITS, (path,), against, activation.products, arguments, options, int(units))
    labels = partition.labels(leaf.shape, request.blocks, request.units(path))
    return _plain(request, path, vector, labels, against)


def _plain(request: Request, path: str, vector: Any, labels: np.ndarray, against: str) -> Task:
    options = {"loss": request.loss, "path": path, "matrix": request.matrix}
    arguments = (request.network, request.batch, vector, labels)
    return Task(PRODUCTS, (path,), against, restricted.products, arguments, options, int(labels.max()) + 1)


def diagonal_tasks(request: Request) -> list[Task]:
    """The tasks of ``diagonal``; each returns one array for every leaf that it serves, in its shape or as rows."""
    tasks, by_signals, by_examples = [], [], {}
    examples = np.shape(request.batch["image"])[0]
    for path in request.paths:
        against = reason_against_signals(request, path)
        leaf = request.leaf(path)
        if is_idle(request, path):
            tasks.append(Task(NOTHING, (path,), "the outputs do not depend on it"))
        elif not against:
            by_signals.append(path)
        elif request.matrix == "empirical_fisher" and leaf.size > examples:
            by_examples[path] = against
        elif _positions(request, path):
            tasks.append(_position_task(request, path, "diagonal", against))
        elif path in request.survey.sites and request.matrix != "empirical_fisher" and _is_bias(request, path):
            # One weight in a unit: its own block is its diagonal.
            options = {"loss": request.loss, "matrix": request.matrix, "path": path}
            arguments = (request.network, request.batch, jnp.ones_like(leaf))
            tasks.append(Task(UNITS, (path,), against, activation.products, arguments, options, leaf.size))
        else:
            labels = np.arange(leaf.size, dtype=np.int32).reshape(leaf.shape)
            tasks.append(_plain(request, path, jnp.ones_like(leaf), labels, against))
    if by_signals:
        options = {"paths": tuple(by_signals)}
        tasks.append(_by_signals(request, backward.diagonals, by_signals, _why_signals(request), options))
    if by_examples:
        options = {"loss": request.loss, "paths": tuple(by_examples)}
        why, arguments = "; ".join(dict.fromkeys(by_examples.values())), (request.network, request.batch)
        program = restricted.squared_gradients
        tasks.append(Task(EXAMPLES, tuple(by_examples), why, program, arguments, options, examples))
    return tasks


def _is_bias(request: Request, path: str) -> bool:
    return request.survey.sites[path].kind in ("add", "multiply")


def _positions(request: Request, path: str) -> int:
    """How many products a unit takes in activation space; 0 where that is not exact, or more than it has weights."""
    found = request.survey
    if path not in found.sites or _is_bias(request, path) or request.matrix == "empirical_fisher":
        return 0
    if found.proofs[path].examples is None or _is_spanned(found, path):
        return 0
    if not request.per_example or _meets_custom(found, path):
        return 0
    site, shape = found.sites[path], found.program.avals[found.sites[path].output].shape
    kept = {found.proofs[path].examples, *site.output_axes}
    count = int(np.prod([extent for axis, extent in enumerate(shape) if axis not in kept], dtype=np.int64))
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


def _position_task(request: Request, path: str, quantity: str, against: str) -> Task:
    options = {"loss": request.loss, "matrix": request.matrix, "path": path, "quantity": quantity}
    count = int(partition.labels(request.leaf(path).shape, "unit", request.units(path)).max()) + 1
    width = max(1, WIDTH // _positions(request, path))
    return Task(
        POSITIONS,
        (path,),
        against,
        activation.blocks,
        (request.network, request.batch),
        options,
        count,
        width,
        rows=True,
    )


def block_task(request: Request) -> Task:
    """The task of ``block`` for the only leaf that is asked for."""
    (path,) = request.paths
    leaf, against = request.leaf(path), reason_against_signals(request, path)
    members = partition.members(leaf.shape, request.blocks, request.units(path))
    if is_idle(request, path):
        return Task(NOTHING, (path,), "the outputs do not depend on it")
    if not against:
        options = {"path": path, "blocks": request.blocks}
        return _by_signals(request, backward.dense, [path], _why_signals(request), options)
    if request.blocks == "unit" and _positions(request, path):
        return _position_task(request, path, "block", against)
    options = {"loss": request.loss, "path": path, "matrix": request.matrix}
    arguments = (request.network, request.batch, members)
    return Task(PRODUCTS, (path,), against, restricted.block_rows, arguments, options, members.size, WIDTH, rows=True)


def factor_task(request: Request) -> Task | None:
    """The task of ``block_factors``; None where class signals would not be exact."""
    (path,) = request.paths
    if reason_against_signals(request, path) or is_idle(request, path):
        return None
    options = {"path": path, "blocks": request.blocks}
    # Once for all columns, not again for every chunk of them.
    known = outputs.has_root(request.loss, request.matrix)
    roots = None if known else backward.output_roots(request.network, request.batch, loss=request.loss)
    return _by_signals(request, backward.factors, [path], _why_signals(request), options, roots)
