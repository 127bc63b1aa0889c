"""Configs: a Python file with a table VARIANTS, typed overrides, and `build`, which turns specs into objects.

What specs are and how they are built is said in `diffjax.specs`.
"""

import ast
import copy
import importlib.util
import json
import os
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict, config_dict

from diffjax.host import MOST_SAMPLES, is_decimal
from diffjax.host import nearest as nearest
from diffjax.specs import DERIVED, NAMING, number
from diffjax.specs import ConfigError as ConfigError
from diffjax.specs import build as build
from diffjax.specs import check_trusted as check_trusted
from diffjax.specs import is_own as is_own
from diffjax.specs import is_spec as is_spec
from diffjax.specs import later as later
from diffjax.specs import maker as maker
from diffjax.specs import member as member
from diffjax.specs import named as named
from diffjax.specs import one_line as one_line
from diffjax.specs import own_members as own_members
from diffjax.specs import spec as spec
from diffjax.specs import trust as trust

Config = Any  # an ml_collections.ConfigDict: its fields have no static types


def recipe() -> ConfigDict:
    """Makes an empty config, to be filled: its groups of plain fields are there; what is not said has its default."""
    return ConfigDict({group: ConfigDict() for group in ("learning_rate", "train", "sample", "checkpoint", "eval")})


def filled(config: Config, default: Config, loose: Iterable[str] = ()) -> Config:
    """Makes the config with defaults where a group, or a field of an unnamed group, is not there.

    Args:
        default: every group that may be there, and every field of those that are no specs.
        loose: groups that may be absent from `default`, or hold more fields than there.

    Raises:
        ConfigError: for a group or a field that is not in `default` (the nearest is named), or has another type.
    """
    whole = copy.deepcopy(config)
    for group, own in config.items():
        wanted = default.get(group)
        if group not in default and group not in loose:
            raise ConfigError(f"The config has a group {group!r} that nobody reads: {nearest(group, default)}.")
        if not isinstance(wanted, ConfigDict):
            if group in default:
                _check_type(group, own, default.get_type(group), wanted)
            continue
        if isinstance(own, str | int | float | list | tuple | None):  # any other object is taken as it is
            raise ConfigError(f"The group {group} is {own!r}, expected fields: {dict(wanted)}.")
        if "name" not in wanted:
            _check_fields(group, own, wanted, group in loose)
    with whole.unlocked():
        for group, wanted in default.items():
            if group not in whole:
                whole[group] = copy.deepcopy(wanted)
            elif isinstance(wanted, ConfigDict) and "name" not in wanted:
                whole[group].update({field: value for field, value in wanted.items() if field not in whole[group]})
    return whole


def _check_fields(group: str, own: Config, wanted: Config, loose: bool) -> None:
    for field, value in own.items():
        if field not in wanted:
            if not loose:
                _no_field(f"{group}.{field}", wanted, field, [group])
            continue
        _check_type(f"{group}.{field}", value, wanted.get_type(field), wanted[field])


def _check_type(field: str, value: Any, kind: type, such: Any) -> None:
    fits = isinstance(value, kind | int if kind is float else kind) and isinstance(value, bool) == (kind is bool)
    if value is not None and not fits and not (kind is tuple and isinstance(value, list)):
        raise ConfigError(f"{field} is {value!r}, expected {_describe(kind)}, such as {such!r}.")


def find(path: str) -> Path:
    """Finds the config file: in the working directory if it is there, else the one that ships with the package.

    Raises:
        ConfigError: if there is neither; the shipped ones are named.
    """
    package = Path(__file__).parent
    shipped = [package / "configs", package.parent / "configs"]  # in a wheel; in a checkout
    ours = [folder / Path(path).name for folder in shipped if Path(path).parent == Path("configs")]
    for candidate in [Path(path), *ours]:
        if os.path.isfile(candidate):  # False, too, for a name that no file can have
            return candidate
    names = [f"configs/{p.name}" for folder in shipped for p in folder.glob("*.py") if p.name != "__init__.py"]
    raise ConfigError(f"There is no config file {path!r}: {nearest(path, set(names))}.")


def load(
    path: str, overrides: Iterable[str] = (), complete: Callable[[Config], Config] = lambda config: config
) -> Config:
    """Reads "file.py" or "file.py:variant", with overrides "a.b=value" applied, locked.

    A config file has a table VARIANTS of functions that make one, the first of them the default; or a function
    `get_config(variant)`.

    Args:
        complete: what fills in the fields that the file leaves out, before the overrides.

    Raises:
        ConfigError: for a missing file, an unknown variant, an unknown field (the nearest is named) or a wrong type.
    """
    name, _, variant = path.partition(":")
    file = find(name)
    config = _made(file, variant or None)
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"get_config of {file} returned {type(config).__name__}, expected an ml_collections.ConfigDict."
        )
    config = complete(config)
    with config.unlocked():
        config.name = file.stem + (f"-{variant}" if variant else "")
    made = overridden(config, overrides)
    trust(filter(is_own, own_members(made)))
    return made


