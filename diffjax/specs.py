"""Specs: dictionaries whose "name" is looked up in a package's own namespace. The package IS the registry.

    build(samplers, {"name": "ancestral.ddim", "eta": 1.0}, schedule) == samplers.ancestral.ddim(schedule, eta=1.0)

The module may be left out where one member alone has the name ("ddim"), the member where it is the module's only one
("heun", for "heun.edm"). A member of one's own is named by its path, {"name": "mypkg.nets:Mine", "width": 64}: code
that is imported and called, and so only on the word of whoever runs this process (`trust`), never on that of a file.
"""

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from diffjax import host
from diffjax.host import nearest as nearest

NAMING = ("name", "of")  # fields of a spec whose text may be the path of a member of one's own
DERIVED = "data"  # the value of an option that the data decides (`diffjax.derived`)


class ConfigError(ValueError):
    """Something the user wrote cannot be used; the message is one line for the terminal, whatever it quotes."""

    def __init__(self, message: str):
        super().__init__(host.one_line(message))


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Makes a ConfigError of a ValueError in a `with` block, or of a file that is not there: the user gave it."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error


def spec(name: str, **options: Any) -> ConfigDict:
    """Makes a group of a config that names a constructor and its options: spec("VP", beta_min=0.1)."""
    return ConfigDict(dict(name=name, **options))


def named(what: Any) -> Any:
    """Makes a spec of a name alone; a spec stays as it is."""
    return spec(what) if isinstance(what, str) else what


def is_spec(value: Any) -> bool:
    """Tells a spec, a dictionary with a "name", from an object."""
    return hasattr(value, "keys") and isinstance(value.get("name"), str)


def build(namespace: Any, spec: Mapping[str, Any], *args: Any) -> Any:
    """Calls the member of `namespace` that the spec names, with `args` and the spec's other entries as keywords.

    Raises: as `maker`; and ConfigError for a value of a type that the member cannot take.
    """
    make = maker(namespace, spec, len(args))
    try:
        return make(*args)
    except TypeError as error:
        raise ConfigError(f"{spec['name']} cannot be made of {make.keywords}: {error}.") from error


def maker(namespace: Any, spec: Mapping[str, Any], count: int) -> functools.partial:
    """Finds the member of `namespace` that the spec names, to be called with `count` arguments later.

    The words are looked at here, once; the result is a `functools.partial` that no longer knows of a config.

    Raises:
        ConfigError: if there is no such member, or it does not take these keywords; the alternatives are named.
    """
    title, make, path, keywords = member(namespace, spec)
    parameters = inspect.signature(make).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for key in keywords:
        if key in list(parameters)[:count] or (key not in parameters and not takes_any):
            own = [p for p in list(parameters)[count:] if p != "self"]
            raise ConfigError(f"{title}.{path} has no option {key!r}: {nearest(key, own)}.")
    for key, value in keywords.items():
        default = parameters[key].default if key in parameters else None
        if isinstance(value, str) and isinstance(default, int | float) and not isinstance(default, bool):
            keywords[key] = number(f"{title}.{path}: {key} is", value, default)
        if isinstance(value, str) and isinstance(default, bool):  # any text would count as true
            raise ConfigError(f"{title}.{path}: {key} is {value!r}, expected true or false.")
    given = {*list(parameters)[:count], *keywords}
    _note(spec, make, count)  # better than `member`, which does not know what it is called with
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    missing = [k for k, p in parameters.items() if p.kind in named and p.default is p.empty and k not in given]
    if missing:
        raise ConfigError(f"{title}.{path} also needs {', '.join(missing)}: {_way_on(spec, missing, count)}.")
    made = functools.partial(make, **keywords)
    made.spec = {**spec, "name": path}  # pyright: ignore[reportAttributeAccessIssue] (the words that it was made of, for reports)
    return made


