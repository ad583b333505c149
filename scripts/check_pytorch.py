"""Checks in PyTorch what leaves for it: weights under other libraries' names, and compacted networks with a builder.

Run it with a Python that has jaxprune's dependencies, PyTorch, torchvision, timm and open_clip:
``python scripts/check_pytorch.py``.  It fills networks of ours from ``golden_weights``, writes them, loads them
strictly and compares outputs in float32; the table says how far they are apart, relative to the largest output.
"""

import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from golden_weights import fill, images

import jaxprune as jp
from jaxprune import tree
from jaxprune.models import clip_resnet, layouts_resnet, layouts_swin, layouts_vit, mapping, swin_v2, vit
from jaxprune.models.resnet import ResNet, full_blocks
from jaxprune.structured import export_pytorch, ones, remove

# Where torchvision's compiled operations do not fit PyTorch, it cannot be imported unless their names are known.
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402
import torchvision  # noqa: E402
from open_clip.modified_resnet import ModifiedResNet  # noqa: E402
from open_clip.transformer import QuickGELU, VisionTransformer  # noqa: E402
from torchvision.models import swin_transformer, vision_transformer  # noqa: E402

AT_MOST = 1e-5
VIT: dict[str, Any] = {"patch": 8, "image": 32, "width": 32, "heads": 4, "depth": 3}
CLIP: dict[str, Any] = {"norm_epsilon": 1e-5, "activation": "quick_gelu", "embed_bias": False, "pre_norm": True}


def variables(module: Any, side: int) -> Any:
    """Weights and statistics, none at its initial value, so small that nothing saturates."""
    template = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))
    made = tree.map_named(lambda name, leaf: jnp.asarray(fill(name, leaf.shape)), template)
    return tree.map_named(lambda name, leaf: leaf / 4 if name.endswith("norm3/scale") else leaf, made)


def apart(module: Any, weights: Any, network: torch.nn.Module, side: int) -> float:
    """The largest difference of the outputs, relative to the largest."""
    batch = images(side)
    ours = np.asarray(jax.jit(module.apply)(weights, batch))
    with torch.no_grad():
        theirs = network.eval()(torch.from_numpy(batch).permute(0, 3, 1, 2)).numpy()
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    assert np.std(ours) > 1e-3
    return float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))


# Weights under the names of other libraries.


def libraries() -> Iterator[tuple[str, Any, Callable[[Any], mapping.Layout], torch.nn.Module, int]]:
    """Lists networks: a name, our module, its layout, PyTorch's module, and the size of images."""
    residual = torchvision.models.resnet
    for name, bottleneck, depths in (("basic", False, (1, 2, 1, 1)), ("bottleneck", True, (2, 1, 1, 1))):
        module = ResNet(full_blocks(depths, 64, bottleneck), 7, 64, bottleneck, large_images=True)
        block = residual.Bottleneck if bottleneck else residual.BasicBlock
        theirs = residual.ResNet(block, list(depths), num_classes=7)
        yield f"torchvision resnet, {name}", module, layouts_resnet.torchvision_resnet, theirs, 97
    headless = residual.ResNet(residual.Bottleneck, [2, 1, 1, 1])
    headless.fc = torch.nn.Identity()
    module = module.clone(classes=0)
    yield "MoCo resnet", module, layouts_resnet.moco_resnet, headless, 64
    yield "DINO resnet", module, layouts_resnet.dino_resnet, headless, 64
    tower = ModifiedResNet([1, 1, 1, 2], 20, 4, image_size=64, width=8)
    yield "CLIP resnet", clip_resnet(64, 20, 8, (1, 1, 1, 2)), layouts_resnet.clip_resnet, visual(tower), 64
    theirs = vision_transformer.VisionTransformer(32, 8, 3, 4, 32, 128, num_classes=7)
    yield "torchvision vit", vit(classes=7, **VIT), layouts_vit.torchvision_vit, theirs, 32
    size: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4}
    theirs = timm.models.vision_transformer.VisionTransformer(num_classes=7, **size)
    yield "timm vit", vit(classes=7, **VIT), layouts_vit.timm_vit, theirs, 32
    theirs = timm.models.vision_transformer.VisionTransformer(num_classes=0, **size)
    yield "DINO vit", vit(classes=0, **VIT), layouts_vit.dino_vit, theirs, 32
    tower = VisionTransformer(32, 8, 32, 3, 4, 4.0, output_dim=20, act_layer=QuickGELU)
    yield "CLIP vit", vit(classes=20, head_bias=False, **VIT | CLIP), layouts_vit.clip_vit, visual(tower), 32
    blocks: Any = {
        "block": swin_transformer.SwinTransformerBlockV2,
        "downsample_layer": swin_transformer.PatchMergingV2,
    }
    theirs = swin_transformer.SwinTransformer([2, 2], 8, [2, 2], [2, 4], [4, 4], num_classes=7, **blocks)
    ours = swin_v2(patch=2, window=4, depths=(2, 2), classes=7, width=8, heads=(2, 4))
    yield "torchvision swin_v2", ours, layouts_swin.torchvision_swin, theirs, 23


