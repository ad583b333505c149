"""Vision networks as Flax linen modules, called as ``module(images, train=False)``."""

from jaxprune.models.resnet import resnet, resnet_cifar
from jaxprune.models.vit import vit

__all__ = ["resnet", "resnet_cifar", "vit"]
