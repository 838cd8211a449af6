"""Who may import whom, read from the syntax trees; nothing is run.

Arrows point down: edges -> studio -> use cases -> parts -> foundations. Heavy packages have one
owner each, so that a breaking release touches one file.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ttmpref"

# Lower number, lower layer; a module may import its own layer and those below.
LAYERS = (
    (
        "types", "protocols", "config", "assets", "differences", "audio", "truncation", "uploads",
        "metrics", "flow", "idle", "__init__",
    ),
    ("models", "encoders", "autoencoder", "separation", "loudness"),
    ("generator", "series", "reward", "postprocess", "evaluation", "study", "fetch", "probes"),
    ("studio",),
    ("doctor", "cli", "__main__", "ui"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
OWNERS = {
    "gradio": ("ui/",),
    "plotly": ("ui/",),
    "laion_clap": ("encoders/clap_laion.py",),
    "muq": ("encoders/muq.py",),
    "transformers": ("encoders/",),
    "tokenizers": ("encoders/",),
    "demucs": ("separation.py",),
    "pyloudnorm": ("loudness.py",),
    "soundfile": ("audio.py",),
    "sqlalchemy": ("study/store/",),
    "alembic": ("study/store/",),
    "fastapi": ("study/api.py", "study/app.py"),
    "typer": ("cli/", "study/cli.py", "fetch/cli.py"),
    "safetensors": ("assets.py",),
}
LIGHT = (
    "__init__.py", "types.py", "protocols.py", "config.py", "assets.py", "differences.py",
    "audio.py", "uploads.py", "loudness.py", "studio.py", "doctor.py",
    *sorted(f"cli/{path.name}" for path in (PACKAGE / "cli").glob("*.py")),
)  # fmt: skip


def sources(folder):
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


FILES = [path.relative_to(ROOT).as_posix() for path in sources(PACKAGE)]


def is_command_line(name):
    """Whether a file is part of the command line; whole groups of commands have their own."""
    return name.startswith("ttmpref/cli/") or name.endswith("/cli.py")


def tree_of(name):
    return ast.parse((ROOT / name).read_text(encoding="utf-8"), name)


def imports(nodes):
    """Dotted names of all modules imported below the given nodes."""
    for node in nodes:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Import):
                yield from (alias.name for alias in inner.names)
            elif isinstance(inner, ast.ImportFrom):
                module = "." * inner.level + (inner.module or "")
                yield module
                yield from (f"{module}.{alias.name}" for alias in inner.names)


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def run_time_nodes(tree):
    """Top-level statements but those for type checkers alone."""
    return [node for node in tree.body if not is_type_checking(node)]


def imported_on_load(tree):
    """Modules imported when the file itself is imported."""
    bodies = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return set(imports(node for node in run_time_nodes(tree) if not isinstance(node, bodies)))


@pytest.mark.parametrize("name", FILES)
def test_imports_point_down(name):
    own = "cli" if is_command_line(name) else name.split("/")[1].removesuffix(".py")
    assert own in LEVEL, f"{name}: give it a layer in this test"
    for module in imports(run_time_nodes(tree_of(name))):
        parts = module.split(".")
        assert parts[0] not in ("", "training", "app"), f"{name} imports {module}"
        if parts[0] == "ttmpref" and len(parts) > 1 and parts[1] in LEVEL:
            assert LEVEL[parts[1]] <= LEVEL[own], f"{name} imports {module}, which lies above it"


@pytest.mark.parametrize("name", FILES)
def test_every_heavy_package_has_one_owner(name):
    inside = name.removeprefix("ttmpref/")
    for module in imports([tree_of(name)]):
        owners = OWNERS.get(module.split(".")[0])
        if owners is not None:
            assert inside.startswith(owners), f"{name} imports {module}; only {owners} may"


def test_training_never_imports_the_app():
    for path in sources(ROOT / "training"):
        name = path.relative_to(ROOT).as_posix()
        for module in imports([tree_of(name)]):
            assert not module.startswith(("ttmpref.ui", "gradio", "app")), f"{name}: {module}"


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("ttmpref/ui/")])
def test_the_app_never_imports_torch_itself(name):
    assert not any(module.split(".")[0] == "torch" for module in imports([tree_of(name)]))


@pytest.mark.parametrize("inside", LIGHT)
def test_what_the_edges_load_first_does_not_load_torch(inside):
    heavy = {"torch", "transformers", "scipy", "gradio", "laion_clap", "demucs", "soundfile"}
    loaded = {module.split(".")[0] for module in imported_on_load(tree_of(f"ttmpref/{inside}"))}
    assert not loaded & heavy


@pytest.mark.parametrize("name", FILES)
def test_the_library_logs_and_only_the_command_line_prints(name):
    if is_command_line(name):
        return
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{name}:{node.lineno} prints"


@pytest.mark.parametrize("name", FILES)
def test_no_error_is_swallowed(name):
    """A handler for everything must raise, log or report what it caught."""
    for node in ast.walk(tree_of(name)):
        broad = isinstance(node, ast.ExceptHandler) and (
            node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
        )
        if broad:
            caught = node.name is not None and any(
                isinstance(inner, ast.Name) and inner.id == node.name
                for statement in node.body
                for inner in ast.walk(statement)
            )
            assert caught, f"{name}:{node.lineno} swallows every error"


@pytest.mark.parametrize("name", FILES)
def test_every_file_says_what_it_is(name):
    assert ast.get_docstring(tree_of(name)), f"{name} has no docstring"


SAFE_READER = "ttmpref/fetch/convert.py"


@pytest.mark.parametrize("name", FILES)
def test_nothing_unpickles_or_patches_torch(name):
    """But for one place, which reads published checkpoints and lets nothing but tensors in."""
    for node in ast.walk(tree_of(name)):
        text = ast.unparse(node) if isinstance(node, (ast.Attribute, ast.Import)) else ""
        assert "pickle" not in text, f"{name}:{node.lineno}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            safe = any(ast.unparse(keyword) == "weights_only=True" for keyword in node.keywords)
            assert safe and name == SAFE_READER, f"{name}:{node.lineno} calls torch.load"
