"""Flow maps: a network of two times learns where a flow leads from t to r; one evaluation draws, or several.

X_{t -> r}(x) = A x + B F, F the network's (`denoisers.flow_map`), is learned by a loss of one of three identities
(`losses.eulerian`, `losses.lagrangian`, `losses.progressive`) at pairs of times (`losses.pairs`). Without a word of
either it is MeanFlow: on Rectified with Velocity F is the mean velocity from t to r < t

    u(x_t, t, r) = 1 / (t - r) * integral of v(x_s, s) over s from r to t,        x_r = x_t - (t - r) u(x_t, t, r)
                   (kexue 10958 (6))

of dx/dt = v(x, t) = E[alpha' x_0 + sigma' z | x_t = x], which by d/dt of (t - r) u along the flow satisfies the
Eulerian identity (Geng et al. 2025, eq. 6; kexue 10958 (8))

    u = v - (t - r) du/dt,        du/dt = v . grad_x u + d/dt u,

so u is regressed on its right side with the gradient stopped, v being that of the example, alpha' x_0 + sigma' z
(eq. 10, 11; kexue 10958 (17)). r = t is plain flow matching: the diagonal u(x, t, t) is v.

A network of one time may be the start: `train.start` with `model.gap=17` takes over the parameters of a run of one
target with it, and the layer of the gap begins with zeros, so that the first map is DDIM's step. With `distil=True` the
run at train.start is the teacher too: a second network that stands still, of which the loss takes the velocity.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from diffjax import calculus, denoisers, host, losses, samplers
from diffjax.denoisers.flow_map import GAP, Guided, TwoTime, shares
from diffjax.denoisers.flow_map import flow_map as map_of
from diffjax.denoisers.targets import Target, Velocity
from diffjax.losses import pairs as laws
from diffjax.losses.flow_map import Rule, Way
from diffjax.method import Drawn, Example, Keys, Method, Section, Turn, drawing, per_example
from diffjax.methods import kinds
from diffjax.methods.conditions import Condition
from diffjax.methods.examples import check_real
from diffjax.methods.parts import Request
from diffjax.types import Array, Denoiser, Key, Prepare, PyTree, Schedule

JUDGED = 512  # samples that a report draws again in more steps
STEPS = (1, 2, 4)
TIMES = partial(losses.times.log_normal, mean=-0.4, std=1.0)  # the published law: logit t ~ N(-0.4, 1), rectified
NONE = Condition({})


class FlowMap(NamedTuple):
    """The parts, and what follows from them alone.

    Attributes:
        network: init, apply; reads `given`, "gap" among it.
        process: what x_t is.
        times: schedule -> the law of one time; the later of two draws is t, the earlier r. Of `two_times` None alone.
        same: the share of examples with r = t. Of `two_times` None alone.
        power: p of the weight 1 / (|e|^2 + floor)^p of an example's own residual e, |e|^2 a sum. The published p is 1;
            any p > 0 moves the minimum from the mean of v towards its mode, and takes mass from small modes. Of `rule`
            None alone.
        floor: c of that weight. Of `rule` None alone.
        steps: of a draw, evenly spaced; each is one evaluation.
        sigma_data: the standard deviation of data, which the network's input is scaled by; None: the target's.
        target: what the network predicts of the way from t to r, on the diagonal that of one time.
        rule: the loss, made in `losses.eulerian`, `lagrangian` or `progressive`; None: MeanFlow's.
        two_times: schedule -> the law of (t, r), of `losses.pairs`; None: two draws of `times`, in order.
        condition: what of `given` is hidden from a share of the examples, for guidance inside.
        teacher: whether the run begins from a finished one: a config sets it by train.start.
        distil: whether that one is the teacher of the loss.
        w: guidance of the teacher; 1 is off.
        gamma: share of a draw's noise that is new at each step (`samplers.flow_map`).
    """

    network: Any
    process: Any
    times: Callable[[Schedule], Callable] = TIMES
    same: float = 0.5
    power: float = 0.0
    floor: float = 1e-2
    steps: int = 1
    sigma_data: float | None = None
    target: Target = Velocity()
    rule: Rule | None = None
    two_times: Callable[[Schedule], Callable] | None = None
    condition: Condition = NONE
    teacher: bool = False
    distil: bool = False
    w: float = 1.0
    gamma: float = 0.0

    drawn_by = ("steps", "gamma")  # what another draw may change
    check_examples = check_real

    def how(self) -> str:
        """Says how samples are made, for a report."""
        return f"the flow map in {self.steps} step{'s' * (self.steps > 1)} of one evaluation each"

    def own(self, params: PyTree) -> PyTree:
        """Picks the parameters of the network that is trained."""
        return params["map"] if self.distil else params

    def map(self, params: PyTree, given: dict, **options: Any) -> TwoTime:
        """Makes the flow map of one network's parameters, told what is given."""
        apply = lambda params, given, x, c, gap: self.network.apply(params, x, c, {**given, "gap": gap}, **options)
        return map_of(Partial(apply, params, given), self.process.schedule, self.target)

    def velocity(self, params: PyTree, given: dict, **options: Any) -> Callable:
        """Makes F: (x, t, r) -> what the network predicts of the way from t to r: of Velocity the mean velocity u."""
        return self.map(self.own(params), given, **options).predict

    def mean_denoiser(self, params: PyTree, given: dict) -> Denoiser:
        """Makes the denoiser of the diagonal u(x, t, t) = v: what samplers, likelihoods and guidance take."""
        none = {**given, "gap": jnp.zeros(GAP)}
        apply = lambda params, given, x, c: self.network.apply(params, x, c, given)
        return denoisers.denoiser(Partial(apply, self.own(params), none), self.process.schedule, self.target)

    def method(self) -> Method:
        """Makes the method: what these parts train, and how they draw."""
        return flow_map(**self._asdict())


