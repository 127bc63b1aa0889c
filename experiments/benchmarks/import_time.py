"""Seconds that importing diffjax adds to importing jax, each in a fresh process; best of several."""

import argparse
import subprocess
import sys

from counting import report

STATEMENTS = {
    "jax": "import jax, jax.numpy",
    "diffjax": "import jax, jax.numpy, diffjax",
    "core": "import jax, jax.numpy, diffjax.samplers, diffjax.losses, diffjax.analytic, diffjax.training",
    "models": "import jax, jax.numpy, diffjax.models",
}
_TIMED = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"


def main() -> None:
    """One process per statement and repeat, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="one repeat")
    repeats = 1 if parser.parse_args().smoke else 5
    run = lambda code: subprocess.run(
        [sys.executable, "-c", _TIMED.format(code)], capture_output=True, text=True, check=True
    )
    times = {name: [float(run(code).stdout) for _ in range(repeats)] for name, code in STATEMENTS.items()}
    best = {name: min(values) for name, values in times.items()}
    added = {name: round(best[name] - best["jax"], 3) for name in STATEMENTS if name != "jax"}
    report("import_time", {"jax_s": round(best["jax"], 3), "added_s": added, "repeats": repeats})


if __name__ == "__main__":
    main()