def later(namespace: Any, spec: Mapping[str, Any], count: int) -> functools.partial | None:
    """Finds the member that a spec names, as `maker`; None where its name is None: a method makes that part itself.

    Raises:
        ConfigError: as `maker`; for options beside a name that is None.
    """
    if hasattr(spec, "keys") and spec.get("name", "") is None:
        if options := sorted(set(spec) - {"name"}):
            title = getattr(namespace, "__name__", "").removeprefix("diffjax.")
            raise ConfigError(
                f"{options[0]} = {spec[options[0]]!r} is an option of {title}, but none is named, and the method makes "
                f"its own: name one of them beside it; {nearest('', _public(namespace))}."
            )
        return None
    return maker(namespace, spec, count)


def _way_on(spec: Mapping[str, Any], missing: list[str], count: int) -> str:
    """Says where options come from that have no default; those of another name are gone with it."""
    if is_own(str(spec["name"])):
        told = f"with {count} arguments and its options" if count else "with its options"
        return f"a name stands for what makes the part, and is called {told}, so give {missing[0]}=... beside it"
    return f"give {missing[0]}=... beside the name, as one of its own options, or take a recipe that has it"


def member(namespace: Any, spec: Mapping[str, Any]) -> tuple[str, Callable, str, dict[str, Any]]:
    """Finds what a spec names: (title of the namespace, the member, its path, the spec's other entries).

    Raises:
        ConfigError: if there is no such member; the alternatives are named.
    """
    title = getattr(namespace, "__name__", type(namespace).__name__).removeprefix("diffjax.")
    if not hasattr(spec, "keys"):
        raise ConfigError(f"Got {spec!r} where {title} needs a spec, expected a 'name' and options.")
    keywords = dict(spec)
    if "name" not in keywords:
        raise ConfigError(
            f"A spec for {title} needs a 'name'; got {dict(spec)}; {title}: {nearest('', _public(namespace))}."
        )
    if ":" in str(keywords["name"]):
        try:
            return *host.imported(str(keywords.pop("name"))), keywords
        except ValueError as error:
            raise ConfigError(str(error)) from error
    path, make = in_full(namespace, str(keywords.pop("name"))), namespace
    for part in path.split("."):
        if part.startswith("_") or part not in _public(make):
            owner = getattr(make, "__name__", title).removeprefix("diffjax.")
            raise ConfigError(f"{owner} has no {path!r}: {nearest(part, _paths(make))}.")
        make = getattr(make, part)
    if not callable(make):
        raise ConfigError(f"{title}.{path} is a module, name one of its members: {nearest('', _public(make))}.")
    _note(spec, make, 0)
    return title, make, path, keywords


_BOOKS: list[list[tuple[dict[str, Any], dict[str, Any]]]] = []  # of `noted`


@contextlib.contextmanager
def noted() -> Iterator[list[tuple[dict[str, Any], dict[str, Any]]]]:
    """Notes what is built in a `with` block: (the spec, the options that it leaves out with their defaults)."""
    book: list[tuple[dict[str, Any], dict[str, Any]]] = []
    _BOOKS.append(book)
    try:
        yield book
    finally:
        _BOOKS.remove(book)


def _note(spec: Mapping[str, Any], make: Callable, count: int) -> None:
    options = list(inspect.signature(make).parameters.values())[count:] if _BOOKS else []
    told = {option.name: option.default for option in options if option.name not in spec and is_plain(option.default)}
    for book in _BOOKS:
        book.append((dict(spec), told))


