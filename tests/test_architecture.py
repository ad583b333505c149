"""The shape of the project: import floors, public names, documentation, sizes."""

import ast
import functools
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import jaxprune as jp

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxprune"
FLOORS = [
    {"types", "check", "files"},
    {"tree", "mesh", "memory", "stats", "records", "tensor_files", "libraries"},
    {"network", "losses"},
    {"sites", "groups"},
    {"data", "models", "curvature", "masks", "schedules", "checkpoint", "similarity", "cost"},
    {"scores", "structured", "optim"},
    {"pruning", "train"},
    {"evaluate", "geometry"},
    {"report"},
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def station(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The stations that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "jaxprune":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxprune."):
            found.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("jaxprune.")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    here = station(path)
    for name in imported(path) - {here}:
        assert FLOOR[name] < FLOOR[here], f"{here} (floor {FLOOR[here]}) imports {name} (floor {FLOOR[name]})"


@pytest.mark.parametrize("name", ["scores", "masks", "structured", "optim", "evaluate", "curvature"])
def test_the_core_knows_no_models_and_no_data(name):
    assert not {"models", "data"} & set().union(*(imported(path) for path in MODULES if station(path) == name))


def test_the_library_knows_no_experiments():
    assert not [path for path in MODULES if re.search(r"^\s*(from|import) experiments", path.read_text(), re.MULTILINE)]


PUBLIC = {
    "": ["Network"],
    "losses": ["cross_entropy", "squared_error"],
    "curvature": ["hvp", "ggnvp", "diagonal", "block_product", "block"],
    "scores": [
        "magnitude",
        "random",
        "snip",
        "grasp",
        "synflow",
        "fisher",
        "diagonal_hessian",
        "block_hessian",
        "surgeon_update",
    ],
    "pruning": ["rounds", "prune", "prune_and_update", "ladder"],
    "masks": ["unstructured", "n_of_m", "apply", "sparsity"],
    "schedules": ["one_shot", "exponential", "cubic", "ladder"],
    "tree": ["prunable", "names"],
    "optim": ["with_mask"],
    "models": [
        *("resnet_cifar", "resnet", "clip_resnet", "vit", "swin_v2", "resized", "specification"),
        *("load", "read", "export", "looks_like", "normalised", "zero_shot"),
    ],
    "tensor_files": ["read", "write", "TensorFile", "Tensors", "Placeholder"],
    "cost": ["macs", "parameters", "latency"],
    "similarity": ["linear_cka", "rbf_cka", "minibatch_cka", "procrustes", "svcca"],
    "sites": ["tags", "read", "survey", "guided", "gradients_at", "before"],
    "stats": ["bootstrap", "simultaneous", "sweet_spot"],
    "evaluate.attribution": ["grad_cam", "guided_backpropagation", "guided_grad_cam", "integrated_gradients"],
    "evaluate.relevance": ["pooled", "mass", "rank", "pointing", "chance"],
    "evaluate.perturbation": ["insertion", "deletion", "random_order"],
    "evaluate.discovery": ["tokens", "standardised", "lost", "token_cut", "pseudo_labels", "iou", "corloc"],
    "evaluate.alignment": ["decide", "compare", "human_human", "shape_bias", "read_trials", "write_trials"],
    "evaluate.triplets": ["odd_one_out", "choice_shares"],
    "data": [
        *("voc", "annotated_folder", "annotated_tfds", "annotated_scenes", "distort", "folder", "npz", "tfds"),
        *("preprocess", "normalise", "as_float", "stream", "prefetch", "with_progress"),
    ],
    "structured": ["gated", "remove", "verify", "Search", "save", "load", "export", "export_pytorch"],
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_there(name):
    module = functools.reduce(getattr, name.split("."), jp) if name else jp
    assert not [public for public in PUBLIC[name] if not callable(getattr(module, public, None))]


@pytest.mark.parametrize("info", list(pkgutil.walk_packages(jp.__path__, "jaxprune.")), ids=lambda info: info.name)
def test_every_public_name_is_documented(info):
    module = importlib.import_module(info.name)
    assert module.__doc__
    members = [value for name, value in vars(module).items() if not name.startswith("_")]
    own = [value for value in members if getattr(value, "__module__", None) == info.name]
    assert not [value.__name__ for value in own if not inspect.getdoc(value)]
    assert set(getattr(module, "__all__", [])) <= set(vars(module))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_and_functions_stay_small(path):
    text = path.read_text()
    assert text.count("\n") <= 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            documentation = (ast.get_docstring(node) or "").count("\n")
            assert node.end_lineno - node.lineno - documentation <= 60, f"{path.name}: {node.name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_library_does_not_print_and_has_no_globals(path):
    nodes = list(ast.walk(ast.parse(path.read_text())))
    assert not [node for node in nodes if isinstance(node, ast.Global)]
    assert not [node for node in nodes if isinstance(node, ast.Name) and node.id == "print"]


def test_the_code_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("0.9")


def test_the_commands_of_the_readme_exist():
    text = (ROOT / "README.md").read_text()
    commands = set(re.findall(r"scripts/\w+", text)) | set(re.findall(r"python -m (experiments\.\w+)", text))
    modules = ("transfer", "landscape", "joint_pruning", "representation", "convert")
    scripts = {f"scripts/{name}" for name in ("demo", "test", "benchmark", "check_pytorch")}
    assert {f"experiments.{name}" for name in modules} | scripts == commands
    for command in commands:
        path = ROOT / (command if "/" in command else command.replace(".", "/") + ".py")
        assert path.exists() or path.with_suffix(".py").exists()


def test_what_is_committed_names_no_machine():
    texts = [path.read_text() for pattern in ("*.md", "*.toml", "*.txt", "scripts/*") for path in ROOT.glob(pattern)]
    assert not [
        line for text in texts for line in text.splitlines() if re.search(r"/home/|/root/|/work/|index-url", line)
    ]
