"""The pages of the API, made from what the public modules hold: a page a module, an entry a public name."""

import ast
import importlib
import inspect
import shutil
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import jaxprune


def modules() -> Iterator[ModuleType]:
    """Yields every public module: those of ``jaxprune.__all__``, and the modules that they offer."""
    waiting = [importlib.import_module(f"jaxprune.{name}") for name in jaxprune.__all__ if name[0].islower()]
    while waiting:
        module = waiting.pop(0)
        yield module
        inner = [getattr(module, name) for name in offered(module)]
        waiting[:0] = [one for one in inner if isinstance(one, ModuleType)]


def offered(module: ModuleType) -> list[str]:
    """Names the public names of a module: ``__all__``, or what it defines itself."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [name for name, value in vars(module).items() if name[0] != "_" and _is_of(value, module)]


def names(module: ModuleType) -> list[str]:
    """Names what a module offers besides modules."""
    return [name for name in offered(module) if not isinstance(getattr(module, name), ModuleType)]


def write(folder: Path) -> None:
    """Writes the pages, and a page that lists them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    pages = {"jaxprune": _page(jaxprune, [name for name in jaxprune.__all__ if name[0].isupper()])}
    pages |= {module.__name__: _page(module, names(module)) for module in modules()}
    for name, text in pages.items():
        (folder / f"{name}.rst").write_text(text)
    toctree = "".join(f"   {name}\n" for name in pages)
    title = "Reference of the API"
    (folder / "index.rst").write_text(f"{title}\n{'=' * len(title)}\n\n.. toctree::\n   :maxdepth: 1\n\n{toctree}")


def _page(module: ModuleType, entries: list[str]) -> str:
    title = module.__name__.replace("jaxprune", "jp", 1)
    parts = [f"{title}\n{'=' * len(title)}\n", f".. automodule:: {module.__name__}\n   :no-members:\n"]
    parts += [_entry(f"{module.__name__}.{name}", getattr(module, name)) for name in entries]
    return "\n".join(parts)


def _entry(name: str, value: Any) -> str:
    if isinstance(value, type):
        return f".. autoclass:: {name}\n   :members:\n"
    if inspect.isfunction(inspect.unwrap(value)):
        return f".. autofunction:: {name}\n"
    return f".. py:data:: {name}\n\n   {said_of(name.rpartition('.')[2], value)}\n"


def said_of(name: str, value: Any) -> str:
    """Finds what stands below the assignment of a constant, in the module that makes it."""
    for module in [one for key, one in sys.modules.items() if key.partition(".")[0] == "jaxprune"]:
        if getattr(module, name, None) is not value:
            continue
        body = ast.parse(inspect.getsource(module)).body
        for made, after in pairwise(body):
            targets = [made.target] if isinstance(made, ast.AnnAssign) else getattr(made, "targets", [])
            is_it = any(isinstance(one, ast.Name) and one.id == name for one in targets)
            if is_it and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                return " ".join(str(after.value.value).split())
    raise LookupError(f"{name}: expected a text below its assignment, but found none. Say there what it is.")


def literal_blocks(lines: list[str]) -> None:
    """Marks as code what is indented after a line that ends in a colon and an empty one."""
    for number in range(len(lines) - 2):
        line, empty, code = lines[number : number + 3]
        inner = len(code) - len(code.lstrip())
        if (
            line.endswith(":")
            and not line.endswith("::")
            and not empty.strip()
            and inner > len(line) - len(line.lstrip())
        ):
            lines[number] += ":"


def _is_of(value: Any, module: ModuleType) -> bool:
    return getattr(value, "__module__", None) == module.__name__