@drawing("steps", "gamma", target={"name": "Velocity"}, rule={"name": None}, two_times={"name": None})
def flow_map(
    network: Any,
    process: Any,
    times: Callable[[Schedule], Callable] = TIMES,
    same: float = 0.5,
    power: float = 0.0,
    floor: float = 1e-2,
    steps: int = 1,
    sigma_data: float | None = None,
    target: Target = Velocity(),  # noqa: B008
    rule: Rule | None = None,
    two_times: Callable[[Schedule], Callable] | None = None,
    condition: Condition = NONE,
    teacher: bool = False,
    distil: bool = False,
    w: float = 1.0,
    gamma: float = 0.0,
) -> Method:
    """Makes the method of these parts (`FlowMap`).

    Raises:
        ValueError: for numbers out of their range, a network that is told of no second time, a process whose x_t has
            conditions or is no flow, a schedule without an inverse, or a target, loss or law of pairs that cannot be
            had on it; a loss by a derivative of a network in bfloat16; guidance without hidden conditions; a teacher
            that is asked for and not given.
    """
    if sigma_data is not None:
        host.check_positive("sigma_data", sigma_data)
        target = dataclasses.replace(target, sigma_data=sigma_data)  # pyright: ignore[reportArgumentType]
    of = FlowMap(
        network,
        process,
        times,
        same,
        power,
        floor,
        steps,
        None,
        target,
        rule,
        two_times,
        condition,
        teacher,
        distil,
        w,
        gamma,
    )
    schedule = process.schedule
    learned = losses.eulerian.meanflow(power, floor) if rule is None else rule
    drawn = (lambda schedule: laws.in_order(times(schedule), same)) if two_times is None else two_times
    needs = getattr(learned, "needs", set())
    _check(of, needs)
    law = drawn(schedule)
    _check_law(of, law, learned)
    hides = bool(condition.share and condition.none)
    counts = getattr(law, "counted", False) or "counted" in needs

    def init(key: Key, example: Example) -> PyTree:
        make = lambda key: network.init(key, example.x, jnp.zeros(()), {**example.given, "gap": jnp.zeros(GAP)})
        params = make(key)
        if network.reads is None:
            _need_gap(network, params, example)
        return {"map": params, "teacher": make(key)} if distil else params

    def taught(params: PyTree, given: dict) -> Any:
        if not distil:
            return None
        one = lambda given: of.map(params["teacher"], given)
        return one(given) if w == 1 else Guided(one(given), one(dict(condition.hidden(given))), w)

    def loss(params: PyTree, keys: Keys, example: Example, index: Array, size: int) -> tuple[Array, dict[str, Array]]:
        key_pair, key_noise, key_dropout = jax.random.split(keys.example, 3)
        key_hide, key_rule = (jax.random.fold_in(keys.example, n) for n in (3, 4))
        x, chosen, step = example.x, example.chosen, example.chosen.get("step")
        t, r = (
            law(Keys(keys.step, key_pair), index, size, step) if counts else law(Keys(keys.step, key_pair), index, size)
        )
        t, r = chosen.get("t", t), chosen.get("r", r)
        z = chosen["z"] if "z" in chosen else process.noise(key_noise, x)
        given = condition.drop(key_hide, example.given)
        hidden = jax.random.bernoulli(key_hide, condition.share) if hides else False  # the draw that `drop` makes
        at = lambda given: of.map(of.own(params), given, train=True, key=key_dropout)
        unseen = at(dict(condition.hidden(given))) if "hidden" in needs else None
        way = Way(process, x, z, t, r, key_rule, unseen, hidden, step)
        found = learned(at(given), way, taught(params, given))
        if not isinstance(found, tuple) or len(found) != 2:
            raise ValueError(f"The rule gives {type(found).__name__}, expected two numbers, (loss, unweighted error).")
        value, error = found
        return value, {"t01": t / schedule.t_max, "unweighted": error}

    def plan(shape: tuple[int, ...], trace: Callable | None = None) -> Request:
        ts = np.linspace(float(schedule.t_max), 0, of.steps + 1)
        walk = samplers.sampling_fn(samplers.flow_map.jumps(schedule, of.gamma), ts, trace)
        return Request(walk, jnp.asarray(ts[0], jnp.float32), None, shape)

    def draw(params: PyTree, request: Request, key: Key, given: dict) -> Any:
        x = process.prior(key, request.shape)
        return request.walk(of.map(of.own(params), given), jax.random.fold_in(key, 1), x)  # (meanflow.2)

    def report(run: Any, drawn: Drawn) -> list[Section]:
        # New noise parts walks of an exact map too, and a way that nobody taught says nothing.
        return [] if of.gamma or needs & {"data", "grid"} else [_agreement(of, run, drawn)]

    read = None if network.reads is None else tuple(name for name in network.reads if name != "gap")
    turn = Turn(per_example(loss), "map" if distil else None)
    served = ("map",) if distil else None
    counter = _counter() if counts else None
    return Method(init, (turn,), draw, plan, prepare=counter, served=served, asks=read, parts=of, report=report)