def visual(tower: torch.nn.Module) -> torch.nn.Module:
    """The image tower of CLIP under the name that it has inside the whole."""
    return torch.nn.Sequential(torch.nn.ModuleDict({"visual": tower}), torch.nn.Identity())


def strictly_loaded(network: torch.nn.Module, tensors: dict[str, np.ndarray]) -> torch.nn.Module:
    """Loads tensors with ``strict=True``, and returns what maps images to outputs."""
    inside = isinstance(network, torch.nn.Sequential)
    holder = network[0] if inside else network
    holder.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()}, strict=True)
    return holder["visual"] if inside else network


# Compacted networks, and the builder beside them.


def compacted() -> Iterator[tuple[str, Any, int]]:
    """Lists whole modules: a name, the module, and the size of images."""
    yield "resnet_cifar", jp.models.resnet_cifar(20, 5, 8), 17
    yield "resnet_cifar, stride 2", jp.models.resnet_cifar(20, 5, 8, stem_stride=2), 32
    yield "resnet_cifar, keras", jp.models.resnet_cifar(20, 5, 8, keras=True), 17
    yield "resnet_cifar, keras, stride 2", jp.models.resnet_cifar(20, 5, 8, keras=True, stem_stride=2), 32
    yield "resnet34", jp.models.resnet(34, 5, 8), 97
    yield "resnet50", jp.models.resnet(50, 5, 8), 97
    yield "resnet50, no head", jp.models.resnet(50, 0, 8), 64
    yield "clip_resnet", clip_resnet(64, 5, 8, (3, 3, 1, 1)), 64
    yield "efficientnet_lite", jp.models.efficientnet_lite("lite0", 5), 64
    yield "efficientnet_lite, odd, no head", jp.models.efficientnet_lite("lite2", 0), 97
    yield "vit", vit(classes=7, **VIT), 32
    yield "vit, blocks, no head", vit(classes=0, layers="blocks", **VIT), 32
    yield "vit of CLIP", vit(classes=7, head_bias=False, **VIT | CLIP), 32
    yield "vit of big_vision", vit(classes=7, pool="mean", activation="gelu_tanh", **VIT), 32
    tiny: dict[str, Any] = {"patch": 2, "window": 4, "depths": (4, 3), "classes": 7, "width": 8, "heads": (2, 4)}
    yield "swin_v2", swin_v2(**tiny), 32
    yield "swin_v2, padded", swin_v2(**tiny), 23
    yield "swin_v2, one window wide", swin_v2(**tiny | {"layers": "blocks"}), 8


def thinned(module: Any, seed: int) -> dict[str, np.ndarray]:
    """Gates that take about a third of the units, and some layers of every stage; all of them stay for seed 0."""
    rng, groups = np.random.default_rng(seed), module.groups()
    gates = ones(groups)
    left = {group.stage: sum(other.stage == group.stage for other in groups) for group in groups if group.is_layer}
    for group in groups if seed else ():
        if not group.is_layer:
            gates[group.name] = rng.random(group.size) < 0.6
            gates[group.name][rng.integers(group.size)] = True
        elif left[group.stage] > group.floor and rng.random() < 0.5:
            gates[group.name] = np.array([False])
            left[group.stage] -= 1
    return gates


def built(folder: Path) -> ModuleType:
    """Imports the builder of a folder."""
    found = importlib.util.spec_from_file_location("network", folder / "network.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def main() -> int:
    """Compares all networks, and says how many are too far apart."""
    rows = []
    for name, module, layout, theirs, side in libraries():
        weights = variables(module, side)
        network = strictly_loaded(theirs, mapping.write(layout(module), weights))
        rows.append((f"written as {name}", apart(module, weights, network, side)))
    for name, module, side in compacted():
        for seed in range(4):
            state = variables(module, side)
            left, params, state = remove(module, state.pop("params"), state, thinned(module, seed))
            with tempfile.TemporaryDirectory() as folder:
                root = export_pytorch(folder, left, params, state, (side, side, 3))
                network = built(root).build(root)
            weights = {"params": params, **state}
            rows.append((f"built: {name}{f', thinned {seed}' if seed else ''}", apart(left, weights, network, side)))
    wrong = [error for _, error in rows if not error <= AT_MOST]
    lines = [f"{name:48} {error:8.1e}{'' if error <= AT_MOST else '   TOO FAR'}" for name, error in rows]
    sys.stdout.write("\n".join([*lines, f"{len(rows)} compared, {len(wrong)} too far apart"]) + "\n")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
