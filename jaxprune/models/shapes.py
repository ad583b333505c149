"""From a written shape back to the module that has it."""

from collections.abc import Mapping
from typing import Any

from jaxprune import check
from jaxprune.models.clip_resnet import ClipResNet
from jaxprune.models.efficientnet import EfficientNetLite
from jaxprune.models.resnet import ResNet
from jaxprune.models.swin import SwinV2
from jaxprune.models.vit import ViT

_FAMILIES = {
    "clip_resnet": ClipResNet.described,
    "efficientnet_lite": EfficientNetLite.described,
    "resnet": ResNet.described,
    "swin_v2": SwinV2.described,
    "vit": ViT.described,
}


def specification(values: Mapping[str, Any]) -> ClipResNet | EfficientNetLite | ResNet | SwinV2 | ViT:
    """Makes the module of a shape that ``describe`` wrote, such as the content of ``specification.json``.

    Raises:
      ValueError: an unknown family, a value that is missing or of the wrong kind.

    >>> from jaxprune.models import resnet_cifar
    >>> specification(resnet_cifar(8).describe()) == resnet_cifar(8)
    True
    """
    family = check.choice("specification: family", str(values.get("family")), _FAMILIES)
    try:
        made = _FAMILIES[family](values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"specification: expected what describe() of a {family} writes, but got {dict(values)} "
            f"({type(error).__name__}: {error}). Write it anew from the module."
        ) from error
    if made.describe() != dict(values):
        raise ValueError(f"specification: expected {made.describe()}, but got {dict(values)}. Write it anew.")
    return made
