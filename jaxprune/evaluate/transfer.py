"""Zero-shot transfer: a head fitted once on the dense network's features, frozen, and put on the pruned network."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxprune import check, losses, processes, sites
from jaxprune.curvature import average
from jaxprune.curvature.inputs import placed
from jaxprune.network import Network
from jaxprune.types import Batch, Evaluator, Loss


def features(network: Network, batches: Iterable[Batch], site: str = "features") -> np.ndarray:
    """Reads the features of all examples whose weight is above 0.

    Args:
      network: one that tags ``site`` (our models tag the input of their head "features").
      batches: the images.
      site: the name of a tagged value [b, d].

    Returns:
      [n, d], examples in the order of the batches.

    Raises:
      ValueError: no such site, or its value is not [b, d].
    """
    rows = []
    for batch in _checked(network, batches, keys=("image",)):
        (values,) = sites.read_jit(network, batch["image"], sites=(site,))
        if values.ndim != 2:
            raise ValueError(f"site: expected a value [b, d], but {site!r} is {values.shape}. Choose another site.")
        rows.append(processes.read(values)[_counted(batch)])
    return _joined(rows)


def with_head(network: Network, head: Network, site: str = "features") -> Network:
    """Puts a frozen head on the features of a network: ``outputs = head(features(images))``.

    The head lies in the state, so it is not trained, scored or pruned; training goes through it.  The network is
    evaluated, and trained, in evaluation mode (BatchNorm frozen).

    Returns:
      A network with the same parameters; its state is ``{"network": ..., "head": ...}``.
    """
    state = {"network": network.state, "head": head.params}
    return Network(_WithHead(network.apply, head.apply, site), network.params, state)


def accuracy(batches: Iterable[Batch], *, classes: Sequence[str] | None = None) -> Evaluator:
    """Measures the share of examples whose largest output is the label.

    Args:
      batches: read each time the evaluator is called; examples of weight 0 do not count.
      classes: the names of the classes of the data, ``source.classes``: a network with another number of outputs is
        refused, whose outputs mean other classes than the labels do.  None: not compared, and only a label that has no
        output is an error.

    Returns:
      An evaluator of {"accuracy", "standard_error", "n"}; the standard error is ``sqrt(a (1 - a) / n)``.

    >>> net = Network(lambda p, s, x: x, {})
    >>> accuracy([{"image": np.eye(2), "label": np.array([0, 0])}])(net)["accuracy"]
    0.5
    """

    def evaluate(network: Network) -> dict[str, float]:
        return summary(correct(network, batches, classes=classes))

    return evaluate


def correct(network: Network, batches: Iterable[Batch], *, classes: Sequence[str] | None = None) -> np.ndarray:
    """Says for every example of weight above 0 if the largest output (the first of ties) is the label: bool [n].

    Raises:
      ValueError: outputs that are not finite, a label without an output, other outputs than ``classes``.
    """
    rows = []
    for batch, outputs in _predicting(network, batches, ("image", "label"), classes):
        labels = processes.read(batch["label"])[_counted(batch)]
        check.label_range("labels", labels, outputs.shape[-1])
        rows.append(np.argmax(outputs, axis=-1) == labels)
    return _joined(rows)


def predictions(network: Network, batches: Iterable[Batch], *, classes: Sequence[str] | None = None) -> np.ndarray:
    """Says for every example of weight above 0 which output is the largest (the first of ties): int [n].

    Raises:
      ValueError: outputs that are not finite, other outputs than ``classes``.

    >>> net = Network(lambda p, s, x: x, {})
    >>> predictions(net, [{"image": np.eye(3)[[2, 0]]}]).tolist()
    [2, 0]
    """
    found = _predicting(network, batches, ("image",), classes)
    return _joined([np.argmax(outputs, axis=-1) for _, outputs in found])


def summary(hits: np.ndarray) -> dict[str, float]:
    """Summarises a bool [n] as {"accuracy", "standard_error", "n"}.

    >>> summary(np.array([True, True, False, True]))["accuracy"]
    0.75
    """
    if len(hits) == 0:
        raise ValueError("hits: expected at least one example, but got none. Is the test set empty, or all padding?")
    share = float(np.mean(np.asarray(hits)))
    return {"accuracy": share, "standard_error": float(np.sqrt(share * (1 - share) / len(hits))), "n": float(len(hits))}


def mean_loss(loss: Loss, batches: Iterable[Batch]) -> Evaluator:
    """Measures the weighted mean loss over all batches: an evaluator of {"loss"}."""

    def evaluate(network: Network) -> dict[str, float]:
        at_outputs, its_loss = placed(network, loss)

        def of_batch(batch: Batch) -> Any:
            losses.demand_slope(loss, batch, "its mean")
            return _loss(at_outputs, batch, loss=its_loss)

        return {"loss": float(average(of_batch, _checked(network, batches, losses.entries(loss))))}

    return evaluate


@dataclass(frozen=True)
class _WithHead:
    body: Any
    head: Any
    site: str

    def __call__(self, params: Any, state: Any, images: Any) -> Any:
        (values,) = sites.read(Network(self.body, params, state["network"]), images, [self.site])
        return self.head(state["head"], {}, values)


@jax.jit
def _outputs(network: Network, images: Any) -> Any:
    return network(images)


@partial(jax.jit, static_argnames="loss")
def _loss(network: Network, batch: Batch, *, loss: Loss) -> Any:
    return losses.mean(loss, network(batch["image"]), batch)


def _checked(network: Network, batches: Iterable[Batch], keys: Sequence[str] = ("image", "label")) -> Iterator[Batch]:
    check.network(network)
    for batch in check.batches(batches):
        check.batch(batch, keys=keys)
        check.finite_batch(batch)
        yield batch


def _predicting(
    network: Network, batches: Iterable[Batch], keys: Sequence[str], classes: Sequence[str] | None
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Yields every batch, and the outputs of its examples of weight above 0, checked."""
    for batch in _checked(network, batches, keys):
        counted, found = _counted(batch), _outputs(network, batch["image"])
        check.outputs(found, len(counted))
        outputs = processes.read(found)[counted]
        if classes is not None and len(classes) != outputs.shape[-1]:
            raise ValueError(
                f"classes: expected one for each of the {outputs.shape[-1]} outputs of the network, but the data have "
                f"{len(classes)}. Open them with all classes in the order of the outputs, as by "
                "jp.data.folder(path, classes=[...]), or give the network a head of their number."
            )
        check.finite("outputs", outputs, "The network gives no prediction; inspect its weights.")
        yield batch, outputs


def _counted(batch: Batch) -> np.ndarray:
    return processes.read(losses.weights(batch)) > 0


def _joined(rows: list[np.ndarray]) -> np.ndarray:
    if not rows:
        raise ValueError("batches: expected at least one batch, but got none. An iterator can be read only once.")
    return np.concatenate(rows)
