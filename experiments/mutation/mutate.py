"""Damages the library at random points and asks the tests: each mutant should make one of them fail.

    python experiments/mutation/mutate.py cover --out=OUT          # once: which test runs which line (the whole suite)
    python experiments/mutation/mutate.py run --out=OUT --seed=0   # 160 mutants; begun again, it goes on
    python experiments/mutation/mutate.py table --out=OUT          # the score, and OUT/table.csv

A mutant is drawn uniformly from all single-point mutants (mutants.py) of the folders and modules whose sentences are
numbers (NUMBERS). Its tests are those that run the line, taken from the test files in turn, the file of the module's
own name first and quick tests before slow ones, up to a budget of recorded seconds; the first that fails ends the
mutant, and a minute ends it too. The tree is a copy of the commit's; the working tree is not touched. Needs pytest-cov.
"""

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from itertools import zip_longest
from pathlib import Path
from xml.etree import ElementTree

import mutants

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = [
    *(f"diffjax/{name}/*.py" for name in ("denoisers", "ema", "likelihood", "losses", "methods", "metrics", "models")),
    *(f"diffjax/{name}/*.py" for name in ("processes", "samplers", "theory")),
    *(f"diffjax/{name}.py" for name in ("analytic", "calculus", "chains", "clock", "couplings", "divergence", "grids")),
    *(f"diffjax/{name}.py" for name in ("optimizers", "roots", "schedules", "signals", "training")),
]
SECONDS = 60.0  # for one mutant
BUDGET = 30.0  # of recorded seconds of tests that a mutant is given
COLUMNS = ("number", "status", "file", "line", "kind", "before", "after", "tests", "seconds", "by")


def environment(tree: Path, out: Path) -> dict[str, str]:
    """What a test process finds: the library of `tree`, the CPU, and one compile cache for all mutants."""
    cache = os.environ.get("DIFFJAX_TEST_CACHE", str(out / "cache"))
    return {**os.environ, "PYTHONPATH": str(tree), "JAX_PLATFORMS": "cpu", "DIFFJAX_TEST_CACHE": cache}


def copied(folder: Path) -> str:
    """Exports the commit's tree to `folder` and returns the commit."""
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()
    packed = subprocess.Popen(["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x", "-C", str(folder)], stdin=packed.stdout, check=True)
    if packed.wait():
        raise SystemExit("git archive failed")
    return commit


def cover(out: Path, more: list[str]) -> None:
    """Runs the default suite once, and keeps which test runs which line and how long each takes."""
    import coverage

    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        commit = copied(tree)
        command = [sys.executable, "-m", "pytest", "-q", "--cov=diffjax", "--cov-context=test", "--cov-report="]
        command += [f"--junitxml={out / 'tests.xml'}", *more]
        if subprocess.run(command, cwd=tree, env=environment(tree, out)).returncode:
            raise SystemExit("the tests have to pass before they can judge; see above")
        data = coverage.CoverageData(str(tree / ".coverage"))
        data.read()
        lines: dict[str, dict[str, list[int]]] = {}
        names: dict[str, int] = {}
        for path in data.measured_files():
            by_line = data.contexts_by_lineno(path)
            lines[str(Path(path).relative_to(tree))] = {
                str(line): [names.setdefault(c.rsplit("|", 1)[0], len(names)) for c in sorted(contexts) if c]
                for line, contexts in by_line.items()
            }
        seconds: dict[str, float] = defaultdict(float)
        for case in ElementTree.parse(out / "tests.xml").iter("testcase"):
            path = case.get("classname", "").replace(".", "/") + ".py"
            seconds[f"{path}::{case.get('name')}"] += float(case.get("time", 0))
        record = {"commit": commit, "names": list(names), "lines": lines, "seconds": seconds}
        (out / "coverage.json").write_text(json.dumps(record))
    print(f"{len(names)} tests, {len(lines)} files, commit {commit}")


class Coverage:
    """Which tests run a line, from the file that `cover` wrote."""

    def __init__(self, path: Path):
        record = json.loads(path.read_text())
        self.lines, self.names, self.seconds = record["lines"], record["names"], record["seconds"]

    def of(self, file: str, first: int, last: int) -> list[str]:
        """Lists the tests of a piece of text; those of the whole file where it runs at import only."""
        by_line = self.lines.get(file, {})
        found = {n for line in range(first, last + 1) for n in by_line.get(str(line), [])}
        return sorted(self.names[n] for n in found or {n for tests in by_line.values() for n in tests})

    def chosen(self, file: str, tests: list[str]) -> list[str]:
        """Takes tests until the budget is spent: those of the module's own files, then of the others in turn."""
        files: dict[str, list[str]] = defaultdict(list)
        for test in sorted(tests, key=self.cost):
            files[test.split("::")[0]].append(test)
        own = [name for name in files if Path(name).stem.startswith(f"test_{Path(file).stem}")]
        others = sorted((files[name] for name in files if name not in own), key=lambda found: self.cost(found[0]))
        turns = [test for turn in zip_longest(*others) for test in turn if test is not None]
        taken, spent = [], 0.0
        for test in [*(test for name in own for test in files[name]), *turns]:
            if spent + self.cost(test) <= BUDGET or not taken:
                taken, spent = [*taken, test], spent + self.cost(test)
        return taken

    def cost(self, test: str) -> float:
        """Tells how many seconds a test took; a second where that is not known."""
        return self.seconds.get(test, 1.0)


