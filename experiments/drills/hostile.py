"""Hostile inputs: each is refused by diffjax's own line, soon, in little memory; nothing is run, nothing written.

    python experiments/drills/hostile.py                    # all of them, two at a time
    python experiments/drills/hostile.py --only=npz         # one kind: flags, configs, overrides, npz, images, ...
    python experiments/drills/hostile.py --smoke            # two of each kind that needs no trained run

Each input is made in a folder of its own, the working directory, from the seed of its number. The first of a kind is a
process `python -m diffjax.main ...`; the others run `diffjax.main` one after another in one process, which is started
again when it had to be stopped. Right is: exit status 1 or 2, stderr one line "error: ..." that names the file or the
field, no traceback, under 5 s of processor time and 1 GB resident, no mark of executed code, and no file made, changed
or removed outside of work/ and out/. Address space is bounded, so that a failure is none of the machine's.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import random
import re
import resource
import runpy
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from crafted import SMALL, TRAIN, Input, png
from inputs import KINDS

ROOT = Path(__file__).resolve().parents[2]
SECONDS, MEGABYTES, PATIENCE = 5.0, 1000.0, 150.0  # of processor; resident; until a process that hangs is stopped
RUNLESS = ("sizes", "configs", "npz", "images", "tfds")  # kinds whose inputs are no copies of a trained run
SPACE = 16 * 2**30  # bytes of address space: an allocation beyond it fails, whatever this machine has


class End(NamedTuple):
    """How a command ended: exit status (None: stopped), stdout, stderr, processor seconds, resident megabytes."""

    status: int | None
    out: str
    err: str
    seconds: float
    megabytes: float


def prepare(shared: Path, kinds: set[str]) -> None:
    """Trains the run, and prepares the data set, that inputs are damaged copies of."""
    if kinds - set(RUNLESS):
        command = [sys.executable, "-m", "diffjax.main", *TRAIN[:-1], f"--workdir={shared / 'run'}"]
        subprocess.run(command, cwd=shared, env=environment(shared), check=True, capture_output=True)
    if "weights" in kinds:
        command = [sys.executable, "-m", "diffjax.main", "--mode=export", "--workdir=run", "--out=weights"]
        subprocess.run(command, cwd=shared, env=environment(shared), check=True, capture_output=True)
    if "tfds" in kinds:
        for n in range(9):
            (shared / f"{n}.png").write_bytes(png(4, 4))
        import tensorflow_datasets as library

        class Pictures(library.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = library.core.Version("1.0.0")

            def _info(self):
                label = library.features.ClassLabel(names=["cat", "dog"])
                features = {"image": library.features.Image(shape=(4, 4, 3)), "label": label}
                return library.core.DatasetInfo(builder=self, features=library.features.FeaturesDict(features))

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples(0, 6), "test": self._generate_examples(6, 9)}

            def _generate_examples(self, start, stop):
                for i in range(start, stop):
                    yield i, {"image": str(shared / f"{i}.png"), "label": i % 2}

        library.disable_progress_bar()
        Pictures(data_dir=str(shared), file_format="array_record").download_and_prepare()


# How they are run.


def environment(shared: Path) -> dict[str, str]:
    """CPU only; caches of libraries in one folder, programs that must not be called first on the path."""
    path = f"{shared / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    homes = {name: str(shared / "home") for name in ("HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR")}
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TFDS_")}
    return {
        **kept,
        **homes,
        "PATH": path,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def limit() -> None:
    """Bounds the address space of this process."""
    resource.setrlimit(resource.RLIMIT_AS, (SPACE, SPACE))


def found(folder: Path) -> dict[str, tuple]:
    """What is in a folder, work/ and out/ left out."""
    kept = lambda path: path.relative_to(folder).parts[0] not in ("work", "out")
    stat = lambda path: (path.lstat().st_size if path.is_file() else 0, path.lstat().st_mtime_ns)
    return {str(path.relative_to(folder)): stat(path) for path in folder.rglob("*") if kept(path)}


def alone(one: Input, folder: Path, shared: Path) -> End:
    """Runs it as a process."""
    command = [sys.executable, "-m", "diffjax.main", *one.args]
    with (
        (folder.parent / f"{folder.name}.out").open("w+b") as out,
        (folder.parent / f"{folder.name}.err").open("w+b") as err,
    ):
        process = subprocess.Popen(
            command, cwd=folder, env=environment(shared), stdout=out, stderr=err, preexec_fn=limit
        )
        watch = threading.Timer(PATIENCE, process.kill)
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)
        watch.cancel()
        process.returncode = code = os.waitstatus_to_exitcode(status)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return End(None if code < 0 else code, *texts, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


class Child:
    """A process that runs inputs one after another; stopped and made again when one of them hangs."""

    def __init__(self, shared: Path):
        self.shared, self.process = shared, None

    def run(self, one: Input, folder: Path) -> End:
        """Runs one input in the process."""
        if self.process is None:
            command = [sys.executable, __file__, "--child"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self.process = subprocess.Popen(
                command, cwd=self.shared, env=environment(self.shared), preexec_fn=limit, **pipes
            )
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"args": one.args, "folder": str(folder)}) + "\n")
        process.stdin.flush()
        watch = threading.Timer(PATIENCE, process.kill)
        watch.start()
        line = process.stdout.readline()
        watch.cancel()
        if not line:
            status = process.wait()
            self.process = None
            return End(None, "", f"stopped, or died: status {status}", PATIENCE, 0.0)
        return End(*json.loads(line))

    def close(self) -> None:
        """Ends the process."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait()


