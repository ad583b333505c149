"""The loop around one training step: masks, hooks, checkpoints, resume."""

import functools
import os
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from time import monotonic
from typing import Any, Literal, overload

import jax
import numpy as np
import optax

from jaxprune import check, checkpoint, processes
from jaxprune.data.batches import is_streamed, training_batch
from jaxprune.data.prefetching import in_background
from jaxprune.data.progress import bar
from jaxprune.finite import explain
from jaxprune.mesh import Placement
from jaxprune.network import Network
from jaxprune.train import beginning, identity, metrics, signals
from jaxprune.train.stepping import Augment, Functions, step, stream_names
from jaxprune.types import Batch, Evaluator, Loss


@overload
def fit(
    network: Network,
    loss: Loss,
    tx: optax.GradientTransformation,
    data: Mapping[str, Any],
    *,
    steps: int,
    batch_size: int,
    seed: int,
    optimizer: Any = None,
    with_optimizer: Literal[False] = False,
    augment: Augment | None = None,
    rngs: Collection[str] = ("dropout",),
    evaluate: Evaluator | None = None,
    evaluate_every: int = 1000,
    log: Callable[[int, dict[str, float]], object] | None = None,
    log_every: int = 50,
    folder: str | os.PathLike[str] | None = None,
    save_every: int | None = 1000,
    save_every_seconds: float | None = None,
    progress: str | None = None,
    placement: Placement | None = None,
) -> Network: ...


@overload
def fit(
    network: Network,
    loss: Loss,
    tx: optax.GradientTransformation,
    data: Mapping[str, Any],
    *,
    steps: int,
    batch_size: int,
    seed: int,
    optimizer: Any = None,
    with_optimizer: Literal[True],
    augment: Augment | None = None,
    rngs: Collection[str] = ("dropout",),
    evaluate: Evaluator | None = None,
    evaluate_every: int = 1000,
    log: Callable[[int, dict[str, float]], object] | None = None,
    log_every: int = 50,
    folder: str | os.PathLike[str] | None = None,
    save_every: int | None = 1000,
    save_every_seconds: float | None = None,
    progress: str | None = None,
    placement: Placement | None = None,
) -> tuple[Network, Any]: ...


