"""The architectures of the study, where their representation is read, and the attributions that they can have."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

import jaxprune as jp
from experiments.shared import named
from experiments.shared.settings import fits
from jaxprune import check, records
from jaxprune.evaluate import attribution as made


class Attribution(NamedTuple):
    """A method of attribution.

    Attributes:
      title: what figures and tables call it.
      make: (site, steps, key, legacy), as keywords -> method.
      source: whose it is, or what it reads.
      is_heat: whether it gives one map of 0 or more; other maps are squared and summed over channels.
    """

    title: str
    make: Callable[..., Any]
    source: str = ""
    is_heat: bool = False

    def pooling(self, legacy: bool) -> str:
        """Returns how ``jp.evaluate.relevance.pooled`` makes one map of 0 or more of it."""
        return ("minmax" if legacy else "positive") if self.is_heat else "squared"


def _integrated(*, steps: int, key: Any, legacy: bool, **_: Any) -> Any:
    method = made.integrated_gradients(steps=steps)
    return made.noise_tunnel(method, samples=2, std=1.0, key=key) if legacy else method


_GRAD_CAM = "Selvaraju et al. 2017, arXiv 1610.02391"
_INTEGRATED = "Sundararajan et al. 2017, arXiv 1703.01365"
_GUIDED = "the same, times guided backpropagation: Springenberg et al. 2015, arXiv 1412.6806"
_ROLLOUT = "Abnar and Zuidema 2020, arXiv 2005.00928"

ATTRIBUTIONS: Mapping[str, Attribution] = {
    "grad-cam": Attribution("Grad-CAM", lambda site, **_: made.grad_cam(site, dead="zeros"), _GRAD_CAM, True),
    "integrated-gradients": Attribution("integrated gradients", _integrated, _INTEGRATED),
    "guided-grad-cam": Attribution(
        "guided Grad-CAM", lambda site, **_: made.guided_grad_cam(site, dead="zeros"), _GUIDED
    ),
    "attention": Attribution(
        "attention", lambda **_: made.last_attention(), "of the class token in the last layer", True
    ),
    "rollout": Attribution("attention rollout", lambda **_: made.attention_rollout(), _ROLLOUT, True),
    "guided-backpropagation": Attribution("guided backpropagation", lambda **_: made.guided_backpropagation()),
    "smooth-grad": Attribution("SmoothGrad", lambda key, **_: made.smooth_grad(samples=16, std=0.5, key=key)),
    "input-times-gradient": Attribution("input times gradient", lambda **_: made.input_times_gradient()),
}


@dataclass(frozen=True)
class Architecture:
    """A network of the study, and where its representation is read.

    Attributes:
      title: what figures call it.
      module: (classes, side of the images) -> a Flax module, called as (images, train=False); it tags "features".
      rate: peak learning rate of AdamW.
      cam: the site of Grad-CAM.
      tokens: the site in which objects are searched for: at 32 pixels a map of eight by eight places.
      is_map: whether that is a map, standardised before objects are searched for.
      methods: the attributions that it can have, of ``ATTRIBUTIONS``.
      layers: its numbers in words, for the page.
      unpruned: regular expression of the kernels that the released code of arXiv 2507.01722 neither prunes nor counts.
      patch: where it is tokens of patches, the side of these: they are read at half a patch's distance.
    """

    title: str
    module: Callable[[int, int], Any]
    rate: float
    cam: str
    tokens: str
    is_map: bool
    methods: tuple[str, ...]
    layers: str = ""
    unpruned: str = ""
    patch: int = 0

    def shapes(self, image: int, classes: int = 2) -> Any:
        """Returns the shapes of what the module is initialised to: {"params": ...} and its other collections."""
        images = jax.ShapeDtypeStruct((1, image, image, 3), "float32")
        return jax.eval_shape(self.module(classes, image).init, jax.random.key(0), images)

    def describe(self, image: int) -> dict[str, Any]:
        """Returns what the module says of itself; of one that says nothing, its kind and its parameters."""
        module = self.module(2, image)
        if hasattr(module, "describe"):
            return module.describe()
        shapes = jp.tree.by_name(self.shapes(image)["params"])
        return {"family": type(module).__name__, "parameters": {name: leaf.shape for name, leaf in shapes.items()}}


def _small_resnet(width: int) -> Architecture:
    return Architecture(
        f"ResNet, {width} wide",
        lambda classes, image: jp.models.resnet_cifar(8, classes, width, stem_stride=2),
        rate=5e-3,
        cam="stage3/block0",
        tokens="stage2/block0",
        is_map=True,
        methods=("grad-cam", "guided-grad-cam", "integrated-gradients"),
        layers=f"depth 8, 3 basic blocks of inner width {width}, {2 * width} and {4 * width}, a stem of width {width} "
        "and stride 2",
        unpruned="^head/",
    )


ARCHITECTURES: Mapping[str, Architecture] = {
    "resnet-small": _small_resnet(8),
    "resnet-large": _small_resnet(16),
    "vit": Architecture(
        "ViT",
        lambda classes, image: jp.models.vit(patch=8, image=image, classes=classes, width=64, heads=4, depth=3),
        rate=1e-3,
        # Behind the last block only the class token matters: Grad-CAM reads the block before.
        cam="block1",
        tokens="block2/keys",
        is_map=False,
        patch=8,
        methods=("grad-cam", "attention", "rollout", "integrated-gradients"),
        layers="patches of 8 pixels, width 64, depth 3, 4 heads, 256 hidden units",
        unpruned="/(query|key|value)/",
    ),
    "swin": Architecture(
        "Swin V2",
        lambda classes, image: jp.models.swin_v2(
            patch=4, window=4, depths=(2, 2), classes=classes, width=24, heads=(2, 4)
        ),
        rate=2e-3,
        cam="stage2/block1",
        tokens="stage1/block1",
        is_map=True,
        methods=("grad-cam", "integrated-gradients"),
        layers="patches of 4 pixels, windows of 4 × 4 tokens, stages of 2 blocks of width 24 (2 heads, 96 hidden "
        "units) and 2 blocks of width 48 (4 heads, 192 hidden units)",
    ),
}

MAPPED: Mapping[str, float] = {"grad-cam": 1.0, "integrated-gradients": 0.5}
"""The methods of which the page shows maps, and the power they are raised to: relevance in single pixels is squared,
and of a square little but its peak would be seen."""


def find(word: str | Callable[..., Any]) -> Architecture:
    """Returns the architecture of a name, or what a function of the user's returns."""
    if isinstance(word, str) and not named.is_own(word):
        return ARCHITECTURES[check.choice("architectures", word, ARCHITECTURES)]
    found = named.call("architectures", word)
    if not isinstance(found, Architecture):
        what, got = f"an Architecture of {__name__}", type(found).__name__
        raise ValueError(f"architectures: expected {named.name(word)} to return {what}, but got {got}.")
    return found


