"""The numbers of a run that say nothing of its method: how long, how often, where."""

from typing import NamedTuple


class Settings(NamedTuple):
    """Defaults are those of digits on two CPU cores."""

    steps: int = 2400
    batch_size: int = 128  # examples of each turn
    seed: int = 0
    steps_per_dispatch: int = 1
    log_every: int = 100
    sample_every: int = 800
    checkpoint_every: int = 500
    snapshot_every: int | None = None
    keep: int = 2
    best: int = 1
    chunk: int = 64  # samples for each device and dispatch
    ema: str = "0.999"  # what samples are made with
    label: int | None = None  # of every sample; None: seed mod classes
    time_bins: int = 10
    backend: str = "jit"
    devices: int | None = None
    nonfinite: str = "stop"
    loggers: tuple[str, ...] = ()
