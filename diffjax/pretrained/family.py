"""What a family of published weights is: a recipe of its network, schedule and target, and the maps of its files."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from diffjax import weights
from diffjax.config import recipe, spec
from diffjax.pretrained.maps import Leaf, leaf
from diffjax.types import PyTree

Maps = Mapping[str, Callable[[Any, PyTree], dict[str, Leaf]]]  # format of a file -> (module, its parameters) -> leaves


class Family(NamedTuple):
    """A family of published weights.

    Attributes:
        title: what it is, for errors and the list.
        config: () -> the recipe: network, schedule, target, and how it draws.
        maps: by the format of a file.
        shape: of an example, in [-1, 1] where it is an image.
        marks: a regular expression that names in its files begin with: what a file looks like.
        data: the name of the data that it was trained on.
        classes: of labels; None for none.
        levels: of grey; None for what has none.
        ignored: a regular expression of names in its files that nobody needs.
        computed: (module, shape of an example) -> arrays that the network computes itself, which its files may hold,
            too: there they have to be these.
        remark: what one has to know who draws with it; a line or none.
    """

    title: str
    config: Callable[[], ConfigDict]
    maps: Maps
    shape: tuple[int, ...]
    marks: str
    data: str
    classes: int | None = None
    levels: int | None = 256
    ignored: str = r"(?!)"
    computed: Callable[[Any, tuple[int, ...]], dict[str, np.ndarray]] = lambda net, shape: {}
    remark: str = ""


Subs = Mapping[str, tuple[str, tuple[str, ...]]]  # part of a part -> (kind of layer, its published names)
Layer = Callable[[str, str, tuple[int, ...], tuple[str, ...], int], Leaf]


def unet_leaves(
    params: PyTree,
    kinds: Mapping[str, str],
    places: Mapping[str, tuple[str, ...]],
    subs: Subs,
    layer: Layer,
    between: str,
    negative: bool = False,
) -> dict[str, Leaf]:
    """Makes the leaves of a `models.PublishedUNet`.

    Args:
        kinds: of its parts, by name (`PublishedUNet.parts`).
        places: the published names of each part.
        subs: of the layers inside parts.
        layer: `maps.of_torch` or `maps.of_flax`.
        between: what joins the parts of a published name, "." or "/".
        negative: the network gives minus what is published.
    """
    made = {}
    for ours, param in weights.named(params).items():
        part, *inside = ours.split("/")
        shape, sign = tuple(param.shape), -1 if negative and part == "conv_out" else 1
        if not inside:  # a parameter by itself
            made[ours] = leaf(places[part], shape)
            continue
        kind, inner = subs[inside[0]] if len(inside) > 1 else (kinds[part], ("",))
        into = tuple(f"{at}{between}{sub}".rstrip(between) for at in places[part] for sub in inner)
        made[ours] = layer(kind, inside[-1], shape, into, sign)
    return made


def started(model: ConfigDict, schedule: ConfigDict, target: ConfigDict) -> ConfigDict:
    """Makes the recipe of a network that is trained already: nothing of it is about training."""
    config: Any = recipe()
    config.model, config.schedule, config.target = model, schedule, target
    config.optimizer = spec("sgd")  # keeps no moments: who trains on says which, from this run (`train.start`)
    config.ema = spec("warm_up", decays=(0.9999,))
    config.sample.update(dict(ema="0.9999", chunk=16))
    config.train.update(dict(steps=1, log_every=1))
    return config
