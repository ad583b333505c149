"""One training step, and the loop around it: masks, checkpoints, resume."""

import functools
import json
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune import check, checkpoint, files, losses, optim, tree
from jaxprune.data.batches import is_streamed, training_batch
from jaxprune.data.prefetching import in_background
from jaxprune.data.progress import bar
from jaxprune.finite import breaks, explain
from jaxprune.network import Network
from jaxprune.types import Batch, Loss


@functools.partial(jax.jit, static_argnames=("loss", "update"), donate_argnames=("network", "optimizer"))
def step(
    network: Network, optimizer: Any, batch: Batch, key: jax.Array, *, loss: Loss, update: Callable[..., Any]
) -> tuple[Network, Any, dict[str, Any]]:
    """Takes one step of an optax transformation on the weighted mean loss of a batch.

    If the loss or a gradient is not finite, or the step would make NaN or infinity of a weight or of a number of the
    state or the optimizer, nothing changes and ``"finite"`` is False.  What was infinite before and stays as it is (an
    attention mask of -inf, a threshold of infinity) does no harm.

    Args:
      network: trained by ``train_apply`` where it has one, else as it stands.  Its buffers are given up (donated).
      optimizer: the state of the transformation; donated.
      batch: images, labels, weights.
      key: for dropout.
      loss: per-example loss.
      update: ``tx.update``; equal functions share one compiled step.  If it takes them, it gets ``value``, ``grad``,
        ``value_fn``, ``obj_fn`` and ``grad_fn`` of this batch.

    Returns:
      (network, optimizer, {"loss": mean loss before the step, "gradient_norm", "finite", "broken": for every leaf of
      (params, state, optimizer) whether it would not be finite}).
    """

    def value(params: Any) -> tuple[Any, Any]:
        if network.train_apply is None:
            outputs, state = network.apply(params, network.state, batch["image"]), network.state
        else:
            outputs, state = network.train_apply(params, network.state, batch["image"], {"dropout": key})
        return losses.mean(loss, outputs, batch), state

    (current, state), gradient = jax.value_and_grad(value, has_aux=True)(network.params)
    norm = optax.tree.norm(gradient)
    extra = optim.arguments(lambda point: value(point)[0], current, gradient)
    updates, new_optimizer = optim.call(update, gradient, optimizer, network.params, extra)
    before = (network.params, network.state, optimizer)
    after = (optax.apply_updates(network.params, updates), state, new_optimizer)
    broken = breaks(before, after)
    finite = jnp.isfinite(current) & jnp.isfinite(norm) & ~jnp.any(broken)
    params, state, optimizer = jax.tree.map(lambda old, new: jnp.where(finite, new, old), before, after)
    metrics = {"loss": current, "gradient_norm": norm, "finite": finite, "broken": broken}
    return network.replace(params=params, state=state), optimizer, metrics


def fit(
    network: Network,
    loss: Loss,
    tx: optax.GradientTransformation,
    data: Mapping[str, Any],
    *,
    steps: int,
    batch_size: int,
    seed: int,
    folder: str | os.PathLike[str] | None = None,
    save_every: int = 1000,
    log_every: int = 50,
    progress: str | None = None,
) -> Network:
    """Trains a network; killed and called again with the same folder, it goes on where it was.

    Batches and keys are functions of (seed, step), so a resumed run takes the same steps as one that was never
    interrupted and ends with the same bytes (on the same machine and devices).  One process.

    Args:
      network: where to start.
      loss: per-example loss.
      tx: an optax transformation.  ``jp.optim.with_mask(tx, mask)`` keeps pruned weights at zero; then training begins
        with masked weights, also where ``network`` is dense.  One that asks for the loss, or for functions of the
        weights (line searches, Polyak steps, ``reduce_on_plateau``), gets those of the batch.
      data: ``{"image": [n, ...], "label": [n]}``; see ``jp.data.select`` and ``jp.data.stream``.  Of a stream, the
        next batches are made in the background.  Images may be bytes, if the network takes bytes.
      steps: how many steps in all, those before a resume included.
      batch_size: examples in a batch.
      seed: decides the order of the data and the dropout keys.
      folder: where checkpoints and ``metrics.jsonl`` go.  None: nothing is written.
      save_every: steps between checkpoints; the last step is always saved.
      log_every: steps between lines of ``metrics.jsonl`` ({"step", "loss", "gradient_norm"}).
      progress: what to call the run in a progress bar with images per second.  None: no bar.

    Returns:
      The trained network.

    Raises:
      FloatingPointError: the loss or a gradient is not finite, or a step makes NaN or infinity of a weight or of a
        number of the state or the optimizer; the message says which.  That step was not taken, nothing was saved after
        it, and in the newest checkpoint is nothing that a step broke.
      SystemExit: SIGTERM came; the state was saved.
      TypeError, ValueError: ``tx`` cannot be served: it has two sets of weights, wants gradients of single examples, or
        asks for what ``fit`` does not know.
      ValueError: the folder cannot be written, or holds a checkpoint of another network, seed or batch size, or of a
        later step; or there is something to save that no checkpoint can hold.
    """
    root = None if folder is None else check.writable("folder", folder)
    check.positive("steps", steps)
    check.batch(data, "data")
    if not is_streamed(data):
        check.finite_batch(data, "data")
    # Private copies: the step donates its buffers, and the caller's network and mask must stay alive.
    state = jax.tree.map(jnp.array, _beginning(network, loss, tx, data))
    start, identity = 0, np.array([seed, batch_size, len(data["label"])])
    if root is not None:
        checkpoint.demand_savable((*state, identity))
    if root is not None and (found := checkpoint.restore(root, (*state, identity))) is not None:
        start, (*state, written) = found
        _check_resume(root, start, steps, identity, written)
    key = jax.random.key(seed)
    with (
        _log(root, start) as log,
        _sigterm() as stop,
        bar(progress, steps, start) as count,
        closing(_batches(data, batch_size, seed, range(start, steps))) as batches,
    ):
        last: dict[str, Any] | None = None
        for number, batch in zip(range(start, steps), batches, strict=True):
            previous = last
            *state, last = step(*state, batch, jax.random.fold_in(key, number), loss=loss, update=tx.update)
            done = number + 1
            stopping = stop.is_set()  # read once: the signal may come at any moment
            saving = root is not None and (done % save_every == 0 or done == steps or stopping)
            logging = done % log_every == 0 or done == steps
            # Ordinarily the flag of the step before is read: waiting for this one would leave the device idle.
            _demand_finite(previous, number, state)
            if saving or logging:
                _demand_finite(last, done, state)
            if last and logging:
                log(done, last)
            count(batch_size)
            if root is not None and saving:
                checkpoint.save(root, done, (*state, identity))
            if stopping:
                raise SystemExit(143)
    return state[0]


