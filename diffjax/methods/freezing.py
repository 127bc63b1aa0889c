"""A method of which only a part is trained: losses see parameters through which no gradient flows to the rest."""

from collections.abc import Callable

from diffjax.method import Method
from diffjax.types import PyTree


def freezing(method: Method, freeze: Callable[[PyTree], PyTree]) -> Method:
    """Makes the method whose losses see `freeze(params)`: gradients of what is not trained are not computed."""
    seen = lambda turn: turn._replace(losses=lambda params, *rest: turn.losses(freeze(params), *rest))
    return method._replace(turns=tuple(map(seen, method.turns)))