def fit(
    network: Network,
    loss: Loss,
    tx: optax.GradientTransformation,
    data: Mapping[str, Any],
    *,
    steps: int,
    batch_size: int,
    seed: int,
    optimizer: Any = None,
    with_optimizer: bool = False,
    augment: Augment | None = None,
    rngs: Collection[str] = ("dropout",),
    evaluate: Evaluator | None = None,
    evaluate_every: int = 1000,
    log: Callable[[int, dict[str, float]], object] | None = None,
    log_every: int = 50,
    folder: str | os.PathLike[str] | None = None,
    save_every: int | None = 1000,
    save_every_seconds: float | None = None,
    progress: str | None = None,
    placement: Placement | None = None,
) -> Network | tuple[Network, Any]:
    """Trains a network; killed and called again with the same folder, it goes on where it was.

    Batches and keys are functions of (seed, step), so a resumed run takes the same steps as one that was never
    interrupted and ends with the same bytes (on the same machine and devices).

    A folder is of one run.  Its ``run.json`` says of which, and a call with another start, mask, optimizer state, data,
    batch size, seed, ``rngs``, loss, ``tx``, network, or ``augment`` is refused; ``steps``, hooks, and how often
    something is saved may be others.  Numbers are told apart by their bytes (of streamed images, by the fingerprint of
    their source), functions by the program that JAX traces of them, constants and learning rates in it included: equal
    functions that were made twice are the same, also in another process.  What no program shows cannot be told, such as
    the hidden state of host callbacks; nor can programs of another version of JAX, of which a warning says so.

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
      seed: decides the order of the data, the augmentation, and the keys of dropout and the like.
      optimizer: the state of ``tx`` to start from, such as one that ``with_optimizer`` returned; it stays alive.  Under
        ``with_mask`` its mask must be that of ``tx``.  None: ``tx.init``.
      with_optimizer: whether the state of ``tx`` is returned too.
      augment: ``(batch, key) -> batch``, a pure function of as many examples, part of the compiled step.  Its key is a
        function of (seed, step).  Equal functions share a program.  None: batches as they are.
      rngs: the names of the random streams of ``train_apply``; each gets keys of its own, which do not depend on the
        other names.
      evaluate: ``network -> {name: number}``; gets a copy, which it may keep.  Its numbers go where those of the
        training go, in one line with them where they are of one step.
      evaluate_every: steps between evaluations; the last step is always followed by one.
      log: called as ``log(step, {name: number})`` with what ``metrics.jsonl`` gets, also without ``folder``.  Steps
        count from 1.
      log_every: steps between lines {"loss", "gradient_norm"} for ``log`` and ``metrics.jsonl``; the last step is
        always logged.
      folder: where checkpoints, ``run.json`` and ``metrics.jsonl`` go; one process at a time, or all together with a
        ``placement``, which have to share it.  None: nothing is written.
      save_every: steps between checkpoints; the last step is always saved.  None: not by steps.
      save_every_seconds: besides, a checkpoint at the first step that ends so many seconds after the last one (or after
        the beginning).  None: not by time.
      progress: what to call the run in a progress bar with images per second.  None: no bar.
      placement: where batches are split, and weights lie, on several devices or hosts; every host calls this with the
        same arguments, and reads its own part of every batch.  The same steps are taken as on one device, up to the
        order of sums.  SIGTERM of one host ends all after the same step.  None: where the network lies.

    Returns:
      The trained network; with ``with_optimizer`` the pair (network, state of ``tx``).  A folder that holds the last
      step already is read, and no step taken.

    Raises:
      FloatingPointError: the loss or a gradient is not finite, or a step makes NaN or infinity of a weight or of a
        number of the state or the optimizer; the message says which.  That step was not taken, nothing was saved after
        it, and in the newest checkpoint is nothing that a step broke.
      SystemExit: SIGTERM came; the state was saved.
      KeyboardInterrupt: Ctrl-C (SIGINT) came; with a folder, the step was finished and the state saved before, unless
        it came a second time.
      ValueError: a loss whose target is the network's own output (no "teacher" in the data), or a "teacher" together
        with ``augment``; what the loss reads is not in the data.
      TypeError, ValueError: ``tx`` cannot be served: it has two sets of weights, wants gradients of single examples, or
        asks for what ``fit`` does not know; ``optimizer`` is not a state of it; ``augment`` returns no batch of as many
        examples; ``evaluate`` returns no finite numbers, or one called "step", "loss" or "gradient_norm".
      ValueError: the folder cannot be written, somebody else writes into it, or it holds another run (the message says
        in which part), one of an earlier version of jaxprune, or a later step; or there is something to save that no
        checkpoint can hold.  Hosts differ in what they train, or do not share the folder.
      RuntimeError: on the other hosts, where the first one raises; or a host did not come.

    Warns:
      UserWarning: the network has BatchNorm statistics ("batch_stats") and no ``train_apply``, which would move them;
        another version of JAX began the run, or a checkpoint is damaged.

    >>> import jax.numpy as jnp
    >>> import jaxprune as jp
    >>> network = jp.Network(lambda params, state, images: images @ params["w"], {"w": jnp.zeros((2, 2))})
    >>> data = {"image": np.eye(2, dtype=np.float32), "label": np.arange(2)}
    >>> trained = fit(network, jp.losses.cross_entropy, optax.sgd(1.0), data, steps=1, batch_size=2, seed=0)
    >>> trained.params["w"]
    Array([[ 0.25, -0.25],
           [-0.25,  0.25]], dtype=float32)
    """
    counts = {"steps": steps, "batch_size": batch_size, "evaluate_every": evaluate_every, "log_every": log_every}
    for name, value in (counts if save_every is None else {**counts, "save_every": save_every}).items():
        check.whole(name, value)
    if save_every_seconds is not None:
        check.positive("save_every_seconds", save_every_seconds)
    if placement is not None:
        placement.demand_divisible("batch_size", batch_size)
    together = placement is not None and placement.host[1] > 1
    streams = stream_names(rngs)
    hooks = metrics.Hooks(log, log_every, evaluate, evaluate_every)
    with nullcontext() if folder is None else checkpoint.Writer(folder, together=together) as writer:
        state, program = beginning.prepared(network, loss, tx, data, batch_size, optimizer, augment)
        functions, start = Functions(loss, tx.update, program, augment, streams), 0
        if writer is not None:
            checkpoint.demand_savable(state)
        if writer is not None or together:
            root = None if writer is None else writer.root
            identity.settled(root, identity.parts(*state, data, functions, batch_size, seed), together=together)
        if placement is not None:
            state = placement.tree(state)
        if writer is not None:
            start, state = writer.restore(state) or (0, state)
            _check_step(writer.root, start, steps)
        saving = _Saving(writer, save_every, save_every_seconds, together)
        make = functools.partial(_placed_batch, data, batch_size, seed, placement)
        with closing(_batches(make, is_streamed(data), range(start, steps))) as batches:
            shown = bar(progress, steps, start)
            state = _train(state, functions, batches, range(start, steps), jax.random.key(seed), saving, hooks, shown)
    return state if with_optimizer else state[0]


