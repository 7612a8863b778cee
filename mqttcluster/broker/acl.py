"""A file of rules, one a line, that say who may publish and subscribe what. A line reads like a sentence::

    # Sensors report for themselves, everybody reads them.
    group operators has alice "bob smith"
    allow group operators to publish and subscribe control/#
    allow users to publish and subscribe sensors/%u/#
    allow everyone to subscribe sensors/#
    deny anonymous to publish control/#

The first rule that speaks about the client, the action and the topic decides; without one the answer is no.
Who: ``everyone``, ``anonymous`` (no user name), ``users`` (any user name), ``user NAME``, ``client ID``,
``group NAME``. A name with spaces stands in double quotes. The filter is the rest of the line; ``%u`` in it is the user
name, ``%c`` the client id. A group is a line of its own, before or after the rules that name it, or several lines.

A subscription is allowed by a rule that covers it whole, and denied by a rule that it overlaps anywhere: what a filter
may bring is decided when it is subscribed. A name with ``+``, ``#``, ``/`` or a leading ``$`` is not put into a rule:
an allow rule then says nothing, and a deny rule takes every name.
A client chooses its own client id, so ``client`` and ``%c`` protect nothing by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from heapq import merge
from operator import itemgetter

from mqttcluster.broker.auth import Identity
from mqttcluster.broker.lines import read_lines
from mqttcluster.mqtt.topics import valid_filter

_RULE = re.compile(
    r"(?P<verb>allow|deny)\s+"
    r"(?:(?P<all>everyone|anonymous|users)|(?P<kind>user|client|group)\s+(?:\"(?P<quoted>[^\"]+)\"|(?P<name>[^\s\"]\S*)))\s+"
    r"to\s+(?P<action>publish\s+and\s+subscribe|subscribe\s+and\s+publish|publish|subscribe)\s+"
    r"(?P<filter>\S.*)"
)
_CURE = (
    "write: allow|deny everyone|anonymous|users|user NAME|client ID|group NAME to publish|subscribe|publish and"
    " subscribe FILTER, or: group NAME has USER USER ..."
)
_NAME = r"(?:\"[^\"]+\"|[^\s\"]\S*)"
_GROUP = re.compile(rf"group\s+(?P<name>{_NAME})\s+has\s+(?P<members>{_NAME}(?:\s+{_NAME})*)")
#: The group whose members may subscribe to ``$SYS``.
ADMINISTRATORS = "administrators"


class AclFileError(Exception):
    """The file cannot be used; the text names the line and the cure."""


@dataclass(slots=True)
class Rule:
    """One line. `subject` is the word of the rule's who; `name` follows ``user``, ``client`` and ``group``, whose
    `members` are user names."""

    allow: bool
    subject: str
    name: str
    publish: bool
    subscribe: bool
    levels: tuple[str, ...]
    members: AbstractSet[str] = frozenset()

    def concerns(self, client: Identity) -> bool:
        """Whether the rule speaks about this client."""
        if self.subject == "user":
            return client.username == self.name
        if self.subject == "client":
            return client.client_id == self.name
        if self.subject == "group":
            return client.username in self.members
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
        return self.subject in ("user", "users", "anonymous", "group") or any("%u" in level for level in self.levels)


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


class _Ordered:
    """Rules in the order of the file. A file may have one for each of many users: those of others are not looked at."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._for_all: list[tuple[int, Rule]] = []
        self._named: dict[tuple[str, str | None], list[tuple[int, Rule]]] = {}
        for place, rule in enumerate(rules):
            if rule.subject in ("user", "client"):
                self._named.setdefault((rule.subject, rule.name), []).append((place, rule))
            else:
                self._for_all.append((place, rule))

    def about(self, client: Identity) -> Iterator[Rule]:
        """Those that may concern the client, the first one first."""
        user = self._named.get(("user", client.username), ())
        device = self._named.get(("client", client.client_id), ())
        for _, rule in merge(self._for_all, user, device, key=itemgetter(0)) if user or device else self._for_all:
            yield rule


class AclFile:
    """What rules say. `groups` are user names by the name of their group."""

    def __init__(self, rules: Sequence[Rule], groups: Mapping[str, AbstractSet[str]] | None = None) -> None:
        self._publish = _Ordered(rule for rule in rules if rule.publish)
        self._subscribe = _Ordered(rule for rule in rules if rule.subscribe)
        self._administrators = (groups or {}).get(ADMINISTRATORS, frozenset())
        #: Whether any of it depends on user names, which mean nothing unless somebody checks them.
        self.needs_users = bool(groups) or any(rule.needs_user for rule in rules)

    def leads(self, username: str) -> bool:
        """Whether this user is an administrator."""
        return username in self._administrators

    def decide(self, client: Identity, topic: str, publish: bool) -> bool | None:
        """Whether `client` may publish to a topic name, or else subscribe to a topic filter. None: no rule says."""
        levels = topic.split("/")
        if publish:
            return self._first(self._publish, client, levels, False)
        if levels[0] == "$share" and len(levels) > 2:
            levels = levels[2:]
        return self._first(self._subscribe, client, levels, True)

    def _first(self, rules: _Ordered, client: Identity, levels: Sequence[str], subscribe: bool) -> bool | None:
        for rule in rules.about(client):
            if rule.concerns(client):
                pattern = rule.levels_for(client)
                speaks = overlaps if subscribe and not rule.allow else covers
                if pattern is not None and speaks(pattern, levels):
                    return rule.allow
        return None

    def may_publish(self, client: Identity, topic: str) -> bool:
        return bool(self.decide(client, topic, True))

    def may_subscribe(self, client: Identity, filter: str) -> bool:
        return bool(self.decide(client, filter, False))


def read_acl(path: str) -> AclFile:
    """The rules of a file. Raises AclFileError."""
    rules: list[tuple[int, Rule]] = []
    groups: dict[str, set[str]] = {}
    for number, line in enumerate(read_lines(path, AclFileError), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            group = _GROUP.fullmatch(line)
            if group is not None:
                groups.setdefault(_unquoted(group["name"]), set()).update(_names(group["members"]))
            else:
                rules.append((number, read_rule(line)))
        except ValueError as error:
            raise AclFileError(f"{path}, line {number}: {error}") from None
    for number, rule in rules:
        if rule.subject == "group" and rule.name not in groups:
            raise AclFileError(f"{path}, line {number}: no line says who is in it; write: group {rule.name} has USER")
    return AclFile([replace(rule, members=groups.get(rule.name, frozenset())) for _, rule in rules], groups)


def _names(text: str) -> list[str]:
    return [_unquoted(name) for name in re.findall(_NAME, text)]


def _unquoted(name: str) -> str:
    return name.strip('"')


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
        match["all"] or match["kind"],
        match["quoted"] or match["name"] or "",
        "publish" in action,
        "subscribe" in action,
        tuple(filter.split("/")),
    )
