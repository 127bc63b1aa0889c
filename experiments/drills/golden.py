"""Golden check: an older commit and the working tree, on one core of one machine, make equal files, to the byte.

    python experiments/drills/golden.py                                # six tiny runs, base d752efb: about 10 minutes
    python experiments/drills/golden.py --configs=vpsde,bridge         # some of them
    python experiments/drills/golden.py --keep=/tmp/golden             # keep the runs; the base's are made only once

Bits differ between processors and library versions, so nothing is pinned: the base runs in a worktree here. Compared
are the metrics without timing, eval.json, report.md, and 16 samples by seed. A run trained by the base is also opened
by the working tree and sampled: an old workdir keeps its meaning. Each difference is printed; the exit status counts
them.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ("vpsde", "guidance", "bridge", "vdm", "rectified", "iddpm")
FREE = ("timing", "minutes")  # what two runs of one program differ in


def run(root: Path, core: int, *args: str) -> None:
    """`python -m diffjax.main` of the tree at `root`, on one core."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    command = ["taskset", "-c", str(core), sys.executable, "-m", "diffjax.main", *args]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} in {root} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


def make(root: Path, core: int, name: str, workdir: Path) -> None:
    """Trains a tiny run and draws 16 samples of it, unless that was done before."""
    if not (workdir / "drawn").exists():
        shutil.rmtree(workdir, ignore_errors=True)
        run(root, core, f"--config=configs/{name}.py:tiny", f"--workdir={workdir}")
        run(root, core, "--mode=sample", f"--workdir={workdir}", "--seeds=0-15", f"--out={workdir / 'drawn'}")


def contents(workdir: Path, drawn: str = "drawn") -> dict[str, object]:
    """What is compared, by name."""
    without = lambda line: {key: value for key, value in json.loads(line).items() if key not in FREE}
    metrics = [without(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    told = (workdir / "report.md").read_text().partition("\n## Time\n")[0]
    told = re.sub(r"(?m)^\| (?:command|commit|minutes, until this report) \|.*\n", "", told)
    texts = {"eval.json": (workdir / "eval.json").read_text(), "report.md": told}
    return {**texts, "metrics": metrics, "samples": np.load(workdir / drawn / "samples.npz")["x"].tobytes()}


def added(old: object, new: object) -> str | None:
    """The lines of a text that only the new one has, if it has all the old ones, in order; None otherwise."""
    if not (isinstance(old, str) and isinstance(new, str)):
        return None
    left, more = iter(old.splitlines()), []
    wanted = next(left, None)
    for line in new.splitlines():
        if line == wanted:
            wanted = next(left, None)
        else:
            more.append(line)
    return None if wanted is not None else "\n".join(more)


def compare(name: str, old: dict[str, object], new: dict[str, object]) -> int:
    """Prints what differs, and counts it. Lines that were only added are said, and do not count."""
    bad = 0
    for what, value in old.items():
        if value == new[what]:
            continue
        more = added(value, new[what])
        bad += more is None
        print(f"{name}: {what} " + ("DIFFERS" if more is None else f"has new lines:\n{more}"), flush=True)
    if not bad:
        print(f"{name}: equal ({', '.join(old)})", flush=True)
    return bad


def main() -> int:
    """The number of differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="d752efb", help="the commit to compare with")
    parser.add_argument("--configs", default=",".join(CONFIGS))
    parser.add_argument("--core", type=int, default=min(os.sched_getaffinity(0)))
    parser.add_argument("--keep", type=Path, help="folder for the runs; default a temporary one")
    flags = parser.parse_args()
    folder = flags.keep or Path(tempfile.mkdtemp())
    base = folder / f"tree-{flags.base}"
    if not base.exists():
        subprocess.run(["git", "worktree", "add", "--detach", str(base), flags.base], cwd=ROOT, check=True)
    bad = 0
    try:
        for name in flags.configs.split(","):
            old, new, opened = folder / "old" / name, folder / "new" / name, folder / "opened" / name
            make(base, flags.core, name, old)
            for left in (new, opened):
                shutil.rmtree(left, ignore_errors=True)
            make(ROOT, flags.core, name, new)
            bad += compare(name, contents(old), contents(new))
            shutil.copytree(old, opened)
            run(ROOT, flags.core, "--mode=sample", f"--workdir={opened}", "--seeds=0-15", f"--out={opened / 'again'}")
            drawn = [contents(old)["samples"], contents(opened, "again")["samples"]]
            bad += compare(f"{name}, opened", {"samples": drawn[0]}, {"samples": drawn[1]})
    finally:
        if flags.keep is None:
            subprocess.run(["git", "worktree", "remove", "--force", str(base)], cwd=ROOT, check=True)
            shutil.rmtree(folder, ignore_errors=True)
    return bad


if __name__ == "__main__":
    sys.exit(main())
