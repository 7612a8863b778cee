"""The Lua scripts, from the files in ``lua/`` beside this one.

A script may begin with lines ``-- include NAME``: the text of those files comes first. Redis keeps scripts by the SHA-1
of their text, so a release that changes one never runs another's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """The text of a script, and the name by which Redis knows it once it has been loaded."""

    text: str
    sha: str


@cache
def script(name: str) -> Script:
    """The script in ``lua/<name>.lua``."""
    parts = []
    lines = _read(name).splitlines(keepends=True)
    while lines[0].startswith("-- include "):
        parts.append(_read(lines.pop(0).removeprefix("-- include ").strip()))
    text = "".join(parts + lines)
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


def _read(name: str) -> str:
    return (files("mqttcluster.storage") / "lua" / f"{name}.lua").read_text(encoding="utf-8")
