"""Vision networks as Flax linen modules, called as ``module(images, train=False)``; each is its own specification.

``load`` makes those that other libraries have trained, from their files.
"""

from jaxprune.models.architectures import ARCHITECTURES, Architecture
from jaxprune.models.clip_resnet import clip_resnet
from jaxprune.models.efficientnet import efficientnet_lite, sliced
from jaxprune.models.normalised import normalised
from jaxprune.models.positions import resized
from jaxprune.models.pretrained import Pretrained, export, load, looks_like, read
from jaxprune.models.resnet import resnet, resnet_cifar
from jaxprune.models.shapes import specification
from jaxprune.models.swin import swin_v2
from jaxprune.models.vit import vit
from jaxprune.models.zero_shot import zero_shot

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Pretrained",
    "clip_resnet",
    "efficientnet_lite",
    "export",
    "load",
    "looks_like",
    "normalised",
    "read",
    "resized",
    "resnet",
    "resnet_cifar",
    "sliced",
    "specification",
    "swin_v2",
    "vit",
    "zero_shot",
]
