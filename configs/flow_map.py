"""A flow map of two times (MeanFlow: Geng et al. 2025) on eight Gaussians: noise to data in one evaluation.

    python -m diffjax.main --config=configs/flow_map.py           # one step: a minute on 2 CPU cores
    python -m diffjax.main --config=configs/flow_map.py:adaptive  # the published weight, p = 1
    python -m diffjax.main --config=configs/flow_map.py:tiny      # every part, small

More steps of a trained run, in Python: `runs.open(workdir).draw(1000, steps=4)`. Expected of
the default: an exact W2 under its floor (0.22 for 0.28 at 1024 samples; one Euler step of a velocity would end in the
centre, at 1.4), and samples of one and of four steps apart by a tenth of their standard deviation.
"""

from ml_collections import ConfigDict

from diffjax.config import recipe, spec


def gaussians() -> ConfigDict:
    """The default recipe."""
    config = recipe()
    config.method = spec("flow_map", same=0.25)
    config.data = spec("eight_gaussians")
    config.schedule = spec("Rectified")
    config.times = spec("uniform")
    config.model = spec("MLP", width=64, depth=2, embedding="angle", gap=17)
    config.learning_rate.update(dict(peak=2e-3, schedule="cosine", warmup_steps=100))
    config.train.update(dict(steps=6000, batch_size=256, steps_per_dispatch=20, log_every=200, sample_every=3000))
    config.checkpoint.every = 1000
    config.sample.chunk = 1024
    return config


def adaptive() -> ConfigDict:
    """Each example's loss over its own size: steadier, and it thins small modes (`methods.flow_map`)."""
    config = gaussians()
    config.method.power = 1.0
    return config


def tiny() -> ConfigDict:
    """The default at a small size, for tests."""
    config = gaussians()
    config.data.n, config.data.held_out = 2000, 400
    config.model.width = 16
    config.train.update(dict(steps=40, batch_size=32, steps_per_dispatch=1, log_every=10, sample_every=40))
    config.learning_rate.warmup_steps = 5
    config.checkpoint.every = 20
    config.eval.samples = 256
    return config


VARIANTS = dict(gaussians=gaussians, adaptive=adaptive, tiny=tiny)
