"""The configuration as it is read: from the command line, the environment, a TOML file.

The command line wins over the environment, the environment over the file, the file over the default. `load` finds all
problems before it gives up, so that one look at the output is enough. What options there are is told by `config`.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mqttcluster import kinds
from mqttcluster.config import OPTIONS, PREFIX, Config, Option

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_COMMAND_LINE, _ENVIRONMENT = "command line", "environment"
#: What Kubernetes and Docker links put into the environment for a service whose name begins with mqttcluster.
_SERVICE_LINK = re.compile(
    PREFIX + r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_BY_NAME = {option.name: option for option in OPTIONS}


@dataclass(frozen=True)
class Problem:
    """Something that keeps the broker from starting: the key, where it came from, what is wrong and the cure."""

    where: str
    text: str

    def __str__(self) -> str:
        return f"mqttcluster: {self.where}: {self.text}".replace("\n", " ")


@dataclass
class Loaded:
    """A configuration, where its values came from, and all that is wrong with it.

    `sources` gives for each option name the words a problem begins with. While there are problems, `config` has the
    default in place of every value that could not be read.
    """

    config: Config
    sources: dict[str, str]
    problems: list[Problem]

    def complain(self, name: str, text: str) -> None:
        """Add a problem with the option of that name."""
        self.problems.append(Problem(self.sources[name], text))


def load(arguments: Mapping[str, Sequence[str]], environment: Mapping[str, str], base: str) -> Loaded:
    """Read the configuration. `arguments` maps option names to what the command line gave (flags: ``["true"]``);
    relative paths are relative to `base`, the configuration file's own to the current directory."""
    given: dict[str, tuple[str, Any]] = {}
    problems: list[Problem] = []
    variables = _environment(environment, problems)
    path = (arguments.get("config") or [variables.get("config", "")])[-1]
    if path:
        given_here = "config" in arguments
        source = f"--config ({_COMMAND_LINE})" if given_here else f"{_BY_NAME['config'].variable} ({_ENVIRONMENT})"
        for name, entry in _file(path, source, problems).items():
            given[name] = (f"{name} ({path})", entry)
    for name, text in variables.items():
        option = _BY_NAME[name]
        given[name] = (f"{option.variable} ({_ENVIRONMENT})", text.split() if option.repeatable else text)
    for name, texts in arguments.items():
        given[name] = (f"--{name} ({_COMMAND_LINE})", list(texts) if _BY_NAME[name].repeatable else texts[-1])

    sources = {option.name: f"{option.name} (default)" for option in OPTIONS}
    values: dict[str, Any] = {}
    for option in OPTIONS:
        value: Any = option.default() if callable(option.default) else option.default
        if option.name in given:
            sources[option.name], raw = given[option.name]
            try:
                value = _read(option, raw)
            except ValueError as error:
                problems.append(Problem(sources[option.name], str(error)))
        if option.kind is kinds.FILE and option.name != "config":
            value = os.path.join(base, value) if value else ""
        elif option.kind is kinds.STORE and value.startswith("sqlite:"):
            value = "sqlite:" + os.path.join(base, value.removeprefix("sqlite:"))
        values[option.name.replace("-", "_")] = value
    return Loaded(Config(**values), sources, problems)


def _read(option: Option, raw: Any) -> Any:
    if not option.repeatable:
        return option.kind.read(raw)
    items = [raw] if isinstance(raw, str) else raw
    if not isinstance(items, list):
        raise ValueError(f'{raw!r} is no list; write {option.name} = ["..."]')
    if items == ["none"]:
        return ()
    return tuple(option.kind.read(item) for item in items)


def _environment(environment: Mapping[str, str], problems: list[Problem]) -> dict[str, str]:
    """The options set in the environment. An empty variable counts as not set: compose files produce those."""
    names = {option.variable: option.name for option in OPTIONS}
    found: dict[str, str] = {}
    for variable in sorted(environment):
        if variable in names:
            if environment[variable].strip():
                found[names[variable]] = environment[variable]
        elif variable.startswith(PREFIX) and not _SERVICE_LINK.fullmatch(variable):
            problems.append(Problem(f"{variable} ({_ENVIRONMENT})", "no such option" + suggest(variable, names)))
    return found


def _file(path: str, source: str, problems: list[Problem]) -> dict[str, Any]:
    try:
        with open(path, "rb") as stream:
            content = tomllib.load(stream)
    except OSError as error:
        problems.append(Problem(source, f"cannot read {path}: {error.strerror}; name a readable file"))
        return {}
    except ValueError as error:
        problems.append(Problem(source, f"{path} is not TOML: {error}"))
        return {}
    known = {option.name for option in OPTIONS if option.in_file}
    for key in content:
        if key == "config":
            problems.append(Problem(f"{key} ({path})", "a file cannot name another; use the command line"))
        elif key not in known:
            problems.append(Problem(f"{key} ({path})", "no such option" + suggest(key, known)))
    return {key: value for key, value in content.items() if key in known}


def suggest(word: str, known: Mapping[str, object] | set[str]) -> str:
    """The end of a message about an unknown `word`."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else "; docs/configuration.md has them all"