def _counter() -> Prepare:
    """Gives every example the number of updates made, as its chosen "step"."""
    tell = lambda count, key, batch: batch.choose(step=jnp.full(len(batch.x), count))
    return Prepare(lambda: jnp.zeros((), jnp.int32), tell, lambda count, losses, logged: count + 1)


def _slopes_at(schedule: Schedule, t: Array) -> tuple[Array, Array]:
    return calculus.derivatives(schedule, t)[1]


def _shares_at(of: tuple[Schedule, Target], t: Array) -> Any:
    return [jnp.asarray(share) + 0 * t for pair in shares(*of, t) for share in pair]


def _check(of: FlowMap, needs: set[str]) -> None:
    host.check_int("steps", of.steps, most=100_000)
    for name, value, low, high in (("same", of.same, 0, 1), ("gamma", of.gamma, 0, 1)):
        if not low <= value <= high:
            raise ValueError(f"Got {name} = {value!r}, expected a number in [{low}, {high}].")
    if of.rule is not None and (of.power, of.floor) != (0.0, 1e-2):
        raise ValueError("Got power or floor beside a rule, expected them of the rule: rule.power, rule.floor.")
    if of.two_times is not None and of.same != 0.5:
        raise ValueError(
            f"Got method.same = {of.same:g} beside two_times, whose own share it is: set two_times.same, and "
            "method.same back to 0.5, where it says nothing."
        )
    if "data" in needs and of.steps > 1 and of.gamma != 1:
        raise ValueError(
            f"This loss teaches the way to data alone: {of.steps} steps of it need gamma = 1, noise anew after each "
            f"(method.gamma=1), got gamma = {of.gamma}."
        )
    losses.flow_map.check_guidance(of.w)
    if of.rule is not None:
        kinds.check_function("rule", of.rule, "flow, way, teacher", "losses.eulerian.improved()")
    if of.two_times is not None:
        kinds.check_function("two_times", of.two_times, "schedule", "losses.pairs.uniform")
    _check_network(of, needs)
    if of.process.conditions:
        raise ValueError(
            f"A flow map goes from noise to data, but x_t of {type(of.process).__name__} also depends on "
            f"{', '.join(of.process.conditions)}: take processes.gaussian or path.rectified."
        )
    schedule = of.process.schedule
    name = type(schedule).__name__
    calculus.need_scalar(schedule, "A flow map")
    if calculus.clock_only(schedule):
        raise ValueError(
            f"A flow map follows a flow, but {type(of.process).__name__} has a clock alone, no alpha and sigma "
            "that x_t is made of: take processes.gaussian or path.rectified."
        )
    calculus.time_of(schedule, 0.0)  # refuses a schedule without an inverse
    ends = np.asarray([0.0, float(schedule.t_max)])
    if isinstance(of.target, Velocity) or "velocity" in needs:
        slopes = np.stack(host.along(_slopes_at, schedule, ends))
        if not np.all(np.isfinite(slopes)):
            raise ValueError(
                f"{name} starts or ends with an infinite slope (alpha', sigma' = {slopes[:, 0].tolist()} at 0, "
                f"{slopes[:, 1].tolist()} at t_max), which no mean velocity has: take schedule.name=Rectified, EDM or "
                "VDM, or target.name=V or EDM."
            )
    known = np.stack(host.along(_shares_at, (schedule, of.target), ends))
    for i, t in enumerate(ends):
        if (i or "landing" in needs) and not np.all(np.isfinite(known[:, i])):
            raise ValueError(
                f"{type(of.target).__name__} on {name} does not say both ends of a way at t = {t:g}, x_0 and z: take "
                "target.name=V, EDM or Velocity."
            )
    samplers.flow_map.jumps(schedule, of.gamma)


