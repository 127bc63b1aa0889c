"""Options that the data decides: the word "data" in a config, and what is put in its place when a run is built.

    config.model = spec("UNet", channels=32, multipliers="data", attention="data", classes="data")

A network of `models` that offers this has `of_data(shape, classes)` -> options, and its `preset`, too, takes the word;
one that reads texts has a third parameter, `text`, (tokens, places) of those of the data, () without.
What a run has begun with stays: its config.json holds numbers, and a start that says "data" again goes on with those.
"""

import copy
import inspect
from collections.abc import Callable
from typing import Any

from diffjax import specs

WORD = specs.DERIVED
SOURCE = "data"  # the group that the data itself is named in: an array there may be called "data"


def fields(config: Any) -> list[tuple[str, str]]:
    """Lists (group, option) of the options of a config's specs that the data decides."""
    found = [(group, part) for group, part in config.items() if specs.is_spec(part) and group != SOURCE]
    return [(group, key) for group, part in found for key, value in part.items() if value == WORD and key != "name"]


def resolved(config: Any, namespace: Any, read: Callable[[], Any]) -> tuple[Any, Any]:
    """Gives the config with the data's options in place of the word, locked, and the data set, read for it.

    Without such a word it is the config itself, and None: nothing is read.

    Args:
        namespace: of the networks (`models`).
        read: () -> data set.

    Raises:
        ConfigError: for an option that the network does not take from data, and for data that it does not suit.
    """
    asked = fields(config)
    if not asked:
        return config, None
    rules = {group: _rule(group, config[group], namespace) for group, _ in asked}
    dataset, whole = read(), copy.deepcopy(config)
    with whole.unlocked():
        for group, key in asked:
            with specs.one_line():
                options = rules[group](dataset.shape, dataset.classes, *_text(rules[group], dataset))
            if key not in options:
                raise specs.ConfigError(f"{group}.{key} is {WORD!r}, but data decides {', '.join(options)} alone.")
            if options[key] == ():  # of texts, where there are none
                raise specs.ConfigError(
                    f"{group}.{key} is {WORD!r}, but {dataset.name} has no {key}: data.captioned with words=2 has."
                )
            with whole[group].ignore_type():
                whole[group][key] = options[key]
    return whole.lock(), dataset


def kept(asked: Any, saved: Any) -> Any:
    """Gives what is asked of a run that has begun, with the options of its config in place of the word."""
    whole = copy.deepcopy(asked)
    with whole.unlocked():
        for group, key in fields(asked):
            if key in saved.get(group, {}):
                with whole[group].ignore_type():
                    whole[group][key] = saved[group][key]
    return whole


def _text(rule: Callable[..., dict[str, Any]], dataset: Any) -> tuple[tuple[int, ...], ...]:
    """The tokens and places of the data's texts, where the network's rule takes them."""
    if "text" not in inspect.signature(rule).parameters:
        return ()
    return ((),) if dataset.vocabulary is None else (dataset.vocabulary.sizes,)


def _rule(group: str, spec: Any, namespace: Any) -> Callable[..., dict[str, Any]]:
    try:
        title, make, path, _ = specs.member(namespace, spec)
    except specs.ConfigError as error:
        raise specs.ConfigError(f"{group} asks for an option by the data, which is for networks; {error}") from error
    make = getattr(make, "__self__", make)  # a network's own constructor, such as `preset`
    if not hasattr(make, "of_data"):
        raise specs.ConfigError(
            f"{group} asks for an option by the data, but {title}.{path} derives none: give numbers."
        )
    return make.of_data
