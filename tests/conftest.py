"""The strictness of the tests: float64, eight devices, checked annotations.

Pytest loads this before it imports anything of jaxprune, also when the doctests of ``jaxprune/`` run in the same call.
"""

import gc
import signal
from contextlib import nullcontext
from pathlib import Path

import jax
import jaxtyping
import pytest
from hypothesis import settings

import tests.annotations  # noqa: F401  the hook below looks it up
from tests import haste

jaxtyping.install_import_hook("jaxprune", "tests.annotations.check")

# A shell starts its background jobs with Ctrl-C ignored, and so would be what tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Arrays still live on the first device, unless a test shards them.
jax.config.update("jax_num_cpu_devices", 8)

MANY_MAPS = 25_000
QUICKLY = {
    "curvature",
    "evaluate",
    "experiments",
    "geometry",
    "libraries",
    "models",
    "pruning",
    "scores",
    "similarity",
    "sites",
    "structured",
    "test_docs.py",
    "test_contract.py",
    "test_hooks.py",
    "test_identity.py",
    "test_optim.py",
    "test_placement.py",
    "test_prefetching.py",
    "test_processes.py",
    "test_scaling.py",
    "test_train.py",
}

haste.together()

# What takes longest begins first, so that no worker is left alone with it at the end.
LONGEST = (
    "test_docs.py",
    "test_matrices.py",
    "test_distillation.py",
    "test_joint.py",
    "test_representation.py",
    "test_twelve.py",
    "test_processes.py",
    "test_sweep.py",
    "test_pretrained_networks.py",
    "test_contract.py",
    "test_spectrum.py",
    "test_pretrained.py",
    "test_train.py",
    "test_methods.py",
    "test_transfer.py",
    "test_landscape.py",
    "test_surgeon.py",
    "test_patterns.py",
    "test_gates.py",
    "test_optim.py",
    "test_routes.py",
    "test_oracles.py",
    "test_laws.py",
    "test_models.py",
    "test_estimates.py",
    "test_folded.py",
    "test_axes.py",
    "test_finding.py",
)


# Traces are many objects and few cycles: looking for these took a twelfth of the time.  What is imported stays.
gc.set_threshold(50_000, 20, 50)
gc.disable()


def pytest_collection_finish() -> None:
    """What was imported stays: it need not be looked at again and again."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


settings.register_profile("tests", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def float64():
    """Per test and not per process, because the doctests of the same worker print float32.

    What a test module makes at import is made before this: constants are numpy arrays.
    """
    # Not the context manager: that is of one thread, and checkpoints are written in others.
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(autouse=True, scope="module")
def compiled_quickly(request):
    """Programs of the long batteries run a few times only: optimising them would take longer than that.

    The laws of masks, checkpoints, data, and float32 with its extremes above all, run as users run them; so does what
    the documentation of training and losses shows.
    """
    with haste.everywhere() if any(name in request.path.parts for name in QUICKLY) else nullcontext():
        yield


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Forgets compiled programs before there are too many.

    Every one takes a few entries in the process's table of memory maps; Linux allows 65,530 of them, and XLA's compiler
    crashes at the next.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MANY_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def same_rank():
    """Broadcasting must be spelt out.  For the batteries of the core, as ``pytestmark``; elsewhere hand-written
    networks may add a bias [c] to [b, c].

    Strict promotion of types stays off: Flax brings float32 variables and float64 images to their common type.
    """
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def unchecked():
    """For the errors of the library's own checks that an annotation would otherwise meet first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
