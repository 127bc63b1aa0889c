"""What denoisers that wrap another denoiser share."""

from typing import Any

from diffjax.types import Denoiser, Schedule


class Wrapper:
    """A mixin of `pytree` classes with a field `denoise`, whose schedule is theirs too.

    Attributes:
        denoise: the denoiser that is wrapped.
    """

    denoise: Denoiser

    @property
    def schedule(self) -> Schedule:
        """The schedule that the wrapped denoiser was made for."""
        return self.denoise.schedule

    @property
    def process(self) -> Any:
        """The process that the wrapped denoiser was made for, where it says one: that of tokens."""
        return self.denoise.process  # pyright: ignore[reportAttributeAccessIssue]
