"""The library's rooms: imports point one way and form no circle."""

import ast
import functools
import subprocess
import sys

from senet_lib.project import project_root

ROOT = project_root()
LIBRARY = ROOT / "senet_lib"
# From the ground up: a file may import from its own room and from those before it
ROOMS = (
    *("errors", "durations", "project", "process", "files", "menus", "metrics", "strict_yaml"),
    *("models", "data", "study", "results", "training", "running", "bundle", "analysis", "gates", "report", "cli"),
)
MOST_LINES = 420
WITHOUT_TORCH = ("errors", "durations", "project", "process", "files", "strict_yaml", "study", "results", "analysis")
STARTS_WITHOUT_TORCH = (
    "cli",
    "study",
    "results",
    "analysis.plots",
    "analysis.sentences",
    "report.page",
    "report.build",
)


@functools.cache
def trees():
    """name below senet_lib -> syntax tree of the file."""
    return {
        ".".join(path.relative_to(LIBRARY).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text())
        for path in sorted(LIBRARY.rglob("*.py"))
        if path != LIBRARY / "__init__.py"
    }


def imports(tree):
    """The full names of everything that a file imports anywhere, also within functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@functools.cache
def imported_modules(module):
    """The modules of the library that a module imports, as names below senet_lib."""
    names = {name.removeprefix("senet_lib.") for name in imports(trees()[module]) if name.startswith("senet_lib.")}
    return {name if name in trees() else name.rpartition(".")[0] for name in names} - {""}


def room(module):
    return module.split(".")[0]


def test_imports_point_one_way():
    assert {room(module) for module in trees()} == set(ROOMS)
    for module in trees():
        above = {other for other in imported_modules(module) if ROOMS.index(room(other)) > ROOMS.index(room(module))}
        assert not above, f"{module} imports {above}"


def test_no_circular_imports():
    packages = {room(module) for module in trees() if "." in module}
    left = {}
    for module in trees():  # a package's __init__ imports its files, so they may not import from the package itself
        own_package = {room(module)} & packages
        left[module] = imported_modules(module) - {module} - own_package
    while free := [module for module, needs in left.items() if not needs & left.keys()]:
        for module in free:
            del left[module]
    assert not left, f"in a circle: {sorted(left)}"


def test_models_data_and_training_stay_apart():
    apart = {"models": {"data"}, "data": {"models"}}
    for module in trees():
        assert not {room(other) for other in imported_modules(module)} & apart.get(room(module), set()), module
    for path in (LIBRARY / "training").glob("*.py"):
        for word in ("SqueezeExcitation", "SelectiveKernel", "sk_resnet", "se_resnet"):
            assert word not in path.read_text(), f"{path} names {word}"


def test_reading_results_needs_no_torch():
    for module, tree in trees().items():
        if room(module) in WITHOUT_TORCH:
            assert "torch" not in {name.split(".")[0] for name in imports(tree)}, module
    lines = [*(f"import senet_lib.{module}" for module in STARTS_WITHOUT_TORCH), "import sys"]
    code = "; ".join([*lines, "sys.exit('torch' in sys.modules)"])
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_files_stay_short():
    for path in LIBRARY.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= MOST_LINES, path


def test_benchmarks_and_tools_import_no_tests():
    test_modules = {path.stem for path in (ROOT / "tests").glob("*.py")} | {"tests"}
    for path in (*LIBRARY.rglob("*.py"), *(ROOT / "benchmarks").glob("*.py"), *(ROOT / "tools").glob("*.py")):
        tree = ast.parse(path.read_text())
        assert not {name.split(".")[0] for name in imports(tree)} & test_modules, path
        strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert "tests" not in strings, f"{path} has a path to tests/"
