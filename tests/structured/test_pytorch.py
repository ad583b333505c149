"""What is written for PyTorch: that its builder asks for exactly the arrays of the file, in their shapes.

The tests have no PyTorch.  A stand-in has layers that know their parameters and compute nothing; the numbers are
compared by scripts/check_pytorch.py, with PyTorch.
"""

import ast
import sys
from functools import cache
from types import ModuleType, SimpleNamespace

import jax
import numpy as np
import pytest
import safetensors.numpy

import jaxprune as jp
from jaxprune import tree
from jaxprune.models.clip_resnet import clip_resnet
from jaxprune.structured import export_pytorch, remove, save
from tests.structured import networks

WEIGHTS = "weights.safetensors"
VIT = networks.VIT | {"classes": 0, "embed_bias": False, "pre_norm": True, "activation": "quick_gelu"}
MODULES = networks.FAMILIES | {
    "strided": (jp.models.resnet_cifar(20, 3, 2, stem_stride=2), (6, 6, 1)),
    "clip_resnet": (clip_resnet(32, 5, 4, (3, 1, 1, 1)), (32, 32, 3)),
    "clip": (jp.models.vit(**VIT), (8, 8, 3)),
    "big_vision": (jp.models.vit(**networks.VIT, pool="mean", head_bias=False), (8, 8, 3)),
}


class Module:
    """Knows the shapes of its parameters, as ``torch.nn.Module`` does."""

    def __init__(self, **own):
        self.own = {name: tuple(shape) for name, shape in own.items() if shape is not None}

    def add_module(self, name, module):
        setattr(self, name, module)

    def register_buffer(self, name, value, persistent):
        assert not persistent

    def shapes(self):
        found = dict(self.own)
        for name, value in vars(self).items():
            if isinstance(value, Module):
                found |= {f"{name}.{inner}": shape for inner, shape in value.shapes().items()}
            elif isinstance(value, Parameter):
                found[name] = value.shape
        return found

    def load_state_dict(self, tensors, strict):
        assert strict
        assert self.shapes() == {name: tensor.shape for name, tensor in tensors.items()}

    def eval(self):
        return self


class Conv2d(Module):
    def __init__(self, before, after, size, stride, padding=0, bias=True, groups=1):
        super().__init__(weight=(after, before // groups, size, size), bias=(after,) if bias else None)


class Linear(Module):
    def __init__(self, before, after, bias=True):
        super().__init__(weight=(after, before), bias=(after,) if bias else None)


class BatchNorm2d(Module):
    def __init__(self, width, eps=1e-5, momentum=0.1):
        super().__init__(**dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (width,)))


class Dropout(Module):
    def __init__(self, share):
        assert 0 <= share < 1
        super().__init__()


class LayerNorm(Module):
    def __init__(self, width, eps=1e-5):
        super().__init__(weight=(width,), bias=(width,))


class Array:
    """An array of a file, as a shape."""

    def __init__(self, shape):
        self.shape, self.ndim = tuple(shape), len(shape)

    def permute(self, axes):
        return Array([self.shape[axis] for axis in axes])

    def contiguous(self):
        return self


class Parameter(Array):
    """An array of a module."""

    def __init__(self, array):
        super().__init__(array.shape)


def build(root, monkeypatch):
    """Runs the builder of a folder, with the stand-in where ``import torch`` finds it."""
    torch, nn, files = ModuleType("torch"), ModuleType("torch.nn"), ModuleType("safetensors.torch")
    layers = (Module, Conv2d, Linear, BatchNorm2d, Dropout, LayerNorm, Parameter)
    vars(nn).update({layer.__name__: layer for layer in layers}, Identity=Module, functional=SimpleNamespace(gelu=len))
    vars(torch).update(nn=nn, zeros=lambda *shape: Array(shape), tensor=np.asarray, mean=len)
    arrays = {name: Array(array.shape) for name, array in safetensors.numpy.load_file(root / WEIGHTS).items()}
    files.load_file = {root / WEIGHTS: arrays}.get
    content = {"__name__": "network"}
    # Not for longer: others look for the real one in ``sys.modules``.
    with monkeypatch.context() as patch:
        for name, module in (("torch", torch), ("torch.nn", nn), ("safetensors.torch", files)):
            patch.setitem(sys.modules, name, module)
        exec(compile((root / "network.py").read_text(), "network.py", "exec"), content)
        return content["build"](root)


@cache
def shapes(name):
    module, image = MODULES[name]
    return jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *image), np.float32))


def compacted(name, seed):
    """(specification, params, state) of a network, of which units and layers are gone unless the seed is 0."""
    module, template = MODULES[name][0], shapes(name)
    state = tree.map_named(lambda _, leaf: np.zeros(leaf.shape, np.float32), template)
    params = state.pop("params")
    gates = networks.random_gates(module.groups(), seed) if seed else jp.structured.ones(module.groups())
    return remove(module, params, state, gates)


def written(name, seed, folder):
    return export_pytorch(folder, *compacted(name, seed), MODULES[name][1])


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", MODULES)
def test_export_pytorch_writes_a_builder_of_exactly_what_the_file_has(name, seed, tmp_path, monkeypatch):
    network = build(written(name, seed, tmp_path), monkeypatch)
    assert len(network.shapes()) > 10


@pytest.mark.parametrize("change", ["one more", "one less", "another shape"])
def test_export_pytorch_writes_a_builder_that_refuses_other_arrays(change, tmp_path, monkeypatch):
    root = written("basic", 1, tmp_path)
    arrays = safetensors.numpy.load_file(root / WEIGHTS)
    bias = arrays.pop("params/head/bias")
    arrays |= {
        "one more": {"params/head/bias": bias, "params/head/extra": bias},
        "another shape": {"params/head/bias": bias[1:]},
    }.get(change, {})
    safetensors.numpy.save_file(arrays, root / WEIGHTS)
    with pytest.raises(AssertionError):
        build(root, monkeypatch)


def test_export_pytorch_writes_a_saved_network_and_a_builder(tmp_path):
    root = written("basic", 1, tmp_path / "new")
    saved = save(tmp_path / "saved", *compacted("basic", 1), MODULES["basic"][1])
    assert sorted(path.name for path in root.iterdir()) == ["network.py", "specification.json", WEIGHTS]
    for path in saved.iterdir():
        assert (root / path.name).read_bytes() == path.read_bytes()
    # It still loads here.
    found, network = jp.structured.load(root, jp.models.specification)
    assert found == compacted("basic", 1)[0]
    assert networks.evaluate(network, networks.images("basic")).shape == (5, 3)


def test_export_pytorch_writes_a_builder_of_pytorch_and_safetensors_alone(tmp_path):
    text = (written("basic", 1, tmp_path) / "network.py").read_text()
    nodes = list(ast.walk(ast.parse(text)))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    outside = {name for name in imported if name.split(".")[0] not in sys.stdlib_module_names}
    assert outside == {"torch", "torch.nn", "safetensors.torch"}
    assert max(map(len, text.splitlines())) <= 120
    classes = [node for node in nodes if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    assert not [n.name for n in classes if n.name not in ("__init__", "forward") and not ast.get_docstring(n)]


def test_export_pytorch_refuses_a_family_that_the_builder_does_not_know(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"specification: family: unknown value 'declared'.*Known: clip_resnet, efficientnet_lite, resnet",
    ):
        export_pytorch(tmp_path / "new", networks.MLP, networks.mlp_params(), {}, (2, 2, 1))
    assert not (tmp_path / "new").exists()
