"""Tokens destroyed in other ways than by hiding them, on a joint law of 27 sequences that can be enumerated.

    python -m diffjax.main --config=configs/discrete.py            # any token in the place of another: 156 CPU seconds
    python -m diffjax.main --config=configs/discrete.py:absorbing  # hidden tokens, by ancestral steps: 76
    python -m diffjax.main --config=configs/discrete.py:mixed      # half of what is replaced is hidden: 45
    python -m diffjax.main --config=configs/discrete.py:gidd       # masks, and wrong tokens beside them: 55
    python -m diffjax.main --config=configs/discrete.py:d3pm       # whole steps: D3PM's bound and cross-entropy: 59
    python -m diffjax.main --config=configs/discrete.py:tiny       # every part, small

CPU seconds are those of two cores that others shared. Expected of the default, in eval.json: discrete.bound within two
of its errors (0.016) of tokens.entropy, 0.914 nats per token (0.923 measured; a product of marginals has 1.077), and a
total variation of 16384 samples under twice its floor, 0.0147: 0.0240, of which an exact model has 0.0097 in 64 steps
without the noise of counting (enumerated). `absorbing` has 0.913 +- 0.005 and 0.0187, `mixed` 0.922 +- 0.012 and
0.0273; with the whole posterior as its target (--config.target.name=categorical.Whole), of which the bound takes what
a place says of itself away again, 0.981 +- 0.021. Samples of `gidd` are further off, 0.0723 with a bound of 0.919 +-
0.034: an exact model has 0.0480 in 64 of its steps (enumerated), and the gate fails. `d3pm`, whose bound is of its 64
steps, has 0.913 +- 0.015 and 0.0249; in 32 of both 0.921 +- 0.013 and 0.0297, just outside the gate.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_base = beside(__file__, "masked.py")


def _discrete(config: ConfigDict) -> ConfigDict:
    config.method = spec("discrete")
    config.process, config.schedule = spec("categorical.uniform", vocabulary=3), spec("Rectified")
    config.target, config.loss = spec("categorical.LeaveOneOut"), spec("categorical.score_entropy")
    config.times = spec("stratified", t_min=1e-3)
    config.sampler, config.grid = spec("categorical.mixture"), spec("uniform", n=64, t_min=0.0)
    return config


def uniform() -> ConfigDict:
    """The default recipe: uniform replacement, a leave-one-out network trained by the bound."""
    config = _discrete(_base.tokens())
    config.model.width, config.train.steps = 128, 6000  # at 64 and 4000 steps its samples are just inside the gate
    return config


def absorbing() -> ConfigDict:
    """Hidden tokens: the bound of masked diffusion, in ancestral steps."""
    config = _discrete(_base.tokens())
    config.process, config.target = spec("categorical.masked", vocabulary=3), spec("categorical.Whole")
    return config


def mixed() -> ConfigDict:
    """Half of what is replaced is hidden, the rest any token."""
    config = _discrete(_base.tokens())
    config.process = spec("categorical.mixed", vocabulary=3)
    return config


def gidd() -> ConfigDict:
    """Masks, and in the middle of time wrong tokens beside them (von Rutte et al. 2025), by Markov's walk."""
    config = _discrete(_base.tokens())
    config.process = spec("categorical.gidd", vocabulary=3, B=1.0)
    config.sampler = spec("categorical.markov")
    return config


def d3pm() -> ConfigDict:
    """Uniform replacement in 64 whole steps: D3PM's bound and cross-entropy of the posterior, by Markov's walk."""
    config = _discrete(_base.tokens())
    config.target, config.loss = spec("categorical.Whole"), spec("categorical.d3pm", steps=64, auxiliary=0.01)
    config.times, config.sampler = spec("chain", steps=64, evenly=True), spec("categorical.markov")
    return config


def tiny() -> ConfigDict:
    """The default at a small size, for tests."""
    config = _discrete(_base.tiny())
    config.grid.n = 6
    return config


VARIANTS = dict(uniform=uniform, absorbing=absorbing, mixed=mixed, gidd=gidd, d3pm=d3pm, tiny=tiny)
