"""Vision networks as Flax linen modules, called as ``module(images, train=False)``; each is its own specification."""

from jaxprune.models.positions import resized
from jaxprune.models.resnet import resnet, resnet_cifar
from jaxprune.models.shapes import specification
from jaxprune.models.swin import swin_v2
from jaxprune.models.vit import vit

__all__ = ["resized", "resnet", "resnet_cifar", "specification", "swin_v2", "vit"]
