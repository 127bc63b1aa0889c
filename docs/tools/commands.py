"""The command reference, from the parsers themselves and from the table of a config's fields."""

import argparse
import io
import re
import tokenize
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def escaped(text: str) -> str:
    """Writes what Markdown or a table would read as entities."""
    return re.sub(r"[\\\\*_<>\[\]|`]", lambda match: f"&#{ord(match[0])};", text)


def takes(action: argparse.Action) -> str:
    """What a flag takes: its choices, its own word, a kind of number, or nothing."""
    if action.nargs == 0:
        return ""
    if action.choices:
        return "one of " + ", ".join(f"`{choice}`" for choice in action.choices)
    kinds: dict[Any, str] = {int: "a whole number", float: "a number"}
    return f"`{action.metavar}`" if action.metavar else kinds.get(action.type, "")


def row(action: argparse.Action) -> str:
    """A flag's row: its name; what it says of itself, what it takes, its default."""
    default = "" if action.default in (None, "", False, argparse.SUPPRESS) else f"default `{action.default}`"
    notes = "; ".join(note for note in (takes(action), "required" if action.required else default) if note)
    flag = "<br>".join(f"`{name}`" for name in action.option_strings)
    said = ". ".join(text for text in (escaped(action.help or ""), notes[:1].upper() + notes[1:]) if text)
    return f"| {flag} | {said} |"


def of_parser(parser: argparse.ArgumentParser) -> str:
    """A command's section."""
    rows = [row(action) for action in parser._actions]
    return "\n".join(
        [
            f"## `{parser.prog}`",
            "",
            escaped(parser.description or ""),
            "",
            "| flag | |",
            "|---|---|",
            *rows,
            "",
            escaped(parser.epilog or ""),
            "",
        ]
    )


def remarks(path: Path) -> dict[str, str]:
    """Comments at the ends of lines that name a field: name -> comment."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.COMMENT and (m := re.match(r'\s*"?(\w+)"?\s*[:=]', token.line)):
            found[m[1]] = token.string.lstrip("# ")
    return found


def fields(config: Any, before: str = "") -> list[tuple[str, Any]]:
    """The fields of a config with their values, "a.b" names in order."""
    made = []
    for key in config:
        value = config[key]
        made += fields(value, f"{before}{key}.") if hasattr(value, "keys") else [(f"{before}{key}", value)]
    return made


def of_fields() -> str:
    """The table of the fields that every config has, with the defaults that a recipe differs from."""
    from diffjax.runs import settings

    said = remarks(ROOT / "diffjax" / "runs" / "settings.py")
    rows = []
    for name, value in fields(settings.defaults(settings.GROUPS)):
        *group, leaf = name.split(".")
        key = group[0] if leaf == "name" and group else leaf
        aside = next((field for field, home in settings.HOMES.items() if home == name), key)
        rows.append(f"| `--config.{name}` | `{value!r}` | {escaped(said.get(aside, ''))} |")
    text = (
        "`--config.a.b=value` sets a field; a group's `name` chooses its part, whose options are fields of the group "
        "(`--config.schedule.name=EDM --config.schedule.t_max=40`). These are the fields that a recipe starts from; "
        "`--mode=show` prints a recipe's own."
    )
    return "\n".join(["## Fields of a config", "", text, "", "| field | default | |", "|---|---|---|", *rows, ""])


def page() -> str:
    """The page, as Markdown."""
    from diffjax import main
    from diffjax.pretrained import __main__ as pretrained
    from diffjax.sweeps import __main__ as sweeps

    text = "Made from the parsers when the site is built. What a command writes is in [runs](../runs.md)."
    parts = [of_parser(main.parser()), of_parser(sweeps.parser()), of_parser(pretrained.parser()), of_fields()]
    return "\n".join(["# Commands", "", text, "", *parts])


if __name__ == "__main__":
    print(page())
