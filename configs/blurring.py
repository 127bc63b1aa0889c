"""Blurring diffusion (Hoogeboom & Salimans 2022) on digits: VP's noise under a blur, walked in DCT frequencies.

    python -m diffjax.main --config=configs/blurring.py        # w_max = 2 pixels: 9 CPU minutes
    python -m diffjax.main --config=configs/blurring.py:w0     # no blur: configs/vpsde.py between two DCTs
    python -m diffjax.main --config=configs/blurring.py:tiny   # every part, small: for tests, not for pictures

Measured (aa35f17, 434 to 554 s of CPU time each): Frechet distance 4.86 without a blur, 6.03 with w_max = 2, 7.41 with
4 (floor 4.45, Gaussian fit 63.7; vpsde.py, which w0 is but for its random numbers, 6.01); all pass the gate.
The grid is that of the schedule without its blur, `of_base`: one per frequency has no log-SNR to step in. Samplers that
look back at evaluations by tables refuse it. Other fields: configs/vpsde.py.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_base = beside(__file__, "vpsde.py")


def _blurring(config: ConfigDict, w_max: float) -> ConfigDict:
    config.process = spec("heat.blurring", sides=(8, 8), w_max=w_max, d_min=0.001)
    config.grid = spec("of_base", n=config.grid.n, base="log_snr", t_min=1e-3)
    return config


def w2() -> ConfigDict:
    """A blur of two of eight pixels at the end."""
    return _blurring(_base.digits(), 2.0)


def w0() -> ConfigDict:
    """No blur: VP."""
    return _blurring(_base.digits(), 0.0)


def w4() -> ConfigDict:
    """A blur of four pixels."""
    return _blurring(_base.digits(), 4.0)


def tiny() -> ConfigDict:
    """Every part of the default, at a small size, for tests."""
    return _blurring(_base.tiny(), 2.0)


VARIANTS = {"w2": w2, "w0": w0, "w4": w4, "tiny": tiny}
