"""Where pages stand in the navigation. Cards, studies and the API find their places themselves."""

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]

# A page of docs/ that no section names stands under "More".
SECTIONS: dict[str, list[str]] = {
    "Start": ["tutorial.md", "install.md", "choose.md", "dictionary.md", "hardware.md"],
    "Methods": ["methods.md", "series.md", "notation.md", "results.md"],
    "Use": ["runs.md", "data.md", "scale.md", "editing.md", "sweeps.md", "weights.md", "pretrained.md"],
    "Extend": ["extending.md", "adding.md", "repo/CONTRIBUTING.md"],
}
CHINESE = ["zh/index.md", "zh/tutorial.md", "zh/choose.md", "zh/series.md", "zh/notation.md"]
RESERVED = {"index.md"}


def front(path: Path) -> dict[str, str]:
    """The plain `key: value` lines of a page's front matter."""
    match = re.match(r"---\n(.*?)\n---\n", path.read_text(), re.DOTALL)
    return dict(re.findall(r"^(\w+): (.*?)\s*$", match[1], re.MULTILINE)) if match else {}


def heading(path: Path) -> str:
    """A page's first heading."""
    found = re.search(r"^# (.+)$", path.read_text(), re.MULTILINE)
    return found[1] if found else path.stem


def families() -> list[str]:
    """The families in their order, that of docs/methods.md."""
    text = (DOCS / "methods.md").read_text()
    return re.findall(r"^### (.+)$", text, re.MULTILINE)


def cards(folder: Path) -> dict[str, list[Path]]:
    """The cards of a folder by family; those of a family that docs/methods.md does not have come last."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.md"), key=lambda path: front(path).get("title", path.stem).lower()):
        found.setdefault(front(path).get("family", "Others"), []).append(path)
    order = families()
    rank = lambda family: order.index(family) if family in order else len(order)
    return {family: found[family] for family in sorted(found, key=rank)}


def sentence(path: Path) -> str:
    """The first sentence of a card, up to its full stop."""
    text = re.sub(r"\A---\n.*?\n---\n", "", path.read_text(), flags=re.DOTALL)
    body = re.search(r"^# .+\n+((?:.+\n)+)", text, re.MULTILINE)
    plain = " ".join(body[1].split()) if body else ""
    return re.split(r"(?<=[.。])(?:\s|(?<=。))", plain, maxsplit=1)[0]


def index(folder: Path, title: str, text: str) -> str:
    """The page that lists a folder's cards by family."""
    lines = [f"# {title}", "", text, ""]
    for family, paths in cards(folder).items():
        lines += [f"## {family}", ""]
        lines += [f"- [{front(p).get('title', p.stem)}]({p.name}): {sentence(p)}" for p in paths]
        lines.append("")
    return "\n".join(lines)


def indices() -> dict[str, str]:
    """The pages that list the cards, where there are any: place in the site -> Markdown."""
    made = {}
    for folder, title, text in (
        (
            "cards",
            "Cards",
            "One page for each method: what it is, its equations with their lines of code, command, figures, traps.",
        ),
        ("zh/cards", "卡片", "每个方法一页：是什么、公式与对应的代码行、命令、实测、注意。"),
    ):
        if list((DOCS / folder).glob("*.md")):
            made[f"{folder}/index.md"] = index(DOCS / folder, title, text)
    return made


def nav(generated: set[str]) -> list[Any]:
    """The navigation, of the pages that are there.

    Args:
        generated: places of the pages that the build makes.
    """
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} | generated
    kept = lambda pages: [page for page in pages if page in there]
    sections: list[Any] = ["index.md", *({name: kept(pages)} for name, pages in SECTIONS.items())]
    sections[2]["Methods"] += _cards("cards", "Cards")
    sections[3]["Use"] += kept(["reference/commands.md"])
    sections[4]["Extend"] += [
        {"API": ["api/index.md", *sorted(p for p in there if p.startswith("api/") and p != "api/index.md")]}
    ]
    named = {page for pages in SECTIONS.values() for page in pages} | RESERVED
    if more := sorted(page for page in there if "/" not in page and page not in named):
        sections.append({"More": more})
    chinese = kept(CHINESE)
    chinese += sorted(p for p in there if re.fullmatch(r"zh/[^/]+\.md", p) and p not in CHINESE)
    if chinese or cards(DOCS / "zh/cards"):
        sections.append({"中文": [*chinese, *_cards("zh/cards", "卡片")]})
    return sections


def _cards(folder: str, title: str) -> list[Any]:
    groups = cards(DOCS / folder)
    if not groups:
        return []
    return [
        {title: [f"{folder}/index.md", *({f: [f"{folder}/{p.name}" for p in paths]} for f, paths in groups.items())]}
    ]
