"""Transformers of other libraries: their names, and their answers to 1e-5; every known mistake is seen."""

import hashlib
import importlib.util
import json
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import tree
from jaxprune.models import layouts_swin, layouts_vit, mapping, resized, swin_v2, vit

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
BOUND = 1e-5


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


weights = script("golden_weights")
KEYS = json.loads((GOLDEN / "vit_keys.json").read_text())
with np.load(GOLDEN / "vit_outputs.npz") as file:
    ANSWERS = dict(file)

TINY = {"size": "ti", "depth": 2, "image": 64}
CLIP = {"classes": 32, "norm_epsilon": 1e-5, "activation": "quick_gelu"}
CLIP |= {"embed_bias": False, "pre_norm": True, "head_bias": False}
CASES = {
    "torchvision_vit": (vit(**TINY, classes=10), layouts_vit.torchvision_vit, "torchvision"),
    "timm_vit": (vit(**TINY, classes=10), layouts_vit.timm_vit, "timm"),
    "dino_vit": (vit(**TINY, patch=8, classes=0), layouts_vit.dino_vit, "dino"),
    "clip_vit": (vit(**TINY, **CLIP), layouts_vit.clip_vit, "timm"),
    "torchvision_swin": (
        swin_v2(depths=(2, 2), heads=(3, 6), classes=10),
        layouts_swin.torchvision_swin,
        None,
    ),
}
cases = pytest.mark.parametrize("name", CASES)
SIZES = [tuple(name.split("/")[:2]) for name in ANSWERS if name.endswith("/outputs")]


def variables_of(module):
    side = getattr(module, "image", 64)
    return jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))


def tensors_of(name):
    """What a file of the source holds; torchvision's tables of places are what they are."""
    filled = weights.filled(KEYS[name])
    return filled | {key: np.asarray(value) for key, value in layout_of(name).added.items()}


def layout_of(name):
    module, layout, _ = CASES[name]
    return layout(module)


def pictures(size):
    sides = [int(side) for side in size.split("x")]
    return weights.images(max(sides))[:, : sides[0], : sides[-1]]


def relative_error(found, expected):
    return np.max(np.abs(np.asarray(found, np.float64) - expected)) / np.max(np.abs(expected))


@partial(jax.jit, static_argnames="sites")
def answered(network, batch, sites):
    return network(batch), jp.sites.read(network, batch, sites)


def errors(name, size, module, params, resize=resized):
    """The largest errors of outputs, features and attention, computed in float32."""
    with jax.enable_x64(False):
        image, method = int(size.split("x")[0]), CASES[name][2]
        if method is not None and image != module.image:
            module, params = resize(module, params, image, method)
        block = "stage2/block1" if name == "torchvision_swin" else f"block{module.depth - 1}"
        network = module.network(jax.tree.map(jnp.asarray, params), {})
        outputs, (attention, features) = answered(network, pictures(size), (f"{block}/attention", "features"))
        attention = attention.reshape(-1, *attention.shape[-3:])[:4, :, :8]
        found = {"outputs": outputs, "features": features, "attention": attention}
        return {key: relative_error(value, ANSWERS[f"{name}/{size}/{key}"]) for key, value in found.items()}


@cases
def test_layouts_vit_names_and_shapes_are_those_of_the_source(name):
    module, _, _ = CASES[name]
    layout = layout_of(name)
    expected = {key: tuple(shape) for key, shape in KEYS[name].items()}
    made = mapping.shapes(layout, variables_of(module))
    assert made | {key: value.shape for key, value in layout.added.items()} == expected


FULL = json.loads((GOLDEN / "vit_full.json").read_text())