def _check_network(of: FlowMap, needs: set[str]) -> None:
    kinds.check_network("network", of.network)
    reads = of.network.reads
    if reads is not None and "gap" not in reads:
        raise ValueError(
            f"A flow map tells its network a second time as given['gap'], {GAP} numbers, but this one reads "
            f"{', '.join(reads) or 'nothing'} of `given`: set the model's gap={GAP} (MLP, UNet, DiT)."
        )
    if "derivative" in needs and getattr(of.network, "dtype", "float32") == "bfloat16":
        raise ValueError(
            "This loss takes the network's derivative in time, which drifts to NaN in bfloat16: set "
            "model.dtype=float32, or take a loss of losses.progressive, which has none."
        )
    of.condition.check(reads)
    if ("hidden" in needs or of.w != 1) and not (of.condition.share and of.condition.none):
        raise ValueError(f"This guidance {denoisers.guidance.NEVER}")
    if "teacher" in needs and not of.distil:
        raise ValueError(
            "This loss has a teacher: set method.distil=True, train.start to the teacher's run, and an optimizer of "
            "the map alone (optimizer={'map': spec('adam')}), as configs/flow_map.py:taught does."
        )
    if of.distil and "hidden" in needs:
        raise ValueError("Got guidance in the rule beside a teacher, expected that of the teacher: set method.w.")
    if of.distil and not of.teacher:
        raise ValueError(
            "Got distil = True without a run to begin from: set train.start to the teacher's run (in Python "
            "teacher=True, and its parameters where training starts)."
        )
    if of.w != 1 and not of.distil:
        raise ValueError(
            f"Got w = {of.w}, guidance of a teacher, without one: set method.distil=True, or the rule's w."
        )


