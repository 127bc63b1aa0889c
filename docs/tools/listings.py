"""Reads the code that pages show, and finds what is wrong with it without running it.

Shell commands are read by the parser of the command that they call; Python is compiled, and its names and keywords of
diffjax are looked up.
"""

import ast
import contextlib
import importlib
import inspect
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def code(text: str) -> str:
    """Takes the comments off code: what stands behind a '#' at a line's start or after two spaces or more."""
    return re.sub(r"(?:^|[ \t]{2,}|(?<=\n))#.*", "", text)


def commands(text: str) -> list[str]:
    """Gives the commands of a shell block, each on one line, without comments."""
    lines = [re.sub(r"(?:^|\s)#\s.*", "", line).strip() for line in text.replace("\\\n", " ").splitlines()]
    return [" ".join(line.split()) for line in lines if line]


def wrong(blocks: list[tuple[str, str]], root: Path = ROOT) -> Iterator[str]:
    """Finds what is wrong with the fenced blocks (language, text): one line each. It imports jax."""
    for language, text in blocks:
        if language == "bash":
            for line in commands(text):
                yield from (f"command `{line}`: {what}" for what in wrong_shell(line, root))
        elif language == "python":
            yield from wrong_python(text)
        else:
            yield f"a block of {language or 'no language'}; it takes bash or python"