def digest(word: str | Callable[..., Any], image: int) -> str:
    """Hashes what an architecture is, but for the number of classes; and the text of a function of the user's."""
    kind = find(word)
    fields = {one.name: getattr(kind, one.name) for one in dataclasses.fields(kind) if one.name != "module"}
    text = {} if word in ARCHITECTURES else {"text": named.fingerprint(named.find("architectures", word))}
    return records.digest({**fields, "module": kind.describe(image), **text})[:16]


def demand_readable(word: str | Callable[..., Any], image: int) -> None:
    """Checks that an architecture can be trained on such images, and has all that is read of it."""
    kind = find(word)
    fits(
        "architectures, image",
        f"{named.name(word)}, {image}",
        kind.module(2, image),
        (image, image, 3),
    )
    if word in ARCHITECTURES:
        return
    name = f"architectures: {named.name(word)}"
    check.positive(f"{name}: rate", kind.rate)
    for method in kind.methods:
        check.choice(f"{name}: methods", method, ATTRIBUTIONS)
    if missing := [method for method in MAPPED if method not in kind.methods]:
        raise ValueError(f"{name}: methods: expected {missing[0]} among them, whose maps the page shows. Add it.")
    network = jp.Network.from_linen(kind.module(2, image), kind.shapes(image))
    sites = jp.sites.tags(network, jax.ShapeDtypeStruct((1, image, image, 3), "float32"))
    for field, site in {"cam": kind.cam, "tokens": kind.tokens, "features": "features"}.items():
        check.choice(f"{name}: {field}", site, sites)
    if not kind.is_map and (kind.patch < 4 or kind.patch % 4):
        raise ValueError(f"{name}: patch: expected a multiple of 4, since it is no map, but got {kind.patch}.")
