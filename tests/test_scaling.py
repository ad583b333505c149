"""What a device does of work that is divided: figures of scripts/scaling.py, on one device and on eight."""

import importlib
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxprune as jp

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    with jax.enable_x64(False):  # as users have it
        yield importlib.import_module("scaling")


# After GELUs the sums that XLA fuses on a CPU read two copies more where there is more than one device: 1.12, and flat
# beyond; 1.00 without these fusions, see docs/devices.md.
@pytest.mark.parametrize(
    ("kind", "name", "temporaries"), [("relu", "diagonal", 1.1), ("relu", "gram", 1.1), ("gelu", "diagonal", 1.15)]
)
def test_of_task_finds_that_a_device_goes_through_its_own_examples_only(scaling, kind, name, temporaries):
    network = scaling.networks()[kind]
    one, eight = scaling.of_task(name, network, 1, 8), scaling.of_task(name, network, 8, 64)
    all_on_one = scaling.of_task(name, network, 1, 64, compiles=False)
    assert eight.trips == one.trips
    assert eight.gathered == 0
    assert eight.temporaries <= temporaries * one.temporaries
    assert eight.operations <= 0.15 * all_on_one.operations
    if kind == "relu":
        assert eight.trips == (16 if name == "gram" else 8)  # units, or images a device


@pytest.mark.parametrize("name", ["greedy", "obs by factors"])
def test_of_solve_finds_that_a_device_solves_its_own_units_only(scaling, name):
    one, eight = scaling.of_solve(name, None, 1, 8), scaling.of_solve(name, None, 8, 64)
    all_on_one = scaling.of_solve(name, None, 1, 64, compiles=False)
    if name == "greedy":
        assert eight.trips == one.trips == 8
    assert eight.gathered <= 64 * 96  # the leaf
    assert eight.operations <= 0.15 * all_on_one.operations


def test_of_task_inside_of_a_compiled_function_is_divided_too(scaling):
    network, mesh = scaling.networks()["relu"], jp.mesh.make()
    batch = {"image": np.zeros((64, 16, 16, 3), np.float32), "label": np.arange(64) % 10}
    figures = scaling.Figures()
    program = jax.jit(lambda network, batch: jp.curvature.diagonal(network, scaling.LOSS, batch))
    figures.measure(program, (jp.mesh.replicate(mesh, network), jp.mesh.shard_batch(mesh, batch)), {})
    assert (figures.trips, figures.gathered) == (8, 0)
