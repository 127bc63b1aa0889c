"""Classifier-free guidance (Ho & Salimans 2022): digits by class, with the label hidden from a tenth of the examples.

    python -m diffjax.main --config=configs/guidance.py          # scikit-learn's 1797 digits: minutes on 2 CPU cores
    python -m diffjax.main --config=configs/guidance.py:tiny     # every part, small: for tests, not for pictures

Then, of the same run, any scale and any class; w = 1 is off:

    python -m diffjax.main --mode=eval   --workdir=runs/... --config.guidance.w=4.0
    python -m diffjax.main --mode=sample --workdir=runs/... --config.sample.label=3

Other fields: configs/vpsde.py. Expected of the default: a pass of the gate in report.md, and the
label asked for in as many samples as real digits show theirs. `experiments/guidance` draws both against the scale.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_base = beside(__file__, "vpsde.py")


def by_class(config: ConfigDict) -> ConfigDict:
    """A recipe of digits whose network is told the class, hidden from a tenth of the examples."""
    config.model.classes = 10
    config.train.label_dropout = 0.1
    config.guidance = spec("classifier_free", w=1.25)
    return config


def digits() -> ConfigDict:
    """The default recipe, in more steps than without a label: fewer leave its samples too alike."""
    config = by_class(_base.digits())
    config.grid.n = 100
    return config


def tiny() -> ConfigDict:
    """Every part of the default, at a small size, for tests."""
    return by_class(_base.tiny())


VARIANTS = {"digits": digits, "tiny": tiny}
