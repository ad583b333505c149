"""Which route serves which leaf: exact first, then cheap, then small.

Every public quantity is a list of tasks (``tasks``): the plan reads their cost, and the computation runs them.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprune import losses, tree
from jaxprune.curvature import activation, columns, partition, restricted, signals
from jaxprune.curvature.requests import Request, is_bias, is_idle, positions, reason_against_signals, why_signals
from jaxprune.curvature.tasks import WIDTH, SignalTask, Task
from jaxprune.sites import operations
from jaxprune.sites.heads import Head, comes_before

SIGNALS = "class-backward signals"
LAYERS = "one product for each layer"
UNITS = "products of units in activation space"
POSITIONS = "products of positions in activation space"
PRODUCTS = "one product for each block"
EXAMPLES = "one gradient for each example and column"
NOTHING = "nothing to compute"


def product_tasks(request: Request, vector: Any) -> list[Any]:
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
        why = why_signals(request)
    if by_signals:
        wanted = request.blocks if isinstance(request.blocks, str) else ("runs", request.blocks)
        tasks += signal_tasks(request, by_signals, [wanted], vectors, why)
    if by_layers:
        tasks.append(_layer_task(request, by_layers, vectors, why))
    return _over_examples(request, tasks, "products", vectors)


def signal_tasks(
    request: Request, paths: Sequence[str], quantities: Sequence[Any], vectors: Any, why: str, share: Any = None
) -> list[SignalTask]:
    """The tasks by signals: of the leaves before a narrow linear head, whose columns are fewer, and of all others.

    Args:
      request: what is asked for.
      paths: the leaves.
      quantities: see ``SignalTask``; "unit" and "layer" are products.
      vectors: v at every leaf, by name, for products.
      why: why signals are exact.
      share: of every example in the sum; None: in the mean.
    """
    head, found = request.head, request.survey
    before = [] if head is None else [path for path in paths if comes_before(found.program, head, found.sites[path])]
    tasks = []
    if before:
        assert head is not None
        why_head = f"{why}; {head.width} columns at the inputs of the head stand for {request.columns()} at the outputs"
        tasks.append(_signal_task(request, before, quantities, vectors, why_head, share, head))
    if others := [path for path in paths if path not in before]:
        tasks.append(_signal_task(request, others, quantities, vectors, why, share))
    return tasks


def _signal_task(
    request: Request,
    paths: Sequence[str],
    quantities: Sequence[Any],
    vectors: Any,
    why: str,
    share: Any,
    head: Head | None = None,
) -> SignalTask:
    products = tuple(quantity for quantity in quantities if quantity in ("unit", "layer"))
    others = tuple(quantity for quantity in quantities if quantity not in products)
    given = tuple(vectors[path] for path in paths) if vectors is not None else ()
    own = bool(given) and all(vector is request.leaf(path) for path, vector in zip(paths, given, strict=True))
    matrix = "empirical_fisher" if request.matrix == "empirical_fisher" else "ggn"
    count = request.columns() if head is None else head.width
    return SignalTask(
        SIGNALS,
        tuple(paths),
        why,
        request.network,
        request.batch,
        losses.shares(request.batch, request.survey.outputs) if share is None else share,
        given,
        signals.Wanted(
            request.loss,
            matrix,
            tuple(paths),
            head is not None,
            products,
            own,
            others,
            tuple(request.units(path) for path in paths),
            columns.may_be_negative(request.loss, request.batch),
        ),
        count,
        signals.width(count),
        placement=request.placement,
    )


def _layer_task(request: Request, paths: list[str], vectors: dict[str, Any], why: str) -> Task:
    # Where Hessian and Gauss-Newton block are the same, the latter's product is the cheaper one.
    matrices = tuple(
        "ggn" if request.matrix == "hessian" and not reason_against_signals(request, path) else request.matrix_of(path)
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
    count = request.sides() * (request.columns() if request.head is None else request.head.width)
    passes = (count * max(tails.values()) + 2 * forward) / (3 * forward)
    products = (2 * sum(tails.values()) + 2 * forward) / (3 * forward)
    counts = f"{count} signals take about {passes:.1f} gradients, {len(sites)} products {products:.1f}"
    if passes <= products:
        return by_signals, by_layers, f"{why_signals(request)}; {counts}"
    return [], [*by_signals, *by_layers], counts


def _block_by_block(request: Request, path: str, vector: Any, against: str) -> Task:
    leaf, found = request.leaf(path), request.survey
    if path in found.sites and request.blocks == "unit" and request.matrix != "empirical_fisher":
        options = {"loss": request.loss, "matrix": request.matrix_of(path), "path": path}
        units = partition.labels(leaf.shape, "unit", request.units(path)).max() + 1
        arguments = (request.network, request.batch, vector)
        return Task(UNITS, (path,), against, activation.products, arguments, options, int(units))
    labels = partition.labels(leaf.shape, request.blocks, request.units(path))
    return _plain(request, path, vector, labels, against)


def _plain(request: Request, path: str, vector: Any, labels: np.ndarray, against: str) -> Task:
    options = {"loss": request.loss, "path": path, "matrix": request.matrix_of(path)}
    arguments = (request.network, request.batch, vector, labels)
    return Task(PRODUCTS, (path,), against, restricted.products, arguments, options, int(labels.max()) + 1)


def diagonal_tasks(request: Request) -> list[Any]:
    """The tasks of ``diagonal``; each returns one array for every leaf that it serves, in its shape or as rows."""
    tasks, by_signals = [], []
    for path in request.paths:
        against = reason_against_signals(request, path)
        leaf = request.leaf(path)
        if is_idle(request, path):
            tasks.append(Task(NOTHING, (path,), "the outputs do not depend on it"))
        elif not against:
            by_signals.append(path)
        elif positions(request, path):
            tasks.append(_position_task(request, path, "diagonal", against))
        elif path in request.survey.sites and request.matrix != "empirical_fisher" and is_bias(request, path):
            # One weight in a unit: its own block is its diagonal.
            options = {"loss": request.loss, "matrix": request.matrix_of(path), "path": path}
            arguments = (request.network, request.batch, jnp.ones_like(leaf))
            tasks.append(Task(UNITS, (path,), against, activation.products, arguments, options, leaf.size))
        else:
            labels = np.arange(leaf.size, dtype=np.int32).reshape(leaf.shape)
            tasks.append(_plain(request, path, jnp.ones_like(leaf), labels, against))
    if by_signals:
        tasks += signal_tasks(request, by_signals, ["diagonal"], None, why_signals(request))
    return _over_examples(request, tasks, "diagonal", None)


def _over_examples(request: Request, tasks: list[Any], quantity: str, vectors: Any) -> list[Any]:
    """Divides tasks over devices, and puts one of single examples in place of those by products, where these are more.

    Exact for the Gauss-Newton and the empirical Fisher matrix of any leaf, wherever it enters.
    """
    placement = request.placement_of_products if any(isinstance(task, Task) for task in tasks) else None
    tasks = [
        replace(task, placement=placement) if isinstance(task, Task) and task.arguments else task for task in tasks
    ]
    slow = [
        task
        for task in tasks
        if task.route in (PRODUCTS, UNITS, POSITIONS)
        and request.matrix_of(task.paths[0]) != "hessian"
        and request.is_consistent(task.paths[0])
    ]
    # A device goes through its own examples only.
    parts = 1 if placement is None else placement.size
    count = np.shape(request.batch["image"])[0] // parts * request.columns()
    if not request.per_example or request.sides() * count >= sum(task.count for task in slow):
        return tasks
    paths = tuple(task.paths[0] for task in slow)
    why = "; ".join(dict.fromkeys(task.why for task in slow))
    tables = [_table(request, path, quantity) for path in paths]
    given = [request.leaf(path) if vectors is None else vectors[path] for path in paths]
    options = {
        "loss": request.loss,
        "matrix": request.matrix_of(paths[0]),
        "paths": paths,
        "quantity": quantity,
        "count": request.columns(),
    }
    arguments = (request.network, request.batch, given, tables)
    each = Task(EXAMPLES, paths, why, restricted.over_examples, arguments, options, count, placement=placement)
    return [*(task for task in tasks if not set(task.paths) <= set(paths)), each]


def _table(request: Request, path: str, quantity: str) -> np.ndarray:
    """What ``restricted.over_examples`` wants to know of the blocks of a leaf."""
    shape = request.leaf(path).shape
    if quantity == "dense":
        return request.members(path)
    return partition.labels(shape, request.blocks, request.units(path))


def _position_task(request: Request, path: str, quantity: str, against: str) -> Task:
    options = {"loss": request.loss, "matrix": request.matrix_of(path), "path": path, "quantity": quantity}
    count = int(partition.labels(request.leaf(path).shape, "unit", request.units(path)).max()) + 1
    width = max(1, WIDTH // positions(request, path))
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


def block_task(request: Request) -> Any:
    """The task of ``block`` for the only leaf that is asked for."""
    (path,) = request.paths
    against, members = reason_against_signals(request, path), request.members(path)
    if is_idle(request, path):
        return Task(NOTHING, (path,), "the outputs do not depend on it")
    if not against:
        (task,) = signal_tasks(request, [path], [("dense", request.blocks)], None, why_signals(request))
        return task
    if request.blocks == "unit" and positions(request, path):
        return _over_examples(request, [_position_task(request, path, "block", against)], "dense", None)[0]
    options = {"loss": request.loss, "path": path, "matrix": request.matrix_of(path)}
    arguments = (request.network, request.batch, members)
    task = Task(PRODUCTS, (path,), against, restricted.block_rows, arguments, options, members.size, WIDTH, rows=True)
    return _over_examples(request, [task], "dense", None)[0]


def factor_columns(request: Request, path: str) -> int:
    """The number of columns of ``factor_task``."""
    head, found = request.head, request.survey
    if head is None or path not in found.sites or not columns.has_root(request.loss, request.matrix):
        return request.columns()
    return head.width if comes_before(found.program, head, found.sites[path]) else request.columns()


def factor_task(request: Request) -> SignalTask | None:
    """The task of ``block_factors``; None where class signals would not be exact."""
    (path,) = request.paths
    if reason_against_signals(request, path) or is_idle(request, path):
        return None
    (task,) = signal_tasks(request, [path], [("factors", request.blocks)], None, why_signals(request))
    return _with_roots(request, task)


def joint_task(request: Request, paths: Sequence[str]) -> SignalTask:
    """The task of the factors of whole leaves, all by the same columns, so that the rows of two belong together."""
    head, found = request.head, request.survey
    if head is not None and not all(comes_before(found.program, head, found.sites[path]) for path in paths):
        head = None
    task = _signal_task(request, paths, [("factors", "layer")], None, why_signals(request), None, head)
    return _with_roots(request, task)


def _with_roots(request: Request, task: SignalTask) -> SignalTask:
    if columns.has_root(request.loss, request.matrix):
        return task
    # Once for all columns, not again for every chunk of them.
    roots = signals.output_roots(request.network, request.batch, task.share, loss=request.loss)
    return replace(task, drawn=roots, count=request.columns(), wanted=replace(task.wanted, head=False))
