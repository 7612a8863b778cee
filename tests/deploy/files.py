"""The files of deploy/ as data, and what of them can be run without a container engine."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mqttcluster.config import OPTIONS
from tests.support.brokers import ROOT

DEPLOY, DOCS = ROOT / "deploy", ROOT / "docs"
COMPOSE = DEPLOY / "docker-compose.yml"
VARIABLES = {option.variable: option for option in OPTIONS}


def compose() -> dict[str, Any]:
    """docker-compose.yml, with its anchors resolved."""
    return dict(yaml.safe_load(COMPOSE.read_text()))


class Image:
    """What deploy/Dockerfile says of the image that it makes: the last stage, as far as it is read by a test."""

    def __init__(self) -> None:
        text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", "")
        #: All instructions in order: word, rest.
        self.instructions: list[tuple[str, str]] = [
            (word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)
        ]
        last = max(number for number, (word, _) in enumerate(self.instructions) if word == "FROM")
        self._stage = self.instructions[last:]

    def all(self, word: str) -> list[str]:
        """What follows each instruction of that name in the last stage."""
        return [rest for name, rest in self._stage if name == word]

    def one(self, word: str) -> str:
        [rest] = self.all(word)
        return rest

    @property
    def entrypoint(self) -> list[str]:
        return list(json.loads(self.one("ENTRYPOINT")))

    @property
    def healthcheck(self) -> list[str]:
        return list(json.loads(self.one("HEALTHCHECK").partition("CMD")[2]))

    @property
    def env(self) -> dict[str, str]:
        pairs = [pair.partition("=") for line in self.all("ENV") for pair in line.split()]
        return {name: value for name, _, value in pairs}

    @property
    def ports(self) -> set[int]:
        return {int(port) for line in self.all("EXPOSE") for port in line.split()}


def twistd(arguments: Sequence[str]) -> list[str]:
    """The command for this checkout, where the image says ``twistd``."""
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from twisted.scripts.twistd import run; run()"
    return [sys.executable, "-c", start, *arguments]


class Container:
    """A process in place of a container: the entry point of the image under some environment.

    It is a `tests.support.process.Recipe`; which listeners are open is left to whoever starts it.
    """

    offers: frozenset[str] = frozenset()

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = dict(env)

    def command(self, run: Path, ports: Mapping[str, int | str]) -> list[str]:
        program, *arguments = Image().entrypoint
        assert program == "twistd"
        return ["env", *(f"{name}={value}" for name, value in self._env.items()), *twistd(arguments)]

    def ready(self, line: str) -> Mapping[str, int | str]:
        return {}


def texts() -> Iterator[tuple[str, str]]:
    """Every file of deploy/: its name there, and its text."""
    for path in sorted(DEPLOY.rglob("*")):
        if path.is_file() and "secret" not in path.relative_to(DEPLOY).parts:
            yield str(path.relative_to(DEPLOY)), path.read_text()