@pytest.mark.parametrize("name", FULL)
def test_architectures_names_and_shapes_at_full_depth_are_those_of_the_source(name):
    source = jp.models.ARCHITECTURES[name]
    module = source.module(source.classes, source.image)
    layout = source.layout(module)
    made = mapping.shapes(layout, variables_of(module)) | {key: value.shape for key, value in layout.added.items()}
    listed = [(key, list(shape)) for key, shape in sorted(made.items())]
    assert hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16] == FULL[name]["shapes"]


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_layouts_vit_answers_are_those_of_the_source(name, size):
    module = CASES[name][0]
    variables = mapping.read(layout_of(name), tensors_of(name), variables_of(module))
    for key, error in errors(name, size, module, variables["params"]).items():
        assert error <= BOUND, key


@cases
def test_layouts_vit_writes_what_was_read_bit_for_bit(name):
    tensors, layout, like = tensors_of(name), layout_of(name), variables_of(CASES[name][0])
    written = mapping.write(layout, mapping.read(layout, tensors, like))
    assert set(written) == set(tensors)
    for key, value in tensors.items():
        if name == "torchvision_swin" and key.endswith("qkv.bias"):  # that of the key is zero in every evaluation
            value = value * np.repeat([1, 0, 1], len(value) // 3).astype(np.float32)
        np.testing.assert_array_equal(written[key], value)
        assert written[key].dtype == value.dtype
    assert tree.names(mapping.read(layout, written, like)) == tree.names(like)


def test_torchvision_swin_makes_the_stored_tables_of_a_window_anew():
    added = layout_of("torchvision_swin").added
    assert {added[key].dtype for key in added} == {np.dtype(np.float32), np.dtype(np.int64)}
    assert set(mapping.dropped(layout_of("torchvision_swin"), KEYS["torchvision_swin"])) == set(added)


def read(name, tensors):
    """The variables of a case, and what was dropped."""
    layout = layout_of(name)
    return mapping.read(layout, tensors, variables_of(CASES[name][0])), mapping.dropped(layout, tensors)


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_clip_vit_drops_and_lists_the_text_tower():
    tensors, one = tensors_of("clip_vit"), np.ones((2, 2), np.float32)
    text = (
        "positional_embedding",
        "text_projection",
        "logit_scale",
        "token_embedding.weight",
        "ln_final.weight",
        "ln_final.bias",
        "transformer.resblocks.0.attn.in_proj_weight",
        "transformer.resblocks.11.mlp.c_fc.bias",
        "input_resolution",
        "context_length",
        "vocab_size",
    )
    variables, dropped = read("clip_vit", tensors | dict.fromkeys(text, one))
    assert set(dropped) == set(text)
    assert_same(variables, read("clip_vit", tensors)[0])


def test_dino_vit_drops_and_lists_what_else_a_checkpoint_holds():
    tensors, one = tensors_of("dino_vit"), np.ones((2, 2), np.float32)
    more = (
        "teacher.head.mlp.0.weight",
        "teacher.head.last_layer.weight_g",
        "student.module.backbone.cls_token",
        "student.module.head.mlp.0.weight",
    )
    variables, dropped = read("dino_vit", tensors | dict.fromkeys(more, one))
    assert set(dropped) == set(more)
    assert_same(variables, read("dino_vit", tensors)[0])


def test_prepare_torchvision_brings_first_names_to_todays():
    tensors = tensors_of("torchvision_vit")
    first = {
        name.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): value
        for name, value in tensors.items()
    }
    assert len(set(first) - set(tensors)) == 8
    assert set(layouts_vit.prepare_torchvision(first)) == set(tensors)
    assert_same(layouts_vit.prepare_torchvision(first), tensors)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("dist_token", "a distilled DeiT"),
        ("head_dist.weight", "a distilled DeiT"),
        ("fc_norm.weight", "normalises the mean over the patches"),
        ("model.fc_norm.bias", "normalises the mean over the patches"),
        ("blocks.0.ls1.gamma", "LayerScale"),
        ("blocks.3.gamma_2", "LayerScale"),
        ("reg_token", "register tokens"),
        ("blocks.0.attn.q_norm.weight", "normalises queries and keys"),
        ("patch_embed.backbone.stem.conv.weight", "a hybrid"),
        ("attn_pool.latent", "pools by attention"),
    ],
)
def test_prepare_timm_refuses_what_is_no_plain_transformer_by_name(name, what):
    with pytest.raises(ValueError, match=rf"weights: expected a plain vision transformer, but got .*{what}.*{name}"):
        layouts_vit.prepare_timm(tensors_of("timm_vit") | {name: np.zeros(3, np.float32)})