def wrong_shell(line: str, root: Path = ROOT) -> Iterator[str]:
    """Finds what is wrong with one shell command: only commands of this repository, read by their own parser."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        yield f"no shell reads it: {error}"
        return
    if words[:3] == ["python", "-m", "diffjax.pretrained"]:
        yield from _unknown_weights(words[3:])
    elif words[:2] == ["python", "-m"] and len(words) > 2 and words[2] in ("diffjax.main", "diffjax.sweeps"):
        yield from _refused(words[2], words[3:], root)
    elif words[:1] == ["python"] and len(words) > 1 and words[1].endswith(".py"):
        if not (root / words[1]).is_file():
            yield f"{words[1]} is not there"
    else:
        yield "it takes `python -m diffjax.main ...`, `python -m diffjax.sweeps ...` or `python FILE.py ...`"


def _unknown_weights(argv: list[str]) -> Iterator[str]:
    """Gives what the command of published weights says against its arguments, the file itself left out."""
    from diffjax.config import ConfigError
    from diffjax.pretrained import __main__ as command
    from diffjax.pretrained import folder

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            flags, overrides = command.parse(argv)
        if flags.name is not None:
            folder.config_of(flags.name, overrides)
    except SystemExit:
        yield said.getvalue().strip()
    except ConfigError as error:
        yield str(error)


def _refused(module: str, argv: list[str], root: Path) -> Iterator[str]:
    """Gives what the parser of a command, and the config that it names, say against its arguments."""

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parser = importlib.import_module("diffjax.main" if module == "diffjax.main" else "diffjax.sweeps.__main__")
            flags, overrides = parser.parse(argv)
    except SystemExit:
        yield said.getvalue().strip()
        return
    if module == "diffjax.sweeps":
        yield from (f"{name} is not there" for name in (flags.sweep,) if not (root / name).is_file())
    elif not flags.config and not flags.workdir:
        yield "it has neither --config nor --workdir"
    if module == "diffjax.main":
        yield from _unbuilt(flags, overrides, root)


def _unbuilt(flags: Any, overrides: list[str], root: Path) -> Iterator[str]:
    """Gives what a config says against the fields that a command sets: names are looked up, nothing is made.

    The config of a run that is not there is any of ours that has the fields.
    """
    from diffjax import runs
    from diffjax.commands.sample import as_overrides
    from diffjax.config import ConfigError

    ours = sorted((root / "configs").glob("[!_]*.py"), key=lambda path: (path.stem != "vpsde", path.stem))
    first = ""
    for config in [root / flags.config] if (flags.config or "").startswith("configs/") else ours:
        try:
            words = [word for word in as_overrides(flags.sampler, flags.nfe, overrides) if "runs/..." not in word]
            _look_up(runs.load(str(config), words), words)
            return
        except ConfigError as error:
            first = first or str(error)
    yield first


def _look_up(config: Any, words: list[str]) -> None:
    """Looks up the names and options of the groups that words such as "sampler.name=heun.edm" set."""
    from diffjax import (
        data,
        denoisers,
        grids,
        losses,
        methods,
        models,
        optimizers,
        processes,
        samplers,
        schedules,
        specs,
    )

    groups = {
        "data": (data, None),
        "denoiser": (denoisers.variance, 4),
        "grid": (grids, 1),
        "guidance": (denoisers.guidance, 3),
        "loss": (losses, 7),
        "method": (methods, None),
        "model": (models, None),
        "optimizer": (optimizers, None),
        "prepare": (losses.prepare, 1),
        "process": (processes, 1),
        "sampler": (samplers, 1),
        "schedule": (schedules, 0),
        "target": (denoisers, 0),
        "times": (losses.times, 1),
        "weight": (losses.weights, 0),
    }
    for group in dict.fromkeys(word.partition("=")[0].partition(".")[0] for word in words):
        namespace, count = groups.get(group, (None, None))
        if count is not None:
            specs.maker(namespace, config[group], count)
        elif namespace is not None and group != "optimizer":
            specs.member(namespace, config[group])


def wrong_python(text: str) -> Iterator[str]:
    """Finds what does not compile, and names and keywords of diffjax that are not there. It runs nothing."""

    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        yield f"its Python does not compile: {error}"
        return
    known: dict[str, object] = {}
    for node in ast.walk(tree):
        modules = [(a.name, a.asname) for a in node.names] if isinstance(node, ast.Import) else []
        for name, alias in modules:
            if name.split(".")[0] == "diffjax":
                module = importlib.import_module(name)
                known[alias or "diffjax"] = module if alias else importlib.import_module("diffjax")
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "diffjax":
            for a in node.names:
                try:
                    known[a.asname or a.name] = _member(importlib.import_module(str(node.module)), a.name)
                except (ImportError, AttributeError):
                    yield f"its Python imports {a.name} of {node.module}, which has none"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(getattr(node, "ctx", None), ast.Load):
            try:
                _resolved(node, known)
            except AttributeError as error:
                yield f"its Python names `{ast.unparse(node)}`: {error}"
        if isinstance(node, ast.Call):
            try:
                function = _resolved(node.func, known)
            except AttributeError:
                continue
            if function is not None and callable(function) and not any(isinstance(a, ast.Starred) for a in node.args):
                try:
                    words = {word.arg: None for word in node.keywords if word.arg}
                    inspect.signature(function).bind_partial(*[None] * len(node.args), **words)
                except TypeError as error:
                    yield f"its Python calls `{ast.unparse(node.func)}`: {error}"
                except ValueError:  # has no signature
                    pass


def _member(owner: object, name: str) -> object:
    """Gives a module's attribute, or its submodule."""

    try:
        return getattr(owner, name)
    except AttributeError:
        return importlib.import_module(f"{owner.__name__}.{name}")  # type: ignore[attr-defined]


def _resolved(node: ast.AST, known: dict[str, object]) -> object:
    """Follows a dotted name from what is known of diffjax, through modules and classes; None for any other name."""

    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute) and (owner := _resolved(node.value, known)) is not None:
        if inspect.ismodule(owner):
            try:
                return _member(owner, node.attr)
            except ImportError as error:
                raise AttributeError(str(error)) from error
        return getattr(owner, node.attr) if inspect.isclass(owner) else None
    return None


def is_number(text: str) -> bool:
    """Tells whether a text is a whole number of a length that an article's can have."""
    return text.isascii() and text.isdecimal() and len(text) <= 9
