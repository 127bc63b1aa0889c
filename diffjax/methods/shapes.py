"""The request of methods that draw in one evaluation: nothing is chosen, but the shape of x has to be known."""

from collections.abc import Callable

from diffjax.types import pytree, static


@pytree
class Shape:
    """The shape of one example, as structure: a request without a leaf."""

    shape: tuple[int, ...] = static()

    @property
    def nfe(self) -> int:
        """The network's evaluations in one draw."""
        return 1


def plan(shape: tuple[int, ...], trace: Callable | None = None) -> Shape:
    """Makes the request for examples of this shape; there is no walk that `trace` could look at."""
    return Shape(tuple(shape))
