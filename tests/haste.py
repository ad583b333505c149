"""Compiling in haste, for programs that run a few times only: optimising them would take longer than that."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import jax
from jax._src import compiler
from jax._src.interpreters import mlir

OPTIONS: dict[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    # Cut into parts for many cores, a program takes half as long again, and workers have no cores to spare.
    "xla_cpu_parallel_codegen_split_count": 1,
}
# The emitters that jax 0.10 brought take nearly twice as long; from 0.11 on there are no others.
if jax.__version_info__ < (0, 11):
    OPTIONS["xla_cpu_use_fusion_emitters"] = False
FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in OPTIONS.items())
"""For the environment variable XLA_FLAGS of processes that a test starts."""


@contextmanager
def everywhere() -> Iterator[None]:
    """Adds these options to every program that is compiled meanwhile."""
    given = compiler.get_compile_options

    def hasty(*arguments: Any, env_options_overrides: Any = None, **options: Any) -> Any:
        return given(*arguments, env_options_overrides={**OPTIONS, **(env_options_overrides or {})}, **options)

    with mock.patch.object(compiler, "get_compile_options", hasty):
        yield


PROGRAMS = 100
"""As many are written down in one context: types and constants stay in it for as long as it lives."""


def together() -> None:
    """Has programs of this process written down in one context of MLIR, and not each in its own.

    To make one takes 3 to 10 ms of CPU, several times as long as a small program takes, which is the same in either.
    """
    here, make = threading.local(), mlir.make_ir_context

    def context() -> Any:
        if getattr(here, "left", 0) == 0:
            here.context, here.left = make(), PROGRAMS
        here.left -= 1
        return here.context

    mlir.make_ir_context = context
