"""The index of names: every family of published weights that there is a map for."""

from diffjax.pretrained import consistency, ddpm, dit, score_sde
from diffjax.pretrained.family import Family

FAMILIES: dict[str, Family] = {**ddpm.FAMILIES, **score_sde.FAMILIES, **consistency.FAMILIES, **dit.FAMILIES}