def overridden(config: Config, overrides: Iterable[str]) -> Config:
    """Applies overrides "a.b=value" to a config in place, names first, which reset their options; gives it, locked."""
    config.lock()
    overrides = trusted(overrides)
    for text in sorted(overrides, key=lambda text: ".name=" not in text):
        override(config, text)
    return config


def trusted(overrides: Iterable[str]) -> list[str]:
    """Trusts the code that overrides name, model.name=mypkg.nets:Mine, since somebody has typed them; lists them."""
    overrides = list(overrides)
    typed = [text.partition("=")[2] for text in overrides if text.partition("=")[0].rpartition(".")[2] in NAMING]
    trust(name for name in typed if is_own(name))
    return overrides


def _made(file: Path, variant: str | None) -> Any:
    """Runs a config file; what is wrong with the program is one line, with the place in it."""
    try:
        module = _module(file)
        if hasattr(module, "get_config"):
            return module.get_config(variant)
        if not hasattr(module, "VARIANTS"):
            raise ConfigError(f"{file} has no get_config(variant) function, and no table VARIANTS of functions.")
        if not isinstance(module.VARIANTS, Mapping) or not module.VARIANTS:
            raise ConfigError(f"{file}: VARIANTS is {module.VARIANTS!r}, expected a table: name -> function.")
        return variant_of(variant, module.VARIANTS)()
    except ConfigError:
        raise
    except Exception as error:
        own, frames = os.path.abspath(file), traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if os.path.abspath(frame.filename) == own]
        at = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = str(file) if at is None else f"{file}, line {at}"
        raise ConfigError(f"{where}: {type(error).__name__}: {error}.") from error


def beside(file: str, name: str) -> ModuleType:
    """Loads another config file as a module, for recipes to start from: `beside(__file__, "vpsde.py").digits()`.

    Args:
        file: of the config that asks; its neighbour is taken, else the one that ships with the package.

    Raises:
        ConfigError: if there is neither.
    """
    neighbour = Path(file).with_name(name)
    return _module(neighbour if neighbour.is_file() else find(f"configs/{name}"))


def _module(file: Path) -> ModuleType:
    """A Python file, run: a fresh module each time, so that nobody shares a recipe."""
    spec = importlib.util.spec_from_file_location(f"diffjax_config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file} is no Python file; a config's name ends in .py, such as configs/vpsde.py.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def variant_of(variant: str | None, variants: Mapping[str, Any]) -> Any:
    """Finds the entry of a config file's table of variants; None is the first.

    Raises:
        ConfigError: naming the variants.
    """
    if variant is None:
        return next(iter(variants.values()))
    if variant not in variants:
        raise ConfigError(f"The config has no variant {variant!r}: {nearest(variant, variants)}.")
    return variants[variant]


def override(config: Config, text: str) -> None:
    """Applies "a.b=value" in place: the field must exist, and the value is read as the field's type.

    A field that is None takes any value; a tuple is written (1, 2) or 1,2. Inside a spec (a group with a `name`) an
    option may be new, and may be None: `build` holds it against what the named constructor takes. A new `name` drops
    the options that belonged to the old one.

    Raises:
        ConfigError: in one line, with the nearest field or the expected type.
    """
    path, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"The override {text!r} has no value, expected field=value.")
    *parents, leaf = path.split(".")
    group: Any = config
    for i, part in enumerate(parents):
        if part not in group or not isinstance(group[part], ConfigDict):
            _no_field(path, group, part, parents[:i])
        group = group[part]
    is_spec = "name" in group and group is not config
    if leaf not in group and not is_spec:
        _no_field(path, group, leaf, parents)
    if isinstance(group.get(leaf), ConfigDict):
        raise ConfigError(f"{path!r} is a group of fields; {nearest('', group[leaf])}: set one of them.")
    parsed = _parse(path, value, group, leaf, is_spec)
    with group.unlocked():
        if is_spec and leaf == "name" and parsed != group.name:
            for key in [k for k in group if k != "name"]:
                del group[key]
        with group.ignore_type():
            group[leaf] = parsed


