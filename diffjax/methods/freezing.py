"""A method of which only a part is trained: losses see parameters through which no gradient flows to the rest."""

import functools
from collections.abc import Callable

from diffjax.method import Method, Turn
from diffjax.types import PyTree


def freezing(method: Method, freeze: Callable[[PyTree], PyTree]) -> Method:
    """Makes the method whose losses see `freeze(params)`: gradients of what is not trained are not computed."""

    def seen(turn: Turn) -> Turn:
        losses = functools.wraps(turn.losses)(
            lambda params, *rest, **shown: turn.losses(freeze(params), *rest, **shown)
        )
        return turn._replace(losses=losses)

    return method._replace(turns=tuple(map(seen, method.turns)))
