"""Schroedinger bridges between two sets of points (Shi et al. 2023): moons from eight Gaussians, and back.

    python -m diffjax.main --config=configs/schroedinger.py             # moons from Gaussians: minutes on 2 CPU cores
    python -m diffjax.main --config=configs/schroedinger.py:gaussians   # the other half, Gaussians from moons
    python -m diffjax.main --config=configs/schroedinger.py:sinkhorn    # each batch paired by Sinkhorn
    python -m diffjax.main --config=configs/schroedinger.py:own         # between two .npz files, see below
    python -m diffjax.main --config=configs/schroedinger.py:tiny        # every part, small: not for pictures

The reference is Brownian motion whose end has the variance schedule.t_max^2 = 0.25. The first turn is bridge matching
on independent pairs; each later one trains a half on the pairs of the other half's walks, from where it stood:

    python experiments/schroedinger/pairs.py --workdir=runs/gaussians-1 --out=pairs.npz
    python -m diffjax.main --config=configs/schroedinger.py:moons_again --config.data.pairs=pairs.npz \\
        --config.train.start=runs/moons-1

Between data sets of one's own, arrays x of two .npz files, with the root mean squares of their entries:

    python -m diffjax.main --config=configs/schroedinger.py:own --config.data.end.path=a.npz \\
        --config.data.start.path=b.npz --config.target.sigma_0=0.7 --config.target.sigma_T=1.0

`data.end` and `data.start` are specs there: any data set by its name and options, --config.data.end.name=digits. The
other half exchanges both, `:own_again` is a later turn, as above.

`experiments/schroedinger/turns.sh` takes several turns and makes their table. Measured (e2ae6ba): a transport cost of
1.011 after the first turn, of 0.715, 0.705 and 0.703 after the next ones in 40 steps, and of 0.730 in 500; the entropic
optimum has 0.757 between 1,000 held-out points of each, optimal transport 0.486, independent pairs 3.015.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_base = beside(__file__, "points.py")
RMS = {"moons": 0.712, "eight_gaussians": 1.005}  # root mean squares of their entries


def _half(config: ConfigDict, end: str, start: str) -> ConfigDict:
    config.data = spec("between", end=end, start=start)
    config.schedule = spec("EDM", t_max=0.5)
    config.process = spec("schroedinger")
    config.target = spec("DDBM", sigma_0=RMS[end], sigma_T=RMS[start], sigma_0T=0.0)
    config.times = spec("stratified", t_min=1e-3)
    config.prepare = spec("pairing", method="independent")
    config.sampler = spec("ancestral.ddpm")
    config.grid = spec("pinned", n=40, gap=1e-3, t_min=1e-3)
    return config


def _again(config: ConfigDict) -> ConfigDict:
    config.data.pairs = "pairs.npz"
    config.prepare = spec("nothing")
    config.train.steps = 3000
    return config


def moons() -> ConfigDict:
    """The default recipe."""
    return _half(_base.gaussians(), "moons", "eight_gaussians")


def gaussians() -> ConfigDict:
    """The other half."""
    return _half(_base.gaussians(), "eight_gaussians", "moons")


def moons_again() -> ConfigDict:
    """A later turn of the default, on pairs that the other half made."""
    return _again(moons())


def gaussians_again() -> ConfigDict:
    """A later turn of the other half, on pairs that the default made."""
    return _again(gaussians())


def sinkhorn() -> ConfigDict:
    """One turn on pairs of each batch's own Schroedinger bridge, the cheap alternative to several."""
    config = moons()
    config.prepare.method = "sinkhorn"
    return config


def own() -> ConfigDict:
    """The default between data of one's own, by an MLP, which takes examples of any shape."""
    config = moons()
    config.data = spec("between", end=spec("npz", path="", label=None), start=spec("npz", path="", label=None))
    config.target.update(dict(sigma_0=0.5, sigma_T=0.5))
    return config


def own_again() -> ConfigDict:
    """A later turn between data of one's own, on pairs that the other half made."""
    return _again(own())


def tiny() -> ConfigDict:
    """Every part at a small size, for tests."""
    config = _half(_base.tiny(), "moons", "eight_gaussians")
    config.data.n, config.data.held_out = 2000, 400
    config.prepare.method = "sinkhorn"
    config.grid.n = 5
    return config


VARIANTS = dict(
    moons=moons,
    gaussians=gaussians,
    moons_again=moons_again,
    gaussians_again=gaussians_again,
    sinkhorn=sinkhorn,
    own=own,
    own_again=own_again,
    tiny=tiny,
)
