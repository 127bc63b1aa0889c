"""A sweep on a cluster, by submitit (`pip install diffjax[cluster]`): one array of jobs, a shard of the sweep each.

A job works in processes of their own. When its time is nearly up, or another job is to have the machine, the cluster
sends a signal: the job has its processes save and end, and is put into the queue again, where it goes on.
"""

import dataclasses
from pathlib import Path
from typing import Any

from diffjax.config import ConfigError
from diffjax.sweeps import plan, work, workers

SHARED = (
    "name",
    "nodes",
    "timeout_min",
    "mem_gb",
    "cpus_per_task",
    "gpus_per_node",
    "tasks_per_node",
    "stderr_to_stdout",
)


@dataclasses.dataclass
class Shard:
    """A job: the part of a sweep that `order` says, in `count` processes."""

    order: dict[str, Any]
    count: int = 1

    def __call__(self) -> str:
        """Works until nothing is left for this shard; gives a line on how far it is."""
        mine, root, say = plan.remade(self.order), Path(self.order["root"]), lambda line: print(line, flush=True)
        say(work.summary(mine, root))
        with workers.watched(root, say):
            workers.run(self.order, self.count, mine, root, say)
        return work.summary(mine, root)

    def checkpoint(self) -> Any:
        """Has all processes save and end; gives the job that goes on, for the queue."""
        from submitit.helpers import DelayedSubmission

        workers.stop()
        return DelayedSubmission(self)


def submit(sweep: Any, *, cluster: str | None = None, shards: int = 1, processes: int = 1, **options: Any) -> list[Any]:
    """Submits a `Sweep` as an array of jobs; their logs go to ROOT/cluster. Gives submitit's jobs.

    Args:
        cluster: "slurm", "local" (processes of this machine), or the one that is there.
        shards: jobs.
        processes: of each job.
        options: submitit's, timeout_min=, mem_gb=, cpus_per_task=, gpus_per_node=, ...; Slurm's by their names in
            sbatch: partition=, account=, qos=, ...

    Raises:
        ConfigError: where submitit is not installed, or for what it does not take.
    """
    try:
        import submitit
    except ImportError as error:
        raise ConfigError("A cluster needs submitit: pip install 'diffjax[cluster]'.") from error
    sweep.prepare()
    try:
        executor = submitit.AutoExecutor(folder=sweep.root / "cluster", cluster=cluster)
        slurms = {name: value for name, value in options.items() if name not in SHARED}
        if slurms and executor.cluster != "slurm":
            raise ConfigError(f"The option {next(iter(slurms))!r} is Slurm's, but the cluster is {executor.cluster}.")
        own = {name: value for name, value in options.items() if name in SHARED}
        executor.update_parameters(**own, **{f"slurm_{name}": value for name, value in slurms.items()})
    except (RuntimeError, ValueError, NameError, TypeError, AssertionError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(f"The cluster refuses: {error}.") from error
    orders = [sweep.order(f"{i}/{shards}") for i in range(shards)]
    return _array(executor, orders, processes)


def _array(executor: Any, orders: list[dict[str, Any]], count: int) -> list[Any]:
    with executor.batch():
        return [executor.submit(Shard(order, count)) for order in orders]