def test_refuse_lets_plain_transformers_pass():
    for name in ("timm_vit", "dino_vit", "clip_vit", "torchvision_vit"):
        layouts_vit.refuse(KEYS[name])


@cases
def test_layouts_vit_names_too_few_or_too_many_are_errors(name):
    tensors = tensors_of(name)
    first = next(key for key in tensors if key not in layout_of(name).added)
    with pytest.raises(mapping.NamesError, match=rf"1 missing \({first}\)"):
        read(name, {key: value for key, value in tensors.items() if key != first})
    with pytest.raises(mapping.NamesError, match=r"1 extra \(blocks\.7\.norm3\.weight\)"):
        read(name, tensors | {"blocks.7.norm3.weight": np.zeros(3, np.float32)})
    with pytest.raises(mapping.ShapeError, match=first):
        read(name, tensors | {first: np.zeros((3, 1), np.float32)})


@cases
def test_layouts_vit_smaller_network_has_the_names_that_are_left(name):
    module, make, _ = CASES[name]
    groups = {group.name: group for group in module.groups()}
    block = "stage1_block0" if name == "torchvision_swin" else "block0"
    gates = {
        f"{block}/heads": np.arange(3) > 0,
        f"{block}/units": np.arange(groups[f"{block}/units"].size) > 99,
        f"{block.replace('block0', 'block1')}/attention": np.array([False]),
    }
    left = module.without(gates)
    shapes = mapping.shapes(make(left), variables_of(left))
    full = mapping.shapes(make(module), variables_of(module))
    gone = [key for key in full if key not in shapes]
    assert all("attn" in key or "attention" in key or "1.norm1" in key or "ln_1" in key for key in gone)
    smaller = {key for key in shapes if shapes[key] != full[key]}
    # Two of a LayerNorm, four of an attention; in Swin also the scale, and three of the position bias.
    assert len(gone) == (10 if name == "torchvision_swin" else 6)
    # Query, key and value, the output, and three of the MLP; in Swin also the scale, and the end of the position bias.
    assert len(smaller) == (8 if name == "torchvision_swin" else 6)
    variables = mapping.read(make(left), weights.filled(shapes), variables_of(left))
    assert_same(mapping.read(make(left), mapping.write(make(left), variables), variables_of(left)), variables)


# Every known mistake: (case, size, what is made of the tensors, the variables, or the module).


def parts(change):
    """Changes how query, key and value lie in their matrix."""

    def changed(tensors):
        fused = [key for key in tensors if "qkv" in key or "in_proj" in key]
        return tensors | {key: change(tensors[key]) for key in fused}

    return changed


def in_order(*order):
    return parts(lambda fused: np.concatenate([np.split(fused, 3)[place] for place in order]))


def heads_first(fused):
    """Reads [heads, 3, dim] where the file has [3, heads, dim]."""
    return fused.reshape(3, 3, 64, *fused.shape[1:]).swapaxes(0, 1).reshape(fused.shape)


def dim_first(fused):
    """Reads [3, dim, heads] where the file has [3, heads, dim]."""
    return fused.reshape(3, 3, 64, *fused.shape[1:]).swapaxes(1, 2).reshape(fused.shape)


def transposed(leaf):
    def changed(params):
        return tree.map_named(lambda name, value: value.T if name.endswith(leaf) else value, params)

    return changed


def class_token_last(params):
    return params | {"position": np.roll(params["position"], -1, axis=0)}


def itself(value):
    return value