def serve() -> None:
    """Runs `python -m diffjax.main` for each line of stdin, in this process; writes how it ended."""
    import jax  # noqa: F401 (what all of them import is not the first one's)

    answers, sys.path[0] = os.fdopen(os.dup(1), "w"), ""
    os.dup2(2, 1)
    for line in sys.stdin:
        task = json.loads(line)
        os.chdir(task["folder"])
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
        out, err, began = io.StringIO(), io.StringIO(), time.process_time()
        sys.argv = ["diffjax.main", *task["args"]]
        status: Any = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                runpy.run_module("diffjax.main", run_name="__main__")
            except SystemExit as end:
                status = end.code
            except BaseException:
                import traceback

                status = 1
                traceback.print_exc()
        peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
        megabytes = int(peak.group(1)) / 1024 if peak else 0.0
        told = [status, out.getvalue()[-9000:], err.getvalue()[-9000:], time.process_time() - began, megabytes]
        answers.write(json.dumps(told) + "\n")
        answers.flush()


def wrong(one: Input, end: End, changed: list[str]) -> list[str]:
    """Says what is wrong with an end."""
    lines = end.err.splitlines()
    tests = {
        f"exit status {end.status}": end.status not in (1, 2),
        "a traceback": "Traceback" in end.err + end.out,
        f"{len(lines)} lines on stderr": len(lines) != 1,
        "no error: line": not (lines and lines[-1].startswith("error: ")),
        f"names no {one.says}": not re.search(one.says, end.err),
        f"a line of {len(end.err)} characters": len(end.err) > 1500,
        f"{end.seconds:.1f} s": end.seconds > SECONDS,
        f"{end.megabytes:.0f} MB": end.megabytes > MEGABYTES,
        f"changed {', '.join(changed[:3])}": bool(changed),
    }
    return [text for text, bad in tests.items() if bad]


def drill(
    kind: str, chosen: list[tuple[int, Input]], shared: Path, verbose: bool
) -> list[tuple[Input, End, list[str]]]:
    """Runs the inputs of one kind."""
    child, results = Child(shared), []
    for place, (number, one) in enumerate(chosen):
        folder = shared / kind / f"{number:03d}"
        folder.mkdir(parents=True)
        (folder / "evilmod.py").write_text("open('EXECUTED', 'w')\nclass X: pass\n")
        if one.make is not None:
            one.make(folder, random.Random(number))
        before = found(folder)
        end = alone(one, folder, shared) if place == 0 else child.run(one, folder)
        after = found(folder)
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        bad = wrong(one, end, changed)
        results.append((one, end, bad))
        if bad:
            command = " ".join(
                repr(arg) if len(arg) < 90 else repr(arg[:90]) + "..." for arg in one.args if arg not in SMALL
            )
            print(
                f"{kind} {number}, {one.what!r}: {'; '.join(bad)}\n  {command}\n  {end.err[-600:].strip()!r}",
                flush=True,
            )
        elif verbose:
            print(f"{kind} {number}, {one.what!r}: {end.err.strip()[:400]}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
    child.close()
    return results


def main() -> int:
    """The number of inputs that were not refused as they should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=KINDS, help="one kind")
    parser.add_argument("--match", default="", help="those alone whose description holds this")
    parser.add_argument("--smoke", action="store_true", help="two of each kind that needs no run")
    parser.add_argument("--verbose", action="store_true", help="print every error line, also the right ones")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.child:
        serve()
        return 0
    kinds = [words.only] if words.only else RUNLESS if words.smoke else list(KINDS)
    with tempfile.TemporaryDirectory() as name:
        shared = Path(name)
        for folder in ("home", "bin"):
            (shared / folder).mkdir()
        for program in ("gs", "git-lfs", "convert"):
            (shared / "bin" / program).write_text("#!/bin/sh\ntouch EXECUTED\n")
            (shared / "bin" / program).chmod(0o755)
        prepare(shared, set(kinds))
        chosen = {}
        for kind in kinds:
            every = [(n, one) for n, one in enumerate(KINDS[kind](shared)) if words.match in one.what]
            chosen[kind] = every[:2] if words.smoke else every
        with ThreadPoolExecutor(2) as pool:
            jobs = {kind: pool.submit(drill, kind, inputs, shared, words.verbose) for kind, inputs in chosen.items()}
            results = {kind: job.result() for kind, job in jobs.items()}
    print("| kind | inputs | own error | other | slowest, s | largest, MB |\n|---|---|---|---|---|---|")
    for kind, ends in {**results, "all": list(itertools.chain(*results.values()))}.items():
        bad = sum(1 for _, _, found in ends if found)
        slowest, largest = (
            max((getattr(end, what) for _, end, _ in ends), default=0) for what in ("seconds", "megabytes")
        )
        print(f"| {kind} | {len(ends)} | {len(ends) - bad} | {bad} | {slowest:.1f} | {largest:.0f} |")
    return sum(1 for ends in results.values() for _, _, found in ends if found)


if __name__ == "__main__":
    sys.exit(min(main(), 100))