def _need_gap(network: Any, params: PyTree, example: Example) -> None:
    """Raises a ValueError for a network that does not say what it reads, and whose trace has no use of the gap.

    One that hands the gap to a function that is jitted passes, whatever that makes of it.
    """
    apply = lambda gap: network.apply(params, example.x, jnp.zeros(()), {**example.given, "gap": gap})
    traced = jax.make_jaxpr(apply)(jnp.zeros(GAP)).jaxpr
    read = {id(var) for equation in traced.eqns for var in equation.invars}
    if id(traced.invars[0]) not in read:
        raise ValueError(
            f"A flow map tells its network a second time as given['gap'], {GAP} numbers, and what this network says "
            f"does not depend on it: add a linear layer of it without a bias, as models.MLP(gap={GAP}) has."
        )


def _check_law(of: FlowMap, law: Callable, rule: Rule) -> None:
    needs, schedule = getattr(rule, "needs", set()), of.process.schedule
    fine, n = (getattr(part, "steps", None) for part in (rule, law))
    if fine and fine != n:
        raise ValueError(
            f"The shortcut's finest of {fine} steps are not those of the law of pairs ({n or 'of no such steps'}): "
            f"take two_times.name=dyadic, two_times.steps={fine}."
        )
    if "neighbours" in needs and not getattr(law, "neighbours", False):
        raise ValueError(
            "This loss wants neighbours of a grid, and the law of pairs draws others: take two_times.name=consistency."
        )
    if "grid" in needs and (n := getattr(law, "n", None)) not in (None, of.steps):
        raise ValueError(f"This loss teaches {n} even steps, and method.steps is {of.steps}: a draw takes {n} too.")
    if "derivative" in needs and getattr(law, "same", 0.0) == 1:
        raise ValueError(
            "Got same = 1, r = t always, where no map is learned: take a share below 1, or methods.denoising."
        )
    laws.check(law, schedule)


def _agreement(of: FlowMap, run: Any, drawn: Drawn) -> Section:
    """How far one noise ends apart in other numbers of steps: nowhere for a flow map, X_{s->r} X_{t->s} = X_{t->r}."""
    n = min(JUDGED, len(drawn.x))
    given, keys = jax.tree.map(lambda a: a[:n], drawn.given), jax.random.split(jax.random.key(0), n)

    def samples(steps: int) -> np.ndarray:
        method = of._replace(steps=steps).method()
        each = lambda key, given: method.draw(run.params, method.plan(run.data.shape), key, given)
        return np.asarray(jax.jit(jax.vmap(each))(keys, given), np.float64)

    made = {steps: samples(steps) for steps in STEPS}
    most = made[STEPS[-1]]
    apart = {n: float(np.sqrt(np.mean((x - most) ** 2)) / most.std()) for n, x in made.items() if n != STEPS[-1]}
    said = ", ".join(f"{value:.4f} in {steps}" for steps, value in apart.items())
    text = (
        f"\n## Agreement\n\nThe same noise in {STEPS[-1]} evaluations and in fewer ends apart (root mean square over "
        f"the samples' standard deviation): {said}; an exact flow map: 0.\n"
    )
    return Section({"flow_map": {"apart": {str(steps): value for steps, value in apart.items()}}}, text)