def _beginning(network: Network, loss: Loss, tx: Any, data: Mapping[str, Any]) -> tuple[Network, Any]:
    """The network and the optimizer that training starts from, once all that can be known of them is checked."""
    network = network.replace(params=optim.start(tx, network.params))
    check.network(network)
    _check_outputs(network, loss, data)
    optimizer = tx.init(network.params)
    optim.demand_served(tx, optimizer, network.params)
    return network, optimizer


def _check_outputs(network: Network, loss: Loss, data: Mapping[str, Any]) -> None:
    """Checks one row of outputs for each example, and that the labels are what the losses of the library read."""
    one = {name: jax.ShapeDtypeStruct((1, *np.shape(entry)[1:]), entry.dtype) for name, entry in data.items()}
    outputs = jax.eval_shape(network.apply, network.params, network.state, one["image"])
    check.outputs(outputs, 1)
    # What other losses read of the labels only they know.
    if loss in (losses.cross_entropy, losses.squared_error):
        jax.eval_shape(losses.targets, outputs, one)
        if np.ndim(data["label"]) == 1:
            check.label_range("data: labels", data["label"], outputs.shape[-1])


def recalibrate(network: Network, batches: Iterable[Batch], key: jax.Array) -> Network:
    """Replaces the running statistics of a network by those of its own activations on these batches.

    An explicit step, for example after pruning: nothing in jaxprune does it unasked.  Every statistic s that
    ``train_apply`` updates as ``m s + (1 - m) b`` becomes the mean of b over the batches (for a variance: the mean of
    the variances within batches).  What it does not update stays.

    Args:
      network: one with a ``train_apply``.
      batches: without padding, which would enter the statistics.
      key: for dropout, where the network has any.

    Raises:
      ValueError: the network has no ``train_apply``, or there is no batch, or one that is padded; or a statistic is
        updated in another way.
    """
    if network.train_apply is None:
        raise ValueError("network: expected a train_apply, whose statistics are averaged, but it has none.")
    found = []
    check.network(network)
    for batch in batches:
        check.batch(batch)
        check.finite_batch(batch)
        if not bool(jnp.all(losses.weights(batch) > 0)):
            raise ValueError(
                "batches: expected no padding, which would enter the statistics. Choose a size that divides."
            )
        statistics, averaged = _statistics(network, batch["image"], key)
        _demand_averages(averaged)
        found.append(statistics)
    if not found:
        raise ValueError("batches: expected at least one batch, but got none.")
    return network.replace(state=jax.tree.map(_average, *found))


def _batches(data: Mapping[str, Any], size: int, seed: int, steps: range) -> Generator[dict[str, Any], None, None]:
    """Yields the batches of these steps; of a stream, the next ones are made in the background."""
    make = functools.partial(training_batch, data, size, seed)
    if not is_streamed(data):
        return (make(number) for number in steps)
    # There too the batch goes to the device, so that the step finds it there.
    return in_background(lambda number: jax.device_put(make(number)), steps)


