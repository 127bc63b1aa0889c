"""Makes the notebooks of their text twins: NN_name.ipynb of NN_name.py, NN_name.zh.ipynb of NN_name.zh.py.

    python experiments/notebooks/make.py            # writes all of them
    python experiments/notebooks/make.py --check    # writes nothing; status 1 where one is not what its twin makes

A twin is text in jupytext's percent format. The first code cell of every twin is that of first_cell.py, and the code
of a Chinese twin that of the English one: both are put there first. Needs `pip install "diffjax[notebooks]"`.
"""

import argparse
import hashlib
import re
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
CODE = re.compile(r"^# %%\n.*?(?=^# %%|\Z)", re.MULTILINE | re.DOTALL)  # a code cell of a twin, with its mark
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def main() -> None:
    """Writes or checks every notebook."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, tell what differs")
    check, stale = parser.parse_args().check, 0
    for twin in twins():
        text = told(twin)
        for path, new in ((twin, text), (twin.with_suffix(".ipynb"), notebook(text, name_of(twin)))):
            if not path.is_file() or path.read_text() != new:
                stale += 1
                print(f"{path.name} {'differs' if check else 'written'}")
                if not check:
                    path.write_text(new)
    sys.exit(bool(check and stale))


def twins() -> list[Path]:
    """Lists the text twins, English before Chinese."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"), key=lambda path: (path.name.endswith(".zh.py"), path.name))


def name_of(twin: Path) -> str:
    """Gives the name that a notebook shares with its translation: "01_quick_start"."""
    return twin.name.split(".")[0]


def told(twin: Path) -> str:
    """Reads a twin, its code replaced by what is said once: the first cell, and in a translation every cell."""
    text, first = twin.read_text(), f"# %%\n{(FOLDER / 'first_cell.py').read_text()}\n"
    if not twin.name.endswith(".zh.py"):
        return CODE.sub(lambda _: first, text, count=1)
    english = CODE.findall(told(twin.with_name(f"{name_of(twin)}.py")))
    if len(CODE.findall(text)) != len(english):
        raise SystemExit(
            f"{twin.name} has {len(CODE.findall(text))} code cells, expected the {len(english)} of the English twin; "
            "an empty one, `# %%`, may stand for each."
        )
    cells = iter(english)
    return CODE.sub(lambda _: next(cells), text).rstrip("\n") + "\n"


def notebook(text: str, name: str) -> str:
    """Makes the notebook of a twin's text: no outputs, ids by name and place, so that it never changes by chance."""
    import jupytext
    import nbformat

    made: Any = jupytext.reads(text, fmt="py:percent")
    made.metadata, made.nbformat, made.nbformat_minor = {"kernelspec": KERNEL}, 4, 5
    for place, cell in enumerate(made.cells):
        cell.id = hashlib.sha256(f"{name} {place}".encode()).hexdigest()[:8]
        cell.metadata = {}
    nbformat.validate(made)
    return nbformat.writes(made) + "\n"


if __name__ == "__main__":
    main()
