"""Pictures where a notebook's reader looks: below the cell. IPython is used where it runs, and is no dependency."""

import sys
from pathlib import Path
from typing import Any


def is_notebook() -> bool:
    """Tells whether this is a notebook's kernel, which can show pictures; a terminal, IPython's too, is none."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)  # imported by the kernel, or there is none
    shell = None if get_ipython is None else get_ipython()
    return any(kind.__name__ == "ZMQInteractiveShell" for kind in type(shell).__mro__)  # Colab's is one, too


def shown(path: str | Path) -> list:
    """Shows a PNG file in a notebook, as a part of a report of which nothing is to be said."""
    show(path)
    return []


def show(path: str | Path) -> bool:
    """Shows a PNG file in a notebook; tells whether it did.

    Not elsewhere, nor a file that is not there, nor where what is printed goes to a file, as in a sweep.
    """
    if not is_notebook() or not Path(path).is_file() or _goes_to_a_file(sys.stdout):
        return False
    from IPython.display import Image, display  # type: ignore[import-not-found]

    display(Image(filename=str(path)))
    return True


def _goes_to_a_file(stream: Any) -> bool:
    """Tells an open file, guarded (`screen`) or not, from a kernel's stream, which has a name and no buffer."""
    name = getattr(stream, "name", None)
    return hasattr(stream, "buffer") and isinstance(name, str) and Path(name).is_file()
