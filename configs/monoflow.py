"""Two players on the plane: a critic learns the log density ratio, a generator climbs it (MonoFlow; Yi et al. 2023).

    python -m diffjax.main --config=configs/monoflow.py              # four Gaussians: a minute on 2 CPU cores
    python -m diffjax.main --config=configs/monoflow.py:tiny         # every part, small: for tests
    python -m diffjax.main --config=configs/monoflow.py --config.method.h=forward_kl

Data are four Gaussians of weights 0.1 to 0.4 and standard deviation 0.35. Expected of the samples: weights within 0.02,
standard deviations of 0.35 to 0.42. A critic whose rate decays before the run ends lets the samples drift away.
"""

from ml_collections import ConfigDict

from diffjax.config import recipe, spec


def _players(width: int, steps: int, **train: int) -> ConfigDict:
    config = recipe()
    config.data = spec("modes")
    config.method = spec("generators.monoflow", h="kl", critics=2, penalty=0.1)
    config.generator = spec("Perceptron", width=width, depth=2)
    config.critic = spec("Perceptron", shape=(), width=width, depth=2)
    config.optimizer = dict(
        critic=spec("adam", b1=0.5, learning_rate=1e-3),
        generator=spec("adam", b1=0.5, learning_rate=5e-4),
    )
    config.train.update(steps=steps, **train)
    return config


def modes() -> ConfigDict:
    """The default recipe."""
    return _players(32, 6000, steps_per_dispatch=100, sample_every=2000)


def tiny() -> ConfigDict:
    """Every part of the default, at a small size, for tests."""
    config = _players(8, 40, batch_size=16, sample_every=40, log_every=10)
    config.data = spec("modes", n=256, held_out=64)
    config.checkpoint.every = 20
    config.eval.samples = 64
    return config


VARIANTS = dict(modes=modes, tiny=tiny)
