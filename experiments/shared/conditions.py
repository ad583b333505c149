"""Settings of studies that prune one network and test it on several tasks, with a frozen head for each."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

from experiments.shared import architectures, named, options
from experiments.shared.images import FORMS, OnError
from experiments.shared.methods import UPDATES, parsed
from experiments.shared.named import Named
from experiments.shared.settings import each_once, listed, positive
from experiments.shared.splits import Inputs
from jaxprune import check

FINETUNE_RATES, PRETRAINED_RATES = (2e-4, 1e-3, 5e-3), (2e-5, 1e-4, 5e-4)
"""Of fine-tuning, where no setting says so: the small network that is trained here, and pretrained ones."""


@dataclass(frozen=True)
class Conditions:
    """What decides the networks of a run, and their heads, apart from seed, score and sparsity."""

    data: Annotated[Named, listed(FORMS)] = "digits"
    """tfds:<name> is a prepared TensorFlow data set; folder:<path> holds a folder for each class, or train and val with
    such; npz:<path> has arrays image and label, or test_image and test_label too; idx:<folder> is a set like MNIST.
    Images of val or test, where there are such, test pretrained networks.  A function returns a jp.data.Source."""
    data_folder: str | None = None
    """Where prepared TensorFlow data sets lie."""
    image: int | None = None
    """Side of the images in pixels; without weights the digits, npz and IDX files have their own, whatever it says.
    None: 32, or that of pretrained weights."""
    on_error: OnError = "error"
    """What becomes of images that can't be read: error, or skip, which leaves them out before any split."""
    source: str = ""
    """The task whose data prune and fine-tune the network.  Empty: the first task of the data."""
    network: Named = ""
    """A function that returns a jp.Network, or (jp.Network, Preprocess), which tags "features".  Empty: weights, or a
    network that is trained first."""
    weights: str = ""
    """A file of pretrained weights, or a folder that jp.structured.save wrote."""
    architecture: str = ""
    """Of the weights, such as torchvision/resnet50, moco_v2/resnet50 or dino/vit_s16.  Without weights, of what is
    trained first: vit, or a ResNet where it is empty."""
    most_per_class: int = 0
    """Images of a class in each split, at most, where weights are given.  0: all."""
    largest_batch: int = 256
    """Images that are scored or evaluated at a time: it changes memory, and results by rounding only."""
    depth: int | None = None
    """Of what is trained first: of the ResNet, 6 n + 2, or blocks of the ViT.  None: 8, or 3."""
    width: int | None = None
    """Channels of its first stage, or features of a token, a multiple of 8.  None: 6, or 32."""
    pretrain_steps: int | None = None
    """None: 1000, or 5000 of the ViT."""
    pretrain_rate: float | None = None
    """Peak learning rate of AdamW on cross-entropy over all classes, with cosine decay.  None: 5e-3, or 4e-3."""
    batch_size: int = 64
    head: Annotated[str, listed(options.HEADS)] = "ridge"
    """What reads a task off the features."""
    penalties: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0)
    """Of the head; chosen for each task by its accuracy on the selection split, with dense features."""
    label_loss: Annotated[str, listed(options.LOSSES)] = "squared_error"
    """Of labels, through a frozen head: of the objective label, and what is measured."""
    finetune_loss: Annotated[str, listed(options.LOSSES)] = "squared_error"
    """Of fine-tuning, through the frozen source head."""
    rounds: int = 1
    """Rounds of methods that update nothing, or by surgeon: 1 is one-shot, more re-score (exponential schedule)."""
    round_share: float = 0.25
    """Of methods that update by rounds, or adam: the share of what is left that a round prunes."""
    blocks: int = 0
    """Of greedy, obs, quadratic and surgeon: so many inputs of a unit are a block, at most; less memory.  0: all."""
    sketch: int = 0
    """Random directions that stand for the outputs, of scores and surgeon by logits and features: for many classes.
    0: every output, exactly.  Rounds and adam move weights by all outputs."""
    price_flat: bool = False
    """Weights of units behind which nothing changes on any scoring image, whose diagonal, greedy or fisher score is 0,
    cost what they would in another unit of their layer.  Else they go first."""
    damping: float = 1e-2
    """Of greedy, obs and surgeon, relative to the mean diagonal of a leaf."""
    recalibrate: bool = False
    """Re-estimate BatchNorm statistics after pruning, on the fine-tuning images of the source task."""
    finetune_steps: int = 100
    finetune_rate: float | None = None
    """Peak learning rate of Adam, with cosine decay; BatchNorm statistics stay frozen.  None: that of finetune_rates,
    for each network, with which it is best on the selection images of the source; of equals, the smallest."""
    finetune_rates: tuple[float, ...] = ()
    """Which are compared.  Empty: 2e-4, 1e-3 and 5e-3 for the network that is trained here, 2e-5, 1e-4 and 5e-4 for
    pretrained ones."""


