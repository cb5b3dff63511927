"""Write docs/flags.md from the table of aliases: `python scripts/write_flags.py`. A test compares the page with it."""

from __future__ import annotations

from pathlib import Path

from mlx_phi3v.aliases import ALIASES, REFUSALS, flag

PAGE = Path(__file__).resolve().parents[1] / "docs" / "flags.md"

INTRODUCTION = """# Flags of other tools

Type the flags you know from mlx-lm, mlx-vlm, transformers, TRL or peft. Those below are read as ours, with `-` or `_`,
and as keys of a `--config` file too. A flag wins over the file. The same setting twice in one file is an error.

This page is written by `scripts/write_flags.py` from `mlx_phi3v/aliases.py`. `--help` names the aliases of each flag.

## The same under another name

| theirs | ours | in |
|---|---|---|
"""

REFUSED = """
## Answered with what does the same here

These stop a command with one sentence, before anything is loaded.

| theirs | in | answer |
|---|---|---|
"""


def _commands(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "every command that has it"


def _flags(names: tuple[str, ...]) -> str:
    return " ".join(f"`{flag(name)}`" for name in names)


def page() -> str:
    """The page as Markdown."""
    aliases = [
        f"| {_flags(alias.names)} | `--{alias.field.replace('_', '-')}` | {_commands(alias.commands)} |" for alias in ALIASES
    ]
    refused = [f"| {_flags(item.names)} | {_commands(item.commands)} | {item.answer} |" for item in REFUSALS]
    return INTRODUCTION + "\n".join(aliases) + "\n" + REFUSED + "\n".join(refused) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
