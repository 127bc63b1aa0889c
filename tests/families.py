"""One sampler of every family, with a grid that it can walk: what is tried of all of them, those without a row too."""

from collections.abc import Callable
from typing import Any, NamedTuple

from diffjax import grids, processes, samplers
from diffjax.samplers import Sampler
from diffjax.schedules import VP
from diffjax.types import Schedule


class Family(NamedTuple):
    """A sampler that stands for its family.

    Attributes:
        make: schedule -> sampler.
        from_pure_noise: whether it can start where alpha is 0.
        to_data: whether it can end where sigma is 0.
        walk: (sampler, ts, trace) -> sample.
        schedule: that it is tried on where one is enough.
        slow: whether it is slow to trace.
        more: whether it refuses for other reasons too: steps that diverge, intervals that are not in the grid.
    """

    make: Callable[[Schedule], Sampler]
    from_pure_noise: bool = True
    to_data: bool = True
    walk: Callable[..., Any] = samplers.sampling_fn
    schedule: Schedule = VP()
    slow: bool = False
    more: bool = False

    def grid(self, n: int = 5) -> Any:
        """A grid of its own schedule."""
        if self.walk is samplers.bridging_fn:
            return grids.pinned(self.schedule, n)
        return grids.uniform(self.schedule, n, zero=self.to_data)

    def sample(self, n: int = 5, **options: Any) -> Any:
        """Its walk along that grid."""
        return self.walk(self.make(self.schedule), self.grid(n), **options)


def upwards(schedule: Schedule) -> Sampler:
    """DDIM up its grid, as `samplers.encoding_fn` walks it."""
    sampler = samplers.ancestral.ddim(schedule)
    return sampler._replace(plan=lambda ts: sampler.plan(ts[::-1]))


AXES = samplers.principal.Axes(0.0, 0.3)
BRIDGE = processes.BridgeSchedule(VP())
LATE = dict(from_pure_noise=False)

FAMILIES = {
    "ddim": Family(samplers.ancestral.ddim),
    "ddpm": Family(samplers.ancestral.ddpm),
    "resampled": Family(samplers.ancestral.resampled),
    "euler_maruyama": Family(samplers.sde.euler_maruyama, **LATE),
    "reverse_diffusion": Family(samplers.predictor.reverse_diffusion, **LATE),
    "large_variance": Family(samplers.predictor.ancestral, **LATE),
    "heun": Family(samplers.heun.edm, **LATE),
    "heun_churn": Family(lambda s: samplers.heun.edm(s, churn=2.0, s_max=1.0), more=True, **LATE),
    "restart": Family(samplers.restart.restart, more=True, **LATE),
    "adams": Family(samplers.multistep.adams),
    "adams_tau": Family(lambda s: samplers.multistep.adams(s, 2, tau=1.0)),
    "dpmpp_2m": Family(samplers.multistep.dpmpp_2m),
    "dpmpp_3m": Family(samplers.multistep.dpmpp_3m),
    "dpmpp_2m_sde": Family(samplers.multistep.dpmpp_2m_sde),
    "dpmpp_3m_sde": Family(samplers.multistep.dpmpp_3m_sde),
    "dpm_solver": Family(samplers.singlestep.dpm_solver, **LATE),
    "dpmpp_2s": Family(samplers.singlestep.dpmpp_2s),
    "tab": Family(samplers.deis.tab, **LATE),
    "lms": Family(samplers.deis.lms, **LATE),
    "ipndm": Family(samplers.pndm.ipndm, **LATE),
    "pndm": Family(samplers.pndm.pndm, **LATE),
    "unipc": Family(samplers.unipc.unipc),
    "trigflow": Family(samplers.trigflow.adams),
    "principal": Family(lambda s: samplers.principal.adams(s, AXES, free_start=False)),
    "predictor_corrector": Family(samplers.langevin.predictor_corrector, **LATE),
    "annealed": Family(lambda s: samplers.langevin.annealed(s, eps=1e-5, steps=2), to_data=False, more=True),
    "hybrid": Family(samplers.hybrid.ddbm, **LATE),
    "ode": Family(samplers.ode.probability_flow, to_data=False, slow=True),
    "ode_fixed": Family(lambda s: samplers.ode.probability_flow(s, "Heun", adaptive=False), to_data=False, slow=True),
    "bridge": Family(samplers.ancestral.ddim, walk=samplers.bridging_fn, schedule=BRIDGE),
    "bridge_adams": Family(samplers.multistep.adams, walk=samplers.bridging_fn, schedule=BRIDGE),
    "encoder": Family(upwards, to_data=False, **LATE),
}