def is_plain(value: Any) -> bool:
    """Tells what a command line can say (a number, a text, true, none, a tuple of these) from an object."""
    if isinstance(value, tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def unsaid(config: Mapping[str, Any], book: Iterable[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, str]:
    """Writes for each group of a config, by name, the options that it leaves out, with their defaults.

    Args:
        book: of `noted`, when the config was built.
    """
    told, specs = {}, {group: dict(config[group]) for group in config if is_spec(config[group])}
    for group, own in specs.items():
        options = [left for spec, left in book if spec == own]  # of the last: it was called
        told[group] = ", ".join(f"{name}={value}" for name, value in (options or [{}])[-1].items())
    return {group: text for group, text in told.items() if text}


_TRUSTED: set[str] = set()


def trust(names: str | Iterable[str]) -> None:
    """Trusts code named by whoever runs this process: "package.module:Member", or all in "package.module" or "package".

    Raises:
        ConfigError: for a name of another form.
    """
    for name in names if isinstance(names, Iterable) and not isinstance(names, str) else [names]:
        text = os.fspath(name) if isinstance(name, os.PathLike) else name
        if isinstance(text, str) and (isinstance(name, os.PathLike) or os.sep in text or text.endswith(".py")):
            module = os.path.basename(text).removesuffix(".py")
            raise ConfigError(
                f"Got the path {text!r} to trust, expected the name that code is imported by: {module!r}, with the "
                "folder it lies in on PYTHONPATH."
            )
        if not isinstance(text, str) or not (is_own(text) or is_own(f"{text}:x")):
            raise ConfigError(f"Got {text!r} to trust, expected package.module or package.module:Member.")
        _TRUSTED.add(text)


def is_own(name: str) -> bool:
    """Tells a name of somebody's own member, "package.module:Member", from any other text."""
    module, colon, member = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *member.split(".")))


def check_trusted(config: Mapping[str, Any], source: str) -> None:
    """Refuses a config, read from a file, that names somebody's own code which is not trusted.

    Raises:
        ConfigError: naming it, and how to trust it.
    """
    for name in own_members(config):
        module = name.partition(":")[0]
        if name not in _TRUSTED and not any(module == one or module.startswith(f"{one}.") for one in _TRUSTED):
            raise ConfigError(
                f"{source} names code to be imported and called, {name[:80]}; if you know it, say --trust={module}, "
                f"or in Python diffjax.trust({module!r})."
            )


def own_members(config: Any) -> Iterator[str]:
    """Lists somebody's own members that a config names, in all its groups."""
    if hasattr(config, "keys"):
        yield from (config[key] for key in NAMING if isinstance(config.get(key), str) and ":" in config[key])
        for key in config:
            yield from own_members(config[key])


def in_full(namespace: Any, name: str) -> str:
    """Completes a name that leaves out its module, or the only member of one; any other stays as it is.

    Raises:
        ConfigError: where several modules have such a member; they are named.
    """
    public = _public(namespace)
    if name in public:
        only = _public(getattr(namespace, name)) if isinstance(getattr(namespace, name), ModuleType) else []
        return f"{name}.{only[0]}" if len(only) == 1 else name
    found = [path for path in _paths(namespace) if path.rpartition(".")[2] == name]
    if len(found) > 1:
        raise ConfigError(f"{name!r} may be any of {', '.join(found)}: give one of them.")
    return found[0] if found else name


def _public(namespace: Any) -> list[str]:
    """The names a spec may use: __all__ where there is one, else what the module defines itself."""
    if isinstance(namespace, ModuleType):
        if hasattr(namespace, "__all__"):
            return list(namespace.__all__)
        defined_here = lambda v: getattr(v, "__module__", None) == namespace.__name__ and callable(v)
        return [n for n, v in vars(namespace).items() if not n.startswith("_") and defined_here(v)]
    return [n for n in vars(namespace) if not n.startswith("_") and callable(getattr(namespace, n))]


def _paths(namespace: Any) -> list[str]:
    """The names a spec may use, each module among them replaced by its members."""
    inner = lambda n: [f"{n}.{m}" for m in _public(getattr(namespace, n))]
    return [p for n in _public(namespace) for p in (inner(n) if isinstance(getattr(namespace, n), ModuleType) else [n])]


def number(what: str, text: str, such: Any) -> float:
    """Reads a number from a text; a ConfigError begins with `what`."""
    try:
        return float(text)  # inf and 1e-3 too
    except ValueError:
        raise ConfigError(f"{what} {text!r}, expected a number, such as {such!r}.") from None
