"""Positions at another image size: every library's way, against PyTorch's answers and SciPy's."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from jaxprune.models import resized, vit
from jaxprune.models.positions import METHODS, cubic, cubic_antialiased, linear, sines

ROOT = Path(__file__).parents[2]
with np.load(Path(__file__).parent / "golden/vit_positions.npz") as file:
    ANSWERS = dict(file)


def bits(key, shape):
    spec = importlib.util.spec_from_file_location("golden_weights", ROOT / "scripts/golden_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.bits(key, shape)


def apart(found, expected):
    return np.max(np.abs(found - expected)) / np.max(np.abs(expected))


@pytest.mark.parametrize("name", ANSWERS)
def test_positions_grids_are_those_of_pytorch(name):
    way, old, new = name.split("/")
    old, new = int(old), int(new)
    grid = bits(f"grid/{old}", (old, old, 2))
    matrix = cubic(old, new) if way == "cubic" else METHODS[way](old, new)
    found = np.einsum("ir,js,rsd->ijd", matrix, matrix, grid)
    assert apart(found, ANSWERS[name]) <= 1e-6


@pytest.mark.parametrize("way", METHODS)
def test_cubic_antialiased_kernel_alone_is_that_of_jax(way):
    grid, matrix = bits("grid/14", (14, 14, 2)).astype(np.float64), METHODS[way](14, 20)
    error = apart(np.einsum("ir,js,rsd->ijd", matrix, matrix, grid), jax.image.resize(grid, (20, 20, 2), "cubic"))
    assert error < 1e-5 if way == "timm" else error > 1e-2


@pytest.mark.parametrize("new", [1, 2, 5, 8, 13, 16])
@pytest.mark.parametrize("old", [2, 3, 8, 14])
def test_linear_grids_are_those_of_scipy(old, new):
    grid = bits(f"grid/{old}", (old, old, 2)).astype(np.float64)
    expected = ndimage.zoom(grid, (new / old, new / old, 1), order=1)
    matrix = linear(old, new)
    assert expected.shape == (new, new, 2)
    np.testing.assert_allclose(np.einsum("ir,js,rsd->ijd", matrix, matrix, grid), expected, atol=1e-6)


MATRICES = {
    "cubic": cubic,
    "corners": lambda old, new: cubic(old, new, corners=True),
    "antialiased": cubic_antialiased,
    "linear": linear,
}


@pytest.mark.parametrize("which", MATRICES)
@given(old=st.integers(1, 40), new=st.integers(1, 40))
def test_positions_weights_sum_to_one_and_are_symmetric(which, old, new):
    matrix = MATRICES[which](old, new)
    assert matrix.shape == (new, old)
    np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-6)
    if which in ("cubic", "antialiased") or new > 1:
        np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=2e-4)
    if old == new:
        np.testing.assert_array_equal(matrix, np.eye(old))


def test_sines_are_those_of_their_definition():
    table = sines(3, 16)
    for row, column in np.ndindex(3, 3):
        frequencies = [10_000 ** (-i / 3) for i in range(4)]
        waves = [wave(place * f) for place in (column, row) for wave in (np.sin, np.cos) for f in frequencies]
        np.testing.assert_allclose(table[3 * row + column], waves, rtol=1e-12)


def shape_of(module):
    images = jax.ShapeDtypeStruct((2, module.image, module.image, 3), jnp.float32)
    outputs, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), images)
    return outputs, variables["params"]


def tiny(pool="token"):
    module = vit(patch=4, image=16, classes=3, width=8, heads=2, depth=1, pool=pool)
    params = shape_of(module)[1]
    return module, params | {"position": bits("positions", params["position"].shape)}


@pytest.mark.parametrize("method", [*METHODS, "sines"])
@pytest.mark.parametrize("pool", ["token", "mean"])
def test_resized_changes_only_positions_of_patches(method, pool):
    module, params = tiny(pool)
    larger, changed = resized(module, params, 24, method)
    assert larger == module.clone(image=24)
    assert changed["position"].shape == (36 + (pool == "token"), 8)
    assert changed["position"].dtype == params["position"].dtype
    if pool == "token":
        np.testing.assert_array_equal(changed["position"][0], params["position"][0])
    assert all(changed[name] is params[name] for name in params if name != "position")
    assert resized(module, params, 16, method)[1] is params
    outputs, expected = shape_of(larger)
    assert jax.tree.map(np.shape, changed) == jax.tree.map(np.shape, expected)
    assert outputs.shape == (2, 3)


def test_resized_methods_differ():
    module, params = tiny()
    made = [resized(module, params, 24, method)[1]["position"] for method in METHODS]
    for left, right in zip(made, made[1:] + made[:1], strict=True):
        assert apart(np.asarray(left), np.asarray(right)) > 1e-3


@pytest.mark.usefixtures("unchecked")
def test_resized_refuses_bad_arguments_with_a_remedy():
    module, params = tiny()
    with pytest.raises(ValueError, match=r"method: unknown value 'dinno'. Did you mean 'dino'\?"):
        resized(module, params, 24, "dinno")
    with pytest.raises(ValueError, match=r"image: expected a multiple of the patch \(4\), but got 22. Take 24"):
        resized(module, params, 22)
