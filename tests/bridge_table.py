"""Bridges under test: bases with their closed forms, the kernel on them, a target and a network."""

import jax
import jax.numpy as jnp
from closed_forms import EDM as EDM_FORM
from closed_forms import VDM as VDM_FORM
from closed_forms import VE as VE_FORM
from closed_forms import VP as VP_FORM
from closed_forms import Form, wide
from oracles import bridges
from oracles.mixture import Mixture

from diffjax.schedules import EDM, VDM, VE, VP

DDBM_VP = VP(0.1, 2.1)  # beta_d = 2, beta_min = 0.1
TWO = wide("2.1")
VP_2 = Form(lambda t: VP_FORM.amplitudes(t, beta_max=TWO), lambda t: (-(wide("0.1") + 2 * t) / 2, wide("0.1") + 2 * t))
BASES = {"vp": (DDBM_VP, VP_2), "edm": (EDM(), EDM_FORM), "ve": (VE(), VE_FORM), "vdm": (VDM(), VDM_FORM)}
LINE = Mixture((0.3, 0.7), (-0.6, 0.5), (0.16, 0.09))
NET = jax.tree_util.Partial(lambda w, x, c: w * jnp.tanh(x), jnp.float32(0.3))


def kernels(name, ts):
    """A, B and C of a base's bridge at each of the times."""
    schedule, form = BASES[name]
    return bridges.kernels(form, schedule.t_max, ts)
