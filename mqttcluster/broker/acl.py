"""A file of rules, one a line, that say who may publish and subscribe what. A line reads like a sentence::

    # Sensors report for themselves, everybody reads them.
    allow user alice to publish and subscribe sensors/%u/#
    allow everyone to subscribe sensors/#
    deny anonymous to publish control/#

The first rule that speaks about the client, the action and the topic decides; without one the answer is no.
Who: ``everyone``, ``anonymous`` (no user name), ``users`` (any user name), ``user NAME``, ``client ID``. A name with
spaces stands in double quotes. The filter is the rest of the line; ``%u`` in it is the user name, ``%c`` the client id.

A subscription is allowed by a rule that covers it whole, and denied by a rule that it overlaps anywhere: what a filter
may bring is decided when it is subscribed. A name with ``+``, ``#``, ``/`` or a leading ``$`` is not put into a rule:
an allow rule then says nothing, and a deny rule takes every name.
A client chooses its own client id, so ``client`` and ``%c`` protect nothing by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mqttcluster.broker.auth import Identity
from mqttcluster.mqtt.topics import valid_filter

_RULE = re.compile(
    r"(?P<verb>allow|deny)\s+"
    r"(?:(?P<group>everyone|anonymous|users)|(?P<kind>user|client)\s+(?:\"(?P<quoted>[^\"]+)\"|(?P<name>[^\s\"]\S*)))\s+"
    r"to\s+(?P<action>publish\s+and\s+subscribe|subscribe\s+and\s+publish|publish|subscribe)\s+"
    r"(?P<filter>\S.*)"
)
_CURE = (
    "write: allow|deny everyone|anonymous|users|user NAME|client ID to publish|subscribe|publish and subscribe FILTER"
)


class AclFileError(Exception):
    """The file cannot be used; the text names the line and the cure."""


@dataclass(slots=True)
class Rule:
    """One line. `subject` is the word of the rule's who; `name` follows ``user`` and ``client``."""

    allow: bool
    subject: str
    name: str
    publish: bool
    subscribe: bool
    levels: tuple[str, ...]

    def concerns(self, client: Identity) -> bool:
        """Whether the rule speaks about this client."""
        if self.subject == "user":
            return client.username == self.name
        if self.subject == "client":
            return client.client_id == self.name
        if self.subject == "everyone":
            return True
        return (client.username is None) == (self.subject == "anonymous")

    def levels_for(self, client: Identity) -> tuple[str, ...] | None:
        """The filter with the client's names in it. None: the rule says nothing about it."""
        levels: list[str] = []
        for level in self.levels:
            if "%u" in level or "%c" in level:
                filled = _fill(level, client)
                if filled is None:
                    if self.allow:
                        return None
                    filled = "+"
                level = filled
            levels.append(level)
        return tuple(levels)

    @property
    def needs_user(self) -> bool:
        """Whether it depends on a user name, which means nothing unless a password was asked for."""
        return self.subject in ("user", "users", "anonymous") or any("%u" in level for level in self.levels)


def _fill(level: str, client: Identity) -> str | None:
    names = {"%u": client.username, "%c": client.client_id}
    if any(not _harmless(names[mark]) for mark in re.findall("%[uc]", level)):
        return None
    return re.sub("%[uc]", lambda mark: names[mark[0]] or "", level)


def _harmless(name: str | None) -> bool:
    return bool(name) and name is not None and not name.startswith("$") and not re.search(r"[+#/\0]", name)


def _is_hidden(pattern: str, other: str) -> bool:
    """A wildcard in the first level does not reach topics that begin with $ [MQTT-4.7.2-1]."""
    return pattern in ("+", "#") and other.startswith("$")


def covers(rule: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether every topic that the filter `wanted` matches is matched by `rule`. Both are split into levels.

    A plain topic name is a filter that matches itself. In doubt (``+/#`` against ``#``) the answer is no.
    """
    if _is_hidden(rule[0], wanted[0]):
        return False
    for index, level in enumerate(rule):
        if level == "#":
            return True
        if index == len(wanted):
            return False
        if wanted[index] == "#" or (level != "+" and level != wanted[index]):
            return False
    return len(rule) == len(wanted)


def overlaps(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether there is a topic that both filters match. Both are split into levels."""
    if _is_hidden(one[0], other[0]) or _is_hidden(other[0], one[0]):
        return False
    for mine, yours in zip(one, other):
        if mine == "#" or yours == "#":
            return True
        if mine != yours and mine != "+" and yours != "+":
            return False
    longer = one if len(one) > len(other) else other
    return len(one) == len(other) or (abs(len(one) - len(other)) == 1 and longer[-1] == "#")


class AclFile:
    """The `Authorizer` that follows rules."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._publish = [rule for rule in rules if rule.publish]
        self._subscribe = [rule for rule in rules if rule.subscribe]

    def may_publish(self, client: Identity, topic: str) -> bool:
        levels = topic.split("/")
        for rule in self._publish:
            if rule.concerns(client):
                pattern = rule.levels_for(client)
                if pattern is not None and covers(pattern, levels):
                    return rule.allow
        return False

    def may_subscribe(self, client: Identity, filter: str) -> bool:
        levels = filter.split("/")
        if levels[0] == "$share" and len(levels) > 2:
            levels = levels[2:]
        for rule in self._subscribe:
            if rule.concerns(client):
                pattern = rule.levels_for(client)
                if pattern is not None and (covers if rule.allow else overlaps)(pattern, levels):
                    return rule.allow
        return False


def read_rules(path: str) -> list[Rule]:
    """The rules of a file. Raises AclFileError."""
    try:
        with open(path, encoding="utf-8") as stream:
            lines = stream.read().split("\n")
    except OSError as error:
        raise AclFileError(f"cannot read {path}: {error.strerror}; name a readable file") from error
    except UnicodeDecodeError as error:
        raise AclFileError(f"{path} is not UTF-8; save it as UTF-8") from error
    rules = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                rules.append(read_rule(line.strip()))
            except ValueError as error:
                raise AclFileError(f"{path}, line {number}: {error}") from None
    return rules


def read_rule(line: str) -> Rule:
    """One line as a rule. Raises ValueError with the cure."""
    match = _RULE.fullmatch(line)
    if match is None:
        raise ValueError(f"this is no rule; {_CURE}")
    filter = match["filter"]
    # A name stands in one level, so what is valid with a letter in its place is valid with the name.
    if not valid_filter(re.sub("%[uc]", "x", filter)):
        raise ValueError(f"{filter!r} is no topic filter; # is the last level, + a whole one")
    action = match["action"]
    return Rule(
        match["verb"] == "allow",
        match["group"] or match["kind"],
        match["quoted"] or match["name"] or "",
        "publish" in action,
        "subscribe" in action,
        tuple(filter.split("/")),
    )
