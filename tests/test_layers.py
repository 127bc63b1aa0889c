"""Imports point down: the source is parsed, imports inside functions included."""

import ast
import sys
from pathlib import Path

import pytest

import diffjax

ROOT = Path(diffjax.__file__).parent

# From the ground up; a part may import its own files and any layer below. grids are made of schedules.
CORE = [
    {"types", "host", "activity"},
    {"members", "gumbel", "codecs", "quantise", "verbs"},
    {"method", "roots", "operators"},
    {"tabulated", "spectral"},
    {"schedules", "calculus", "divergence"},
    {"calibrated"},
    {"grids", "clock"},
    {"chains"},
    {"processes", "analytic", "denoisers"},
    {"couplings"},
    {"losses", "samplers"},
    {"likelihood", "theory"},
    {"methods", "editing"},
]
# Beside the tower: know the ground and nothing else of the library, and nothing but the commands knows them.
LEAVES = {
    "across",
    "alike",
    "allocator",
    "bounds",
    "checkpoint",
    "cluster",
    "collectives",
    "comparison",
    "checksum",
    "records",
    "resume",
    "roofline",
    "config",
    "constants",
    "data",
    "derived",
    "diagnosis",
    "draws",
    "ema",
    "disk",
    "ending",
    "environment",
    "exports",
    "finetune",
    "identity",
    "folders",
    "ledger",
    "lock",
    "logs",
    "metrics",
    "models",
    "moving",
    "notebook",
    "optimizers",
    "page",
    "parallel",
    "peers",
    "pods",
    "pickles",
    "players",
    "profiling",
    "plots",
    "previews",
    "programs",
    "rendezvous",
    "replay",
    "screen",
    "sharding",
    "side_files",
    "signals",
    "slices",
    "snapshots",
    "specs",
    "summary",
    "standalone",
    "strict",
    "topology",
    "torch_files",
    "training",
    "weights",
    "writer",
}
NEIGHBOURS = {
    "training": {"across", "constants", "ema", "method", "players", "strict"},
    "across": {"constants", "method"},
    "strict": {"across", "alike", "method", "parallel"},
    "parallel": {"alike", "allocator", "moving", "sharding"},
    "players": {"method"},
    "checkpoint": {"checksum", "disk", "folders", "records", "writer"},
    "cluster": {"peers", "pods", "rendezvous"},
    "comparison": {"plots", "metrics"},
    "config": {"specs"},
    "derived": {"specs"},
    "diagnosis": {"bounds"},
    "draws": {"method", "parallel"},
    "ending": {"peers"},
    "folders": {"disk"},
    "records": {"checksum"},
    "profiling": {"disk"},
    "previews": {"data", "method", "metrics", "notebook", "plots"},
    "rendezvous": {"peers"},
    "replay": {"config", "data", "method", "parallel", "players", "training"},
    "resume": {"config", "disk"},
    "ledger": {"disk", "environment", "logs"},
    "snapshots": {"config", "disk", "ema", "members"},
    "logs": {"config", "disk", "notebook"},
    "data": {"codecs", "disk", "members", "method", "metrics", "pickles", "specs"},
    "finetune": {"specs"},
    "exports": {"config", "data", "disk", "environment", "weights"},
    "roofline": {"collectives", "topology"},
    "side_files": {"weights"},
    "slices": {"method", "models", "parallel", "roofline", "sharding", "strict", "topology", "training"},
    "standalone": {"data", "disk", "method", "specs"},
    "torch_files": {"pickles"},
    "weights": {"disk"},
    "metrics": {"disk", "members", "method", "specs", "torch_files"},
    "page": {"disk"},
    "summary": {"data", "disk", "environment", "ledger", "method"},
}  # parts of one thing, in two files
LOOKS_UP = {
    "data/latents.py": {"open"},
    "data/coordinate.py": {"open"},
    "metrics/features.py": {"open"},
}  # by the library's public face: data and features that a run has made
TOP = [{"runs"}, {"commands", "pretrained", "published", "sweeps"}, {"main"}]

