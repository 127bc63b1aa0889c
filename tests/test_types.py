"""The protocols of `types` and `verbs` held against the classes: they state every member that is asked for."""

import pytest

from diffjax import types, verbs
from diffjax.calculus import FlowOnly
from diffjax.processes import BridgeSchedule, Gaussian, Unconditional, bridge, categorical, editing, path, poisson
from diffjax.schedules import VP, Counted, Rectified, Tabulated


def test_types_states_every_member_of_a_process():
    """What the mixin has by default, and what every process of the library has besides, is said in `types.Process`."""
    public = lambda cls: {name for name in vars(cls) if not name.startswith("_")}
    needed = {"schedule", "noise", "corrupt", "prior"}
    assert public(types.Process) == public(Unconditional) | needed | {"prior_log_density"}
    for process in (Gaussian(VP()), path.rectified(), poisson(VP(), 3.0), bridge(VP())):
        assert all(hasattr(process, name) for name in public(types.Process) - {"prior_log_density"})


@pytest.mark.parametrize("schedule", [VP(), Rectified(), Tabulated.linear(), FlowOnly(VP()), bridge(VP()).schedule])
def test_optional_members_of_schedules_are_those_that_types_states(schedule):
    """By the classes' own members, not by the protocols'."""
    has = {
        types.Invertible: {VP, Rectified, Tabulated, FlowOnly, BridgeSchedule},
        types.Remaining: {VP, Rectified},
        types.Derived: {FlowOnly, BridgeSchedule},
        types.Discrete: {Tabulated},
        types.Knotted: {Tabulated},
        types.Pinned: {BridgeSchedule},
    }
    for protocol, classes in has.items():
        assert isinstance(schedule, protocol) == (type(schedule) in classes), protocol


MASKS = categorical.masked(Rectified(), 3)
KNOWS = {
    "recoverable": (verbs.Recoverable, (Gaussian(VP()), bridge(VP()), MASKS, editing(Counted(3), 3)), (VP(),)),
    "renewable": (verbs.Renewable, (Gaussian(VP()), poisson(VP(), 3.0), MASKS), (VP(),)),
    "tokens": (verbs.Tokens, (MASKS, editing(Counted(3), 3)), (Gaussian(VP()),)),
    "placewise": (verbs.Placewise, (MASKS, categorical.gidd(Rectified(), 3)), (Gaussian(VP()), path.rectified())),
    "counting": (verbs.Counting, (editing(Counted(3), 3),), (Gaussian(VP()), MASKS)),
}


@pytest.mark.parametrize(("protocol", "those", "others"), KNOWS.values(), ids=KNOWS)
def test_processes_know_what_verbs_states(protocol, those, others):
    assert all(isinstance(process, protocol) for process in those)
    assert not any(isinstance(process, protocol) for process in others)
