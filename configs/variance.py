"""The optimal variance as a second map on a frozen network (Bao et al. 2022b; kexue 9246).

    python -m diffjax.main --config=configs/vpsde.py --config.target.name=V --workdir=runs/v
    python -m diffjax.main --config=configs/variance.py --config.train.start=runs/v       # NPR-DPM: a minute on 2 cores
    python -m diffjax.main --config=configs/variance.py:sn --config.train.start=runs/v    # SN-DPM

The run in train.start gives the network and its EMA, to which a second map is added in the last layer; that layer alone
is trained. Expected: a pass of the gate; docs/results.md has the figures.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_base = beside(__file__, "vpsde.py")


def with_head(config: ConfigDict, name: str = "npr") -> ConfigDict:
    """A recipe with a head of that name on a network that is not trained."""
    config.target = spec("V")
    config.loss = spec(name)
    config.denoiser = spec(name, clip=(-1.0, 1.0))
    config.model.outputs = 2
    config.train.only = "conv_out"
    return config


def npr() -> ConfigDict:
    """The default recipe: a third of the training of `vpsde.py`, without its gradients but one."""
    config = with_head(_base.digits())
    config.train.update(dict(steps=1200, sample_every=400))
    return config


def sn() -> ConfigDict:
    """The recipe of `npr` for SN-DPM's head, whose target is the squared noise."""
    config = npr()
    config.loss.name = config.denoiser.name = "sn"
    return config


def tiny() -> ConfigDict:
    """Every part of the default, at a small size, for tests; it starts from `vpsde.py:tiny` with target V."""
    return with_head(_base.tiny())


VARIANTS = {"npr": npr, "sn": sn, "tiny": tiny}