LIBRARIES = {"jax", "numpy", "optax"}  # what core and training may import at module level; flax is for models
COMPUTING = [
    *CORE,
    {"training", "across", "strict", "constants", "players", "ema", "parallel", "sharding", "moving", "optimizers"},
    {"checksum", "models"},
]


def allowed(part):
    """The parts of the library that a part may import."""
    below = set()
    for layer in CORE:
        if part in layer:
            return below | {part}
        below |= layer
    if part in LEAVES:
        return {"types", "host", "activity", part} | NEIGHBOURS.get(part, set())
    for layer in TOP:
        below |= LEAVES | layer
        if part in layer:
            return below
    raise AssertionError(f"diffjax.{part} has no layer: give it one in this test, and in the design.")


def sources():
    return [
        (p.relative_to(ROOT).with_suffix("").parts[0], p)
        for p in sorted(ROOT.rglob("*.py"))
        if p.parent != ROOT or p.name != "__init__.py"
    ]


def imports(tree):
    """Absolute dotted names of everything that is imported anywhere below an AST node."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts(tree):
    return {name.split(".")[1] for name in imports(tree) if name.startswith("diffjax.")}


def public_names(tree):
    """What is taken from `diffjax` itself, whose names are imported when they are first used."""
    of = (n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name))
    return {n.attr for n in of if n.value.id == "diffjax" and not n.attr.startswith("__")}


@pytest.mark.parametrize(("part", "path"), sources(), ids=lambda v: v if isinstance(v, str) else v.stem)
def test_imports_point_down(part, path):
    tree, name = ast.parse(path.read_text()), path.relative_to(ROOT).as_posix()
    above = parts(tree) - allowed(part)
    assert not above, f"{name} imports {sorted(above)}; it may import {sorted(allowed(part))}"
    assert public_names(tree) == LOOKS_UP.get(name, set())


def module_level(tree):
    """The statements that run on import: not the bodies of functions."""
    skipped = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.Lambda) for n in ast.walk(f)}
    body = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom) and id(n) not in skipped]
    return ast.Module(body, [])


@pytest.mark.parametrize(
    ("part", "path"),
    [(part, path) for part, path in sources() if part in set().union(*COMPUTING)],
    ids=lambda v: v if isinstance(v, str) else v.stem,
)
def test_the_core_imports_with_jax_and_optax_alone(part, path):
    libraries = LIBRARIES | {"diffjax"} | ({"flax"} if part == "models" else set())
    roots = {name.split(".")[0] for name in imports(module_level(ast.parse(path.read_text())))}
    foreign = roots - libraries - set(sys.stdlib_module_names)
    assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)} at module level"


def test_tensorflow_is_imported_nowhere():
    for _, path in sources():
        assert not {n for n in imports(ast.parse(path.read_text())) if n.split(".")[0] in ("tensorflow", "torch")}


def test_the_check_sees_what_it_forbids():
    """Every form of import, also inside functions and classes."""
    text = "import diffjax.commands\nfrom diffjax import losses, main as m\ndef f():\n    from diffjax.data.x import y"
    assert parts(ast.parse(text)) == {"commands", "losses", "main", "data"}
    looks = "import diffjax\ndef f():\n    return diffjax.runs.open(diffjax.__version__)"
    assert public_names(ast.parse(looks)) == {"runs"}
    assert "samplers" not in allowed("losses")
    assert "models" not in allowed("samplers")
    assert "schedules" not in allowed("models")
    assert {"models", "samplers", "config"} <= allowed("commands")
    assert "runs" not in allowed("methods")
    assert "commands" not in allowed("runs") | allowed("data") | allowed("samplers")
    lazy = (
        "import jax\nclass A:\n    import optax\n    def f(self):\n        import sklearn\nif True:\n    import scipy"
    )
    assert set(imports(module_level(ast.parse(lazy)))) == {"jax", "optax", "scipy"}
    with pytest.raises(AssertionError, match="no layer"):
        allowed("utils")
