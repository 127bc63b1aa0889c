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


def check_made(player: str, made: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Raises a ValueError for a network that makes examples of another shape than those of the data.

    Args:
        player: what the network is called, in a config too: "decoder", "generator".
    """
    if made == shape:
        return
    grey = made[:-1] == shape[:-1] and made[-1:] == (1,) and shape[-1:] == (3,)
    channel = ", and data.channels=1 reads images as grey ones" if grey else ""
    raise ValueError(
        f"The {player} makes examples of shape {made}, expected {shape}, the data's. In a config {player}.shape=data "
        f"follows the data{channel}."
    )
