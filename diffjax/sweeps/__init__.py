"""Many runs of one config: a grid of trainings, each evaluated over another grid, in one folder, by any processes."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffjax.sweeps.grid import chain as chain
    from diffjax.sweeps.grid import product as product
    from diffjax.sweeps.grid import zip as zip
    from diffjax.sweeps.proposals import search as search
    from diffjax.sweeps.sweep import Sweep as Sweep
    from diffjax.sweeps.tables import Table as Table
    from diffjax.sweeps.tables import table as table

# Imported when first used: the command answers a Ctrl-C before its libraries are there.
_HOMES = {
    **{"chain": "grid", "product": "grid", "zip": "grid", "search": "proposals"},
    **{"Sweep": "sweep", "Table": "tables", "table": "tables"},
}
__all__ = ["Sweep", "Table", "chain", "product", "search", "table", "zip"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"diffjax.sweeps.{_HOMES[name]}"), name)
    raise AttributeError(f"diffjax.sweeps has no {name!r}: it has {', '.join(__all__)}.")