def by_jax(module, params, image, method):
    """Resamples positions as ``jax.image.resize`` does."""
    old, new = module.image // module.patch, image // module.patch
    token, grid = np.split(params["position"], [1])
    grid = jax.image.resize(grid.reshape(old, old, -1), (new, new, grid.shape[-1]), "cubic").reshape(new * new, -1)
    return module.clone(image=image), params | {"position": np.concatenate([token, grid])}


def by(method):
    return lambda module, params, image, _: resized(module, params, image, method)


class Mistake(NamedTuple):
    tensors: object = itself
    params: object = itself
    module: object = itself
    resize: object = resized
    size: str = "64"
    name: str = "timm_vit"


MISTAKES = {
    "LayerNorm epsilon": Mistake(module=lambda module: module.clone(norm_epsilon=1e-5)),
    "LayerNorm epsilon of CLIP": Mistake(module=lambda module: module.clone(norm_epsilon=1e-6), name="clip_vit"),
    "GELU by a tanh": Mistake(module=lambda module: module.clone(activation="gelu_tanh")),
    "GELU in CLIP": Mistake(module=lambda module: module.clone(activation="gelu"), name="clip_vit"),
    "key, query, value": Mistake(in_order(1, 0, 2)),
    "query, value, key": Mistake(in_order(0, 2, 1)),
    "value, key, query": Mistake(in_order(2, 1, 0)),
    "heads before query, key, value": Mistake(parts(heads_first)),
    "dimensions before heads": Mistake(parts(dim_first)),
    "query transposed": Mistake(params=transposed("query/kernel")),
    "key transposed": Mistake(params=transposed("key/kernel")),
    "value transposed": Mistake(params=transposed("value/kernel")),
    "output transposed": Mistake(params=transposed("attention/output/kernel")),
    "position of the class token last": Mistake(params=class_token_last),
    "grid transposed": Mistake(
        params=lambda params: (
            params
            | {
                "position": np.concatenate(
                    [params["position"][:1], params["position"][1:].reshape(4, 4, -1).swapaxes(0, 1).reshape(16, -1)]
                )
            }
        )
    ),
    "patches transposed": Mistake(
        params=lambda params: params | {"embed": params["embed"] | {"kernel": params["embed"]["kernel"].swapaxes(0, 1)}}
    ),
    "colours reversed": Mistake(
        params=lambda params: params | {"embed": params["embed"] | {"kernel": params["embed"]["kernel"][:, :, ::-1]}}
    ),
    "positions of torchvision by JAX": Mistake(resize=by_jax, name="torchvision_vit", size="96"),
    "positions of torchvision by timm's": Mistake(resize=by("timm"), name="torchvision_vit", size="96"),
    "positions of DINO by JAX": Mistake(resize=by_jax, name="dino_vit", size="80"),
    "positions of timm by big_vision's": Mistake(resize=by("big_vision"), name="timm_vit", size="48"),
    "query, key, value of Swin": Mistake(in_order(1, 0, 2), name="torchvision_swin", size="96x96"),
    "output of Swin transposed": Mistake(
        params=transposed("attention/output/kernel"), name="torchvision_swin", size="52x76"
    ),
}


def mistaken(mistake):
    module, tensors = CASES[mistake.name][0], mistake.tensors(tensors_of(mistake.name))
    params = mapping.read(layout_of(mistake.name), tensors, variables_of(module))["params"]
    return errors(mistake.name, mistake.size, mistake.module(module), mistake.params(params), mistake.resize)


def test_layouts_vit_all_is_well_without_a_mistake():
    for name, size in (("timm_vit", "64"), ("clip_vit", "64"), ("torchvision_swin", "52x76")):
        assert max(mistaken(Mistake(name=name, size=size)).values()) <= BOUND


@pytest.mark.parametrize("which", MISTAKES)
def test_layouts_vit_every_mistake_is_seen(which):
    assert mistaken(MISTAKES[which])["outputs"] > 2 * BOUND