class _Saving:
    """When a state is saved: every so many steps, and so many seconds after the last time."""

    def __init__(
        self, writer: checkpoint.Writer | None, steps: int | None, seconds: float | None, together: bool
    ) -> None:
        self.writer, self._steps, self._seconds, self.together = writer, steps, seconds, together
        self._last = monotonic()

    def due(self, done: int) -> bool:
        late = self._seconds is not None and monotonic() - self._last >= self._seconds
        if self._seconds is not None and self.together:  # by the clock of one of them
            late = processes.first(lambda: late, what="save_every_seconds")
        return late or (self._steps is not None and done % self._steps == 0)

    def save(self, done: int, state: Any) -> None:
        if self.writer is not None:
            self.writer.save(done, state)
            self._last = monotonic()


# As a program: op by op it takes ten times as long, at every step.
_key_of = jax.jit(jax.random.fold_in)


def _train(
    state: Any,
    functions: Functions,
    batches: Iterator[Batch],
    numbers: range,
    key: jax.Array,
    saving: _Saving,
    hooks: metrics.Hooks,
    shown: AbstractContextManager[Callable[[int], None]],
) -> tuple[Network, Any]:
    """Takes the steps of these numbers from ``state``, (network, optimizer), which is given up."""
    root = None if saving.writer is None else saving.writer.root
    with (
        hooks.rows(root if processes.is_first() or not saving.together else None, numbers.start) as report,
        nullcontext(signals.Stop()) if saving.together else signals.caught(interrupt=root is not None) as stop,
        shown as count,
    ):
        last: dict[str, Any] | None = None
        for number, batch in zip(numbers, batches, strict=True):
            previous = last
            *state, last = step(*state, batch, _key_of(key, number), **functions.static)
            done, end = number + 1, number + 1 == numbers.stop
            # Read once: the signal may come at any moment.  What comes to one of several processes JAX tells all.
            stopping = processes.stopping(done) if saving.together else bool(stop)
            saves = root is not None and (end or stopping or saving.due(done))
            reports = hooks.due(done, end)
            # Ordinarily the flag of the step before is read: waiting for this one would leave the device idle.
            _demand_finite(previous, number, state)
            if saves or any(reports):
                _demand_finite(last, done, state)
            if last and any(reports):
                report(done, hooks.numbers(done, reports, last, state[0]))
            count(len(batch["image"]))
            if saves:
                saving.save(done, tuple(state))
            if stopping:
                raise SystemExit(143) if saving.together else stop.error
    return tuple(state)


def _placed_batch(
    data: Mapping[str, Any], size: int, seed: int, placement: Placement | None, number: int
) -> dict[str, Any]:
    """The batch of a step: this host's part of it, put together with those of the others."""
    if placement is None:
        return training_batch(data, size, seed, number)
    return placement.batch(training_batch(data, size, seed, number, placement.host))


def _batches(
    make: Callable[[int], dict[str, Any]], streamed: bool, numbers: range
) -> Generator[dict[str, Any], None, None]:
    """Yields the batches of these steps; of a stream, the next ones are made in the background."""
    if not streamed:
        return (make(number) for number in numbers)
    # There too the batch goes to the device, so that the step finds it there.
    return in_background(lambda number: jax.device_put(make(number)), numbers)


def _check_step(root: Path, start: int, steps: int) -> None:
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
