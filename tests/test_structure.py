"""The library's rooms: imports point one way, and there is no circle."""

import ast

from senet_lib.project import project_root

LIBRARY = project_root() / "senet_lib"
# From the ground up: a file may import from its own room and from those before it
ROOMS = (
    *("errors", "durations", "project", "process", "files", "metrics"),
    *("models", "data", "study", "results", "training", "running", "analysis", "gates", "report", "cli"),
)
MOST_LINES = 420
WITHOUT_TORCH = ("errors", "durations", "project", "process", "files", "study", "results", "analysis")


def modules():
    """name below senet_lib -> its syntax tree."""
    return {
        ".".join(path.relative_to(LIBRARY).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text())
        for path in sorted(LIBRARY.rglob("*.py"))
        if path != LIBRARY / "__init__.py"
    }


def imported(tree, known):
    """The modules of the library that a file imports anywhere, within functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "senet_lib":
            base = node.module.removeprefix("senet_lib").lstrip(".")
            for alias in node.names:
                whole = f"{base}.{alias.name}".lstrip(".")
                found.add(whole if whole in known else base)
    return found


def room(module):
    return module.split(".")[0]


def test_every_room_is_known():
    assert {room(module) for module in modules()} == set(ROOMS)


def test_imports_point_one_way():
    trees = modules()
    for module, tree in trees.items():
        above = {other for other in imported(tree, trees) if ROOMS.index(room(other)) > ROOMS.index(room(module))}
        assert not above, f"{module} imports {above}"


def test_no_imports_in_a_circle():
    trees = modules()
    left = {module: imported(tree, trees) - {module} for module, tree in trees.items()}
    packages = {room(module) for module in trees if "." in module}
    for module in left:  # a file may use what its own package's __init__ hands out only by its own name
        left[module] = {other for other in left[module] if not (other in packages and room(module) == other)}
    while free := [module for module, needs in left.items() if not needs & left.keys()]:
        for module in free:
            del left[module]
    assert not left, f"in a circle: {sorted(left)}"


def test_models_and_data_do_not_know_one_another():
    trees = modules()
    for module, tree in trees.items():
        if room(module) in ("models", "data"):
            assert not {room(other) for other in imported(tree, trees)} & ({"models", "data"} - {room(module)}), module


def test_training_does_not_name_se_or_sk():
    for path in (LIBRARY / "training").glob("*.py"):
        text = path.read_text()
        assert not any(word in text for word in ("SqueezeExcitation", "SelectiveKernel", "sk_resnet", "se_resnet")), (
            path
        )


def test_what_reads_results_imports_no_torch():
    for module, tree in modules().items():
        if room(module) in WITHOUT_TORCH:
            names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
            names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            assert not {name for name in names if name and name.split(".")[0] == "torch"}, module


def test_no_file_holds_several_ideas():
    for path in LIBRARY.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= MOST_LINES, path
