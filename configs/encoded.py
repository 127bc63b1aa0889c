"""Tokens in the space of a trained encoder (kexue 9271), on a joint law of 27 sequences that can be enumerated.

    python -m diffjax.main --config=configs/encoded.py               # tokens drawn at each step: 93 s of CPU time
    python -m diffjax.main --config=configs/encoded.py:interpolated  # DDIM on the mean of the vectors, read at its end
    python -m diffjax.main --config=configs/encoded.py:tiny          # every part, small

Expected of the default, in eval.json: encoded.cross_entropy 0.46 nats per token over all times, at the last time 1.077,
the entropy of the places' marginals; the total variation of samples 0.027, where the gate, twice the floor, is 0.029.
With the network shown x_t itself (--config.method.shown=x, 64 steps) the gate fails, at 0.038. An encoder without a
constraint is refused: its loss falls to 0 by the length of its vectors alone (tests/test_encoded.py).
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_base = beside(__file__, "masked.py")


def _encoded(config: ConfigDict, width: int, n: int) -> ConfigDict:
    config.method = spec("encoded", vocabulary=3, size=2, shown="mean")
    config.schedule = spec("Rectified")
    config.times = spec("stratified", t_min=1e-3)
    config.model = spec("MLP", width=width, depth=2)
    config.sampler = spec("unified")
    config.grid = spec("uniform", n=n, t_min=0.02)
    return config


def tokens() -> ConfigDict:
    """The default recipe."""
    return _encoded(_base.tokens(), width=128, n=128)


def interpolated() -> ConfigDict:
    """The default with a sampler of vectors."""
    config = tokens()
    config.sampler = spec("ancestral.ddim")
    return config


def tiny() -> ConfigDict:
    """The default at a small size, for tests."""
    return _encoded(_base.tiny(), width=16, n=8)


VARIANTS = dict(tokens=tokens, interpolated=interpolated, tiny=tiny)