def _average(*values: Any) -> Any:
    if not jnp.issubdtype(jnp.result_type(values[0]), jnp.floating):
        return values[0]
    # What stays keeps its bits; a sum would round, or overflow.
    same = functools.reduce(jnp.logical_and, [value == values[0] for value in values])
    return jnp.where(same, values[0], sum(values) / len(values))


def _demand_averages(averaged: Any) -> None:
    wrong = [name for name, flag in tree.by_name(averaged).items() if not flag]
    if wrong:
        raise ValueError(
            f"network: expected statistics s that train_apply updates as m s + (1 - m) b, with one m and a b that does "
            f"not depend on s, but got another rule for {', '.join(wrong)}. In its mode 'ema' Equinox's BatchNorm "
            "normalises by s in training: make it with mode='batch'."
        )


@jax.jit
def _statistics(network: Network, images: Any, key: jax.Array) -> tuple[Any, Any]:
    """The statistics of one batch, and whether each is an average.

    Updating zeros gives (1 - m) b, and updating v gives m v more.
    """
    leaves, structure = jax.tree.flatten(network.state)
    # What is no float (the gates of units) is no statistic, and must be what it is while the others are measured.
    moving = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves]

    def updated(values: list[Any]) -> list[Any]:
        whole = [value if moves else leaf for value, moves, leaf in zip(values, moving, leaves, strict=True)]
        state = jax.tree.unflatten(structure, whole)
        return jax.tree.leaves(network.train_apply(network.params, state, images, {"dropout": key})[1])  # type: ignore[misc]

    # Nor is what train_apply hands on untouched: an attention mask, a table.
    moving = [moves and new is not leaf for moves, new, leaf in zip(moving, updated(leaves), leaves, strict=True)]
    share = updated([jnp.zeros_like(leaf) for leaf in leaves])
    # v of the size of the statistics themselves, so that the difference loses no digits.
    probe = [
        jnp.full_like(leaf, jnp.maximum(jnp.max(jnp.abs(leaf), initial=0), 1e-6)) if moves else leaf
        for moves, leaf in zip(moving, share, strict=True)
    ]

    def solve(moves: bool, old: Any, part: Any, filled: Any, both: Any) -> tuple[Any, Any]:
        if not moves:
            return old, True
        each = (both - part) / filled
        kept = jnp.mean(each)
        # Were b another one at v, it would hardly differ by the same in every channel.
        averaged = jnp.max(jnp.abs(each - kept)) <= 1e-4 + 32 * jnp.finfo(each.dtype).eps
        return jnp.where(kept < 1, part / jnp.where(kept < 1, 1 - kept, 1), old), averaged

    solved = [solve(*entry) for entry in zip(moving, leaves, share, probe, updated(probe), strict=True)]
    values, averaged = zip(*solved, strict=True) if solved else ((), ())
    return jax.tree.unflatten(structure, values), jax.tree.unflatten(structure, averaged)


def _check_resume(root: Path, start: int, steps: int, identity: np.ndarray, written: np.ndarray) -> None:
    if not np.array_equal(identity, written):
        raise ValueError(
            f"seed, batch_size, data: {str(root)!r} holds a run with {written.tolist()} (seed, batch size, examples), "
            f"but got {identity.tolist()}. Choose another folder, or what that run had."
        )
    if start > steps:
        raise ValueError(
            f"steps: {str(root)!r} holds step {start}, beyond the {steps} asked for. Choose another folder."
        )


def _demand_finite(metrics: dict[str, Any] | None, number: int, state: Sequence[Any]) -> None:
    """Raises where a step was not taken; ``state`` is (network, optimizer) after it, which it has not changed."""
    if metrics is not None and not bool(metrics["finite"]):
        network, optimizer = state
        parts = {"weights": network.params, "state": network.state, "tx": optimizer}
        loss, norm = float(metrics["loss"]), float(metrics["gradient_norm"])
        raise FloatingPointError(explain(number, loss, norm, np.asarray(metrics["broken"]), parts))


@contextmanager
def _log(root: Path | None, start: int) -> Iterator[Callable[[int, dict[str, Any]], None]]:
    """Appends JSON lines to ``metrics.jsonl``; lines of steps that are taken again after a resume are dropped."""
    if root is None:
        yield lambda number, metrics: None
        return
    path = root / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    files.write(path, "".join(line + "\n" for line in lines if _step_of(line) <= start))
    with path.open("a") as handle:

        def log(number: int, metrics: dict[str, Any]) -> None:
            row = {"step": number, "loss": float(metrics["loss"]), "gradient_norm": float(metrics["gradient_norm"])}
            handle.write(json.dumps(row) + "\n")
            handle.flush()

        yield log


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # half a line, from a process that was killed while writing it


@contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """Turns SIGTERM into a flag for as long as the loop runs."""
    stop = threading.Event()
    # Python takes signals in its main thread only; elsewhere the signal keeps its old meaning.
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
    # It came too late for the loop to see, which has saved all the same.
    if stop.is_set():
        raise SystemExit(143)