def drawn(tree: Path, seed: int, count: int) -> list[tuple[str, mutants.Mutant]]:
    """Draws mutants of the tree's files, each only once."""
    files = sorted(str(path.relative_to(tree)) for pattern in NUMBERS for path in tree.glob(pattern))
    every = [(file, mutant) for file in files for mutant in mutants.mutants((tree / file).read_text())]
    print(f"{len(every)} single-point mutants in {len(files)} files; {count} are drawn with seed {seed}", flush=True)
    return random.Random(seed).sample(every, count)


def judged(tree: Path, out: Path, tests: list[str], log: Path) -> tuple[str, str]:
    """Runs tests on a tree until one fails: the mutant's status, and the test that ended it."""
    if not tests:
        return "no test", ""
    with open(log, "w") as text:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider", *tests]
        process = subprocess.Popen(
            command, cwd=tree, env=environment(tree, out), stdout=text, stderr=text, start_new_session=True
        )
        try:
            status = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return "time", ""
    if status == 0:
        return "survived", ""
    ended = [line.split(" - ")[0] for line in log.read_text().splitlines() if line.startswith(("FAILED", "ERROR"))]
    return "killed", ended[0].split(" ", 1)[1] if ended else f"pytest ended with status {status}"


def run(out: Path, seed: int, count: int, part: int, parts: int) -> None:
    """Tries the drawn mutants that have no row yet; with parts, only every `parts`-th, beside other processes."""
    seen = Coverage(out / "coverage.json")
    rows = out / f"mutants-{seed}-{part}.jsonl"
    done = {row["number"] for row in recorded(out, seed)}
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        copied(tree)
        for number, (file, mutant) in enumerate(drawn(tree, seed, count)):
            if number in done or number % parts != part:
                continue
            path = tree / file
            text = path.read_text()
            last = mutant.line + text[mutant.start : mutant.end].count("\n")
            tests = seen.chosen(file, seen.of(file, mutant.line, last))
            path.write_text(mutant.applied(text))
            began = time.monotonic()
            try:
                status, by = judged(tree, out, tests, rows.with_suffix(".log"))
            finally:
                path.write_text(text)
            given = mutant._asdict()
            row = {key: given[key] for key in ("line", "kind", "before", "after")}
            row |= {"number": number, "status": status, "file": file, "tests": len(tests), "by": by}
            row["seconds"] = round(time.monotonic() - began, 1)
            with open(rows, "a") as lines:
                lines.write(json.dumps(row) + "\n")
            print(f"{number:4d} {status:8s} {file}:{mutant.line} {mutant.before} -> {mutant.after}  {by}", flush=True)


def recorded(out: Path, seed: int) -> list[dict]:
    """Reads the rows of all parts, by number."""
    rows = [json.loads(line) for path in out.glob(f"mutants-{seed}-*.jsonl") for line in path.read_text().splitlines()]
    return sorted(rows, key=lambda row: row["number"])


def table(out: Path, seed: int) -> None:
    """Writes the table and prints the score."""
    rows = recorded(out, seed)
    with open(out / "table.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: row[key] for key in COLUMNS} for row in rows)
    count = {
        status: sum(row["status"] == status for row in rows) for status in ("killed", "time", "survived", "no test")
    }
    print(f"{len(rows)} mutants: " + ", ".join(f"{number} {status}" for status, number in count.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("cover", "run", "table"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the coverage, the rows and the table")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--count", type=int, default=160, help="mutants drawn")
    parser.add_argument("--part", default="0/1", help="K/N: only every N-th mutant from the K-th on")
    parser.add_argument("--only", nargs="*", default=[], help="cover: these test files instead of the suite")
    args = parser.parse_args()
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    part, parts = map(int, args.part.split("/"))
    match args.what:
        case "cover":
            cover(args.out, args.only)
        case "run":
            run(args.out, args.seed, args.count, part, parts)
        case "table":
            table(args.out, args.seed)


if __name__ == "__main__":
    main()