def check_conditions(settings: Any, updates: Sequence[str] | None = tuple(UPDATES)) -> None:
    """Finds every bad value among what studies of pruned networks share, but for those of data and weights.

    ``updates``: those of methods that a study takes.  None: it has methods of its own.
    """
    for method in () if updates is None else parsed(settings):
        check.choice(f"methods: update of {method.word!r}", method.update, updates or ())
    check.choice("head", settings.head, options.HEADS)
    for name in ("label_loss", "finetune_loss"):
        check.choice(name, getattr(settings, name), options.LOSSES)
    if not 0 < settings.round_share < 1:
        raise ValueError(f"round_share: expected a share between 0 and 1, but got {settings.round_share!r}.")
    check.whole("blocks", settings.blocks, least=0)
    check.whole("sketch", settings.sketch, least=0)
    check.choice("on_error", settings.on_error, ("error", "skip"))
    positive(settings, "width", "pretrain_steps", "batch_size", "rounds", "finetune_steps", "pretrain_rate", "damping")
    positive(settings, "image", "finetune_rate")
    _check_rates(settings)
    check.whole("most_per_class", settings.most_per_class, least=0)
    check.whole("largest_batch", settings.largest_batch)
    each_once("penalties", settings.penalties)
    for penalty in settings.penalties:
        check.positive("penalties", penalty)


def _check_rates(settings: Any) -> None:
    if not settings.finetune_rates:
        return
    if settings.finetune_rate is not None:
        raise ValueError(
            "finetune_rate, finetune_rates: expected one of them, but got "
            f"{settings.finetune_rate} and {settings.finetune_rates}. Pass finetune_rate to fix the rate, or "
            "finetune_rates to have it chosen among them."
        )
    for rate in settings.finetune_rates:
        check.positive("finetune_rates", rate)
    each_once("finetune_rates", settings.finetune_rates)


def completed(inputs: Inputs, usual: Mapping[str, float] = MappingProxyType({}), **filled: Any) -> Inputs:
    """Fills in what the settings leave open: names for functions, source, pretraining, the rates of fine-tuning.

    ``usual``: what a study takes for a ResNet that is trained first, in place of ``architectures.ARCHITECTURES``.

    A rate that is fixed becomes the only one of ``finetune_rates``, so that equal studies have equal keys.
    """
    settings = architectures.filled(inputs.settings, usual)
    filled |= {name: named.name(getattr(settings, name)) for name in ("network", "data")}
    filled |= {"source": inputs.source.name}
    if "methods" not in filled:
        filled["methods"] = tuple(one.word for one in parsed(settings))
    rates = settings.finetune_rates or (FINETUNE_RATES if inputs.weights is None else PRETRAINED_RATES)
    if settings.finetune_rate is not None:
        rates = (settings.finetune_rate,)
    filled |= {"finetune_rate": None, "finetune_rates": tuple(sorted(map(float, rates)))}
    return dataclasses.replace(inputs, settings=dataclasses.replace(settings, **filled))
