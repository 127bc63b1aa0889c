"""What the plans of methods share."""

import inspect
from collections.abc import Callable
from typing import Any

from diffjax.samplers import Sampler


def planned_sampler(make: Callable[..., Sampler], process: Any) -> Sampler:
    """Makes the sampler of a process, as `made_for` makes any part.

    Args:
        make: such as `samplers.unified`, of a process, or `samplers.ancestral.ddim`, of a schedule; or a
            `functools.partial` of one, with options.
    """
    return made_for(make, process)


def made_for(make: Callable, process: Any) -> Any:
    """Makes a part of a process: a maker whose first parameter is named `process` gets it, any other its schedule."""
    return make(process if takes_process(make) else process.schedule)


def takes_process(make: Callable) -> bool:
    """Tells whether a maker of a part takes a process, by the name of its first parameter; if not, a schedule."""
    try:
        return next(iter(inspect.signature(make).parameters), None) == "process"
    except (ValueError, TypeError):  # of one that is not written in Python
        return False
