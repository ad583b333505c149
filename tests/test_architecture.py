"""The shape of the project: import floors, public names, documentation, sizes."""

import ast
import functools
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import jaxprune as jp

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxprune"
FLOORS = [
    {"types", "check", "files", "exclusive", "rendezvous", "words", "draws"},
    {"processes"},
    {"tree", "mesh", "memory", "stats", "records", "tensor_files", "libraries"},
    {"network", "losses", "finite", "store"},
    {"sites", "groups", "sweep"},
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


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


def imported(path: Path) -> set[str]:
    """The stations that a module imports."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom) and node.module == "jaxprune":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxprune."):
            found.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("jaxprune.")}
    return found


def test_imports_go_down_only():
    pairs = {(station(path), name) for path in MODULES for name in imported(path) - {station(path)}}
    assert not [f"{here} imports {name}" for here, name in sorted(pairs) if FLOOR[name] >= FLOOR[here]]


def test_imports_of_the_core_are_of_no_models_and_no_data():
    core = {"scores", "masks", "structured", "optim", "evaluate", "curvature"}
    assert not [path for path in MODULES if station(path) in core and {"models", "data"} & imported(path)]


def test_imports_of_the_library_are_of_no_experiments():
    assert not [path for path in MODULES if re.search(r"^\s*(from|import) experiments", path.read_text(), re.MULTILINE)]


STUDIES = sorted((ROOT / "experiments").rglob("*.py"))


def test_imports_of_a_study_are_of_no_other_study():
    pattern, wrong = re.compile(r"^\s*(?:from|import) experiments(?:\.(\w+))?", re.MULTILINE), []
    for path in STUDIES:
        found = set(pattern.findall(path.read_text()))
        home = path.relative_to(ROOT / "experiments").parts[0].removesuffix(".py")
        wrong += [f"{path} imports {name}" for name in found - {"", "shared", home} if path.name != "__main__.py"]
    assert not wrong
    assert not [path for path in STUDIES if path.read_text().count("\n") > 350]


DERIVATIVES = {"grad", "value_and_grad", "vjp", "jvp", "linearize", "linear_transpose", "jacrev", "jacfwd", "hessian"}
# What maps a derivative, and over what: never over an axis of examples that lies on several devices, where XLA computes
# the gradients of convolutions wrongly.  Gradients of single examples are of restricted.py, by cotangents of the batch.
MAPPED = {
    "curvature/activation.py": "units, positions",
    "curvature/columns.py": "columns of the outputs",
    "curvature/restricted.py": "blocks, and cotangents of the whole batch",
}


def called(path: Path) -> set[str]:
    calls = [node.func for node in nodes(path) if isinstance(node, ast.Call)]
    return {getattr(function, "attr", getattr(function, "id", "")) for function in calls}


def test_vmap_is_of_no_derivative_outside_of_the_modules_that_say_over_what():
    both = {path for path in MODULES if called(path) & DERIVATIVES and called(path) & {"vmap", "side_by_side", "pmap"}}
    assert {str(path.relative_to(PACKAGE)) for path in both} == set(MAPPED)


PUBLIC = {
    "": ["Network"],
    "losses": ["cross_entropy", "squared_error"],
    "curvature": ["hvp", "ggnvp", "diagonal", "block_product", "block", "joint_block"],
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
    "pruning": ["rounds", "prune", "prune_and_update", "ladder", "surgeon_rounds", "adam_rounds"],
    "masks": ["unstructured", "n_of_m", "apply", "sparsity"],
    "schedules": ["one_shot", "exponential", "cubic", "ladder"],
    "tree": ["prunable", "names"],
    "optim": ["with_mask"],
    "train": ["fit", "step", "recalibrate"],
    "store": ["Store"],
    "sweep": ["work"],
    "models": [
        *("resnet_cifar", "resnet", "clip_resnet", "vit", "swin_v2", "resized", "specification"),
        *("efficientnet_lite", "load", "read", "export", "looks_like", "normalised", "zero_shot"),
    ],
    "tensor_files": ["read", "write", "TensorFile", "Tensors", "Placeholder"],
    "cost": ["macs", "parameters", "latency", "stopwatch"],
    "similarity": ["linear_cka", "rbf_cka", "minibatch_cka", "procrustes", "svcca"],
    "sites": ["tags", "read", "survey", "guided", "gradients_at", "before"],
    "stats": ["interval", "simultaneous", "sweet_spot"],
    "evaluate.attribution": ["grad_cam", "guided_backpropagation", "guided_grad_cam", "integrated_gradients"],
    "evaluate.relevance": ["pooled", "mass", "rank", "pointing", "chance"],
    "evaluate.perturbation": ["insertion", "deletion", "random_order"],
    "evaluate.discovery": ["tokens", "standardised", "lost", "token_cut", "pseudo_labels", "iou", "corloc"],
    "evaluate.alignment": ["decide", "compare", "human_human", "shape_bias", "read_trials", "write_trials"],
    "evaluate.safety": ["largest", "flips", "disagreements", "drops", "betting", "labels_needed", "images_needed"],
    "evaluate.triplets": ["odd_one_out", "choice_shares"],
    "data": [
        *(
            "voc",
            "annotated_folder",
            "annotated_tfds",
            "annotated_scenes",
            "distort",
            "folder",
            "npz",
            "npz_parts",
            "tfds",
        ),
        *("idx", "Preprocessed"),
        *("preprocess", "normalise", "as_float", "stream", "prefetch", "with_progress"),
    ],
    "structured": [
        *("gated", "remove", "verify", "Search", "save", "load", "export", "export_pytorch"),
        *("gate_hessian", "prune_jointly", "readjusted", "fold"),
    ],
}


def test_public_names_are_there():
    modules = {name: functools.reduce(getattr, name.split("."), jp) if name else jp for name in PUBLIC}
    wanted = [(name, public) for name, names in PUBLIC.items() for public in names]
    assert not [(name, public) for name, public in wanted if not callable(getattr(modules[name], public, None))]


def test_public_names_are_documented():
    missing = []
    for info in pkgutil.walk_packages(jp.__path__, "jaxprune."):
        module = importlib.import_module(info.name)
        members = [value for name, value in vars(module).items() if not name.startswith("_")]
        own = [value for value in members if getattr(value, "__module__", None) == info.name]
        missing += [f"{info.name}.{value.__name__}" for value in own if not inspect.getdoc(value)]
        missing += [f"{info.name}.{name}" for name in getattr(module, "__all__", []) if name not in vars(module)]
        missing += [] if module.__doc__ else [info.name]
    assert not missing


def test_modules_and_functions_stay_small():
    long = [str(path) for path in MODULES if path.read_text().count("\n") > 350]
    for path in MODULES:
        for node in nodes(path):
            if isinstance(node, ast.FunctionDef):
                lines = node.end_lineno - node.lineno - (ast.get_docstring(node) or "").count("\n")
                long += [f"{path}: {node.name}"] if lines > 60 else []
    assert not long


def test_modules_do_not_print_and_have_no_globals():
    named = [(path, node) for path in MODULES for node in nodes(path) if isinstance(node, (ast.Name, ast.Global))]
    assert not [path for path, node in named if isinstance(node, ast.Global) or node.id == "print"]


def own_names() -> set[str]:
    """Every function, class (in lower case), method and module of ours."""
    found = set()
    for folder in ("jaxprune", "experiments", "scripts", "docs"):
        for path in (ROOT / folder).rglob("*.py"):
            found |= {path.stem.strip("_"), path.parent.name}
            definitions = ast.parse(path.read_text()).body
            definitions += [node for one in definitions if isinstance(one, ast.ClassDef) for node in one.body]
            names = [node.name for node in definitions if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
            found |= {re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_") for name in names}
    return found - {""}


def test_names_of_tests_begin_with_the_function_that_they_test():
    pattern = re.compile(f"test_({'|'.join(sorted(own_names()))})(_|$)")
    paths = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    names = [(path, name) for path in paths for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)]
    assert len(names) > 1000
    assert not [f"{path}: {name}" for path, name in names if not pattern.match(name)]


def test_commands_of_the_pages_exist():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = "\n".join(page.read_text() for page in pages)
    commands = set(re.findall(r"scripts/\w+", text)) | set(re.findall(r"python -m (experiments\.\w+)", text))
    studies = {path.parent.name for path in (ROOT / "experiments").glob("*/__main__.py")} | {"patterns"}
    assert {f"experiments.{name}" for name in studies} <= commands
    scripts = {path.stem for path in (ROOT / "scripts").iterdir() if path.suffix == "" and path.is_file()}
    assert {f"scripts/{name}" for name in scripts - {"environment", "golden_attribution"}} <= commands
    for command in commands:
        path = ROOT / (command if "/" in command else command.replace(".", "/"))
        files = (path / "__main__.py", path / "check_page.py", path / "render.py", path.with_suffix(".py"), path)
        assert any(one.exists() for one in files if not one.is_dir())


def test_files_name_no_machine():
    paths = [
        path
        for pattern in ("*.md", "*.toml", "*.txt", "*.cff", ".ci/run", "scripts/*", "docs/*.*")
        for path in ROOT.glob(pattern)
    ]
    paths += [path for name in ("jaxprune", "experiments", "tests") for path in (ROOT / name).rglob("*.py")]
    texts = [path.read_text() for path in paths if path.is_file() and path != Path(__file__)]
    assert not [
        line for text in texts for line in text.splitlines() if re.search(r"/home/|/root/|/work/|index-url", line)
    ]
