"""What the execution of a study keeps besides its results."""

import io

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from experiments.shared import profiling
from experiments.shared.study import run
from tests.experiments import small


@pytest.fixture
def as_it_was():
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    jax.experimental.compilation_cache.compilation_cache.reset_cache()


@pytest.mark.usefixtures("as_it_was")
def test_keep_programs_has_them_kept_in_the_folder(tmp_path):
    from jax.experimental.compilation_cache import compilation_cache

    compilation_cache.reset_cache()
    profiling.keep_programs(None)
    profiling.keep_programs(tmp_path / "programs")
    jax.jit(lambda x: jnp.sin(x) * 3.25)(1.5).block_until_ready()
    assert list((tmp_path / "programs").iterdir())


def test_profiled_traces_the_second_run_alone_and_changes_no_result(tmp_path):
    def measure(value):
        assert list(tmp_path.rglob("*.xplane.pb")) == []
        return jax.jit(lambda x: x + 1)(value).item()

    traced = profiling.Profiled(measure, tmp_path)
    assert [traced(value) for value in (1, 2)] == [2, 3]
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1

    def broken(value):
        raise RuntimeError("broken")

    failing = profiling.Profiled(broken, tmp_path / "other")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            failing(1)
    assert len(list((tmp_path / "other").rglob("*.xplane.pb"))) == 1


def test_run_writes_a_trace_where_it_is_asked_for(tmp_path):
    settings = small.Settings(seeds=(0,), out=tmp_path / "out", profile=tmp_path / "trace")
    run(small.STUDY, settings, Console(file=io.StringIO()))
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))
