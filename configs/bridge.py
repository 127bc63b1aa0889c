"""Diffusion bridges (Zhou et al. 2023), sampled by DBIM (Zheng et al. 2024): from a degraded image to the image.

    python -m diffjax.main --config=configs/bridge.py          # digits from 4 x 4 pixels: minutes on 2 CPU cores
    python -m diffjax.main --config=configs/bridge.py:photos   # sharp from blurred colour patches: 8 minutes
    python -m diffjax.main --config=configs/bridge.py:noise    # digits from noise, the special case without pairs
    python -m diffjax.main --config=configs/bridge.py:tiny     # every part, small: for tests, not for pictures

Then, of the same run, DDBM's own sampler (119 evaluations), or another eta or order of DBIM's:

    python -m diffjax.main --mode=eval --workdir=runs/... --sampler=hybrid.ddbm \\
        --config.grid.name=karras --config.grid.n=40 --config.grid.t_max=0.9999 --config.grid.t_min=1e-4
    python -m diffjax.main --mode=eval --workdir=runs/... --sampler=multistep.adams --config.sampler.order=3

The target's numbers are the second moments of the training pairs (`DDBM.measured`). Other fields: configs/vpsde.py.
`experiments/bridges/compare.py` compares the samplers on such a run, `exact.py` where the denoiser is known;
experiments/bridges/README.md has their tables.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_base = beside(__file__, "vpsde.py")


def _bridge(config: ConfigDict) -> ConfigDict:
    config.data = spec("pairs", of="digits", degradation="average", factor=2)
    config.schedule = spec("VP", beta_min=0.1, beta_max=2.1)
    config.process = spec("bridge")
    config.target = spec("DDBM", sigma_0=0.847, sigma_T=0.720, sigma_0T=0.5186)
    config.times = spec("stratified", t_min=1e-4)
    config.model.condition = 1
    config.sampler = spec("ancestral.ddim", eta=0.0)
    config.grid = spec("pinned", n=20, gap=1e-3, t_min=1e-3)
    return config


def digits() -> ConfigDict:
    """Low resolution to full resolution."""
    return _bridge(_base.digits())


def photos() -> ConfigDict:
    """Blurred to sharp."""
    config = digits()
    config.data = spec("pairs", of="photos", size=16, stride=4, degradation="blur", sigma=1.5)
    config.target = spec("DDBM", sigma_0=0.677, sigma_T=0.659, sigma_0T=0.4384)
    config.model.attention = (8,)
    config.model.condition = 3
    config.train.update(dict(steps=2000, batch_size=64))  # patches of four times the digits' pixels
    config.eval.samples = 512
    return config


def noise() -> ConfigDict:
    """Noise to data: the endpoint is the base process's own x_T."""
    config = digits()
    config.data = spec("digits")
    config.schedule.beta_max = 20.0  # x_T is to be noise
    config.process.from_noise = True
    config.target = spec("DDBM", sigma_0=0.847, sigma_T=1.0, sigma_0T=0.0047)
    config.grid.n = 40
    return config


def tiny() -> ConfigDict:
    """Every part of the default, at a small size, for tests."""
    return _bridge(_base.tiny())


VARIANTS = {"digits": digits, "photos": photos, "noise": noise, "tiny": tiny}