def dropped(before: Config, after: Config) -> list[str]:
    """Lists, a line for each group that another name was given, the options of the old name that went with it."""
    lines = []
    for name, old in before.items():
        new = after.get(name)
        if not is_spec(old) or not is_spec(new) or old.name == new.name:
            continue
        gone = [f"{key}={value}" for key, value in old.items() if key not in new]
        if gone:
            lines.append(f"{name}.name={new.name} leaves the recipe's options of {old.name} out: {', '.join(gone)}")
    return lines


def _no_field(path: str, group: Config, part: str, parents: list[str]) -> None:
    where = f"config.{'.'.join(parents)}" if parents else "the config"
    raise ConfigError(f"There is no field {path!r}: {part!r} is not in {where}; {nearest(part, group)}.")


def _parse(path: str, text: str, group: Any, leaf: str, is_spec: bool) -> Any:
    kind, present = (group.get_type(leaf), group[leaf]) if leaf in group else (type(None), None)
    if text == "None" and (is_spec or present is None) and leaf != "name":
        return None
    if kind is str:
        return text if present != DERIVED else _literal(text)
    if text == DERIVED and is_spec and kind in (tuple, list, int):  # `derived` holds it against the network
        return DERIVED
    if kind is float:
        return number(f"{path!r} got", text, present)
    value = _literal(text)
    if kind in (tuple, list):
        value = tuple(value) if isinstance(value, tuple | list) else (value,)
        first = next(iter(present or ()), None)
        if any(first is not None and type(v) is not type(first) for v in value):
            raise ConfigError(f"{path!r} got {text!r}, expected a tuple of {type(first).__name__}, such as {present}.")
    elif kind not in (type(None), object) and type(value) is not kind:
        raise ConfigError(f"{path!r} got {text!r}, expected {_describe(kind)}, such as {present!r}.")
    return value


def _describe(kind: type) -> str:
    return {int: "an integer", float: "a number", bool: "true or false", str: "text"}.get(kind, f"a {kind.__name__}")


def _literal(text: str) -> Any:
    if text.lower() in ("true", "false"):  # also of an option that a recipe leaves out, whose type nobody has said
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def options(texts: Iterable[str]) -> dict[str, Any]:
    """Reads options "name=value", each a literal of Python or else a text."""
    pairs = [text.partition("=") for text in texts]
    if bare := [name for name, equals, _ in pairs if not equals]:
        raise ConfigError(f"The option {bare[0]!r} has no value, expected {bare[0]}=value.")
    return {name: _literal(value) for name, _, value in pairs}


def to_json(config: Config) -> str:
    """Writes the resolved config as JSON text; tuples become lists and come back as tuples."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True)


def from_json(text: str, name: str = "The text") -> Config:
    """Reads the config that `to_json` wrote, locked; `name` is what an error calls it."""
    try:
        return ConfigDict(_tuples(json.loads(text))).lock()
    except (ValueError, AttributeError, TypeError) as error:  # a key with a dot; one that Python keeps
        raise ConfigError(f"{name} is no config: {error}") from error


def flat(config: Config) -> dict[str, Any]:
    """Makes a flat table of a config's fields, "train.steps" -> value, as JSON has them."""
    return _flatten(json.loads(to_json(config)))


def differences(a: Config, b: Config) -> list[str]:
    """Lists 'field: value of a -> value of b' for every field that differs."""
    flat_a, flat_b = flat(a), flat(b)
    pairs = [(k, flat_a.get(k, "absent"), flat_b.get(k, "absent")) for k in sorted(flat_a.keys() | flat_b.keys())]
    return [f"{k}: {old} -> {new}" for k, old, new in pairs if old != new]


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {k: v for key, sub in tree.items() for k, v in _flatten(sub, f"{prefix}{key}.").items()}


placeholder = config_dict.placeholder  # a field that is None until it is set: placeholder(int)


def parse_seeds(text: str) -> list[int]:
    """Reads seeds: '0-3,7' -> [0, 1, 2, 3, 7].

    Raises:
        ConfigError: for anything else, an empty range, a seed outside [0, 2^32), or more than MOST_SAMPLES.
    """
    seeds: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not is_decimal(low) or (dash and not is_decimal(high)) or (dash and int(high) < int(low)):
            raise ConfigError(f"seeds {text!r}: cannot read {part!r}, expected numbers and ranges: 0-63 or 1,5,10-12.")
        last = int(high or low)
        if last >= 2**32:
            raise ConfigError(f"seeds {text!r}: {last} is too large, expected less than 2^32.")
        if len(seeds) + last - int(low) >= MOST_SAMPLES:
            raise ConfigError(f"seeds {text!r}: more than {MOST_SAMPLES} at once; ask for them in parts.")
        seeds += range(int(low), last + 1)
    return seeds
