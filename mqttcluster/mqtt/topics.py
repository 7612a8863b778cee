"""Topic names and topic filters: what is valid, what matches what, and two indexes that answer it for many at once.

``check_name``, ``check_filter``    raise ProtocolViolation; ``valid_name``, ``valid_filter`` say it as a bool
``split_share``, ``is_shared``      a shared subscription's filter taken apart (MQTT 5.0)
``matches``                         one filter against one name, the rule in its plainest form
``TopicTree``                       filters stored, asked with a name: who gets this message?
``NameTree``                        names stored, asked with a filter: which retained messages are there?

An invalid topic is a Protocol Error (0x82): the packet could be read, its topic is not allowed. Nothing here recurses,
so that a topic of 65535 slashes is only slow in proportion to its length.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from mqttcluster.mqtt.reasons import ProtocolViolation
from mqttcluster.mqtt.wire import MAX_FIELD

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_SHARE = "$share/"
#: Levels that `NameTree.search` looks at between two pauses.
PAUSE = 250


def _flaw(topic: str) -> str:
    """What is wrong with names and filters alike, or an empty text."""
    if not topic:
        return "is empty"  # [MQTT-4.7.3-1]
    if "\0" in topic:
        return "contains U+0000"  # [MQTT-4.7.3-2]
    # One character has at most four bytes, so that most topics need no encoding to be known as short enough.
    if len(topic) * 4 > MAX_FIELD and len(topic.encode("utf-8", "surrogatepass")) > MAX_FIELD:
        return "is longer than 65535 bytes"  # [MQTT-4.7.3-3]
    return ""


def _name_flaw(topic: str) -> str:
    if "#" in topic or "+" in topic:
        return "contains a wildcard"  # [MQTT-4.7.1-1]
    return _flaw(topic)


def _filter_flaw(topic: str, version: int) -> str:
    flaw = _flaw(topic)
    if flaw:
        return flaw
    if version >= 5 and topic.startswith(_SHARE):
        share, slash, topic = topic[len(_SHARE) :].partition("/")
        if not share or "+" in share or "#" in share:
            return "has no valid share name"  # [MQTT-4.8.2-1] and [MQTT-4.8.2-2] of 5.0
        if not slash or not topic:
            return "has no filter behind the share name"
    if "#" in topic and (topic.index("#") != len(topic) - 1 or (topic != "#" and topic[-2] != "/")):
        return "has a # that is not alone in the last level"  # [MQTT-4.7.1-2]
    if "+" in topic and any("+" in level and level != "+" for level in topic.split("/")):
        return "has a + that is not alone in its level"  # [MQTT-4.7.1-3]
    return ""


def valid_name(topic: str) -> bool:
    """Whether `topic` may stand in a PUBLISH or a will. Names that begin with ``$`` are valid, if reserved."""
    return not _name_flaw(topic)


def valid_filter(filter: str, version: int = 4) -> bool:
    """Whether `filter` may stand in a SUBSCRIBE. From `version` 5 on, ``$share/`` begins a shared subscription."""
    return not _filter_flaw(filter, version)


def check_name(topic: str) -> None:
    """ProtocolViolation unless `valid_name`."""
    flaw = _name_flaw(topic)
    if flaw:
        raise ProtocolViolation(f"the topic name {flaw}")


def check_filter(filter: str, version: int = 4) -> None:
    """ProtocolViolation unless `valid_filter`."""
    flaw = _filter_flaw(filter, version)
    if flaw:
        raise ProtocolViolation(f"the topic filter {flaw}")


def split_share(filter: str) -> tuple[str, str]:
    """(share name, filter to match with); the share name is empty for a filter that is not shared."""
    if filter.startswith(_SHARE):
        share, _, inner = filter[len(_SHARE) :].partition("/")
        if share and inner:
            return share, inner
    return "", filter


def is_shared(filter: str) -> bool:
    """Whether a filter of MQTT 5.0 is that of a shared subscription."""
    return bool(split_share(filter)[0])


def has_wildcard(filter: str) -> bool:
    return "+" in filter or "#" in filter


def matches(filter: str, name: str) -> bool:
    """Whether a valid `filter`, without its share prefix, matches a valid topic `name`.

    Characters are compared as they are, without any normalization [MQTT-4.7.3-4].
    """
    if name[:1] == "$" and filter[:1] in ("#", "+"):
        return False  # [MQTT-4.7.2-1]
    wanted = filter.split("/")
    levels = name.split("/")
    if wanted[-1] == "#":
        wanted.pop()  # what is left must be a beginning of the name, the whole name included
        if len(wanted) > len(levels):
            return False
    elif len(wanted) != len(levels):
        return False
    return all(want in ("+", level) for want, level in zip(wanted, levels, strict=False))


class _FilterNode(Generic[K, V]):
    """One level of wildcard filters; `values` belong to the filter that ends here."""

    __slots__ = ("children", "values")

    def __init__(self) -> None:
        self.children: dict[str, _FilterNode[K, V]] = {}
        self.values: dict[K, V] = {}


class TopicTree(Generic[K, V]):
    """Filters, each with a dictionary key -> value; `match` finds all that match a name.

    Filters without wildcards, the most by far, are found in one look-up. The others are a tree by levels; a match
    visits each of its nodes at most once. `len()` is the number of (filter, key) pairs. Filters are taken as valid and
    without their share prefix.
    """

    def __init__(self) -> None:
        self._plain: dict[str, dict[K, V]] = {}
        self._root: _FilterNode[K, V] = _FilterNode()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, filter: str, key: K, value: V) -> bool:
        """Store `value`, in place of what `key` had at this `filter`. True if it had nothing."""
        if has_wildcard(filter):
            node = self._root
            for level in filter.split("/"):
                child = node.children.get(level)
                if child is None:
                    child = node.children[level] = _FilterNode()
                node = child
            values = node.values
        else:
            values = self._plain.setdefault(filter, {})
        before = len(values)
        values[key] = value
        added = len(values) - before
        self._size += added
        return added == 1

    def remove(self, filter: str, key: K) -> bool:
        """Forget what `key` has at this `filter`. False if it had nothing."""
        if not has_wildcard(filter):
            values = self._plain.get(filter)
            if values is None or key not in values:
                return False
            del values[key]
            if not values:
                del self._plain[filter]
        else:
            path = [self._root]
            levels = filter.split("/")
            for level in levels:
                child = path[-1].children.get(level)
                if child is None:
                    return False
                path.append(child)
            if key not in path[-1].values:
                return False
            del path[-1].values[key]
            while levels and not path[-1].values and not path[-1].children:
                path.pop()
                del path[-1].children[levels.pop()]
        self._size -= 1
        return True

    def match(self, name: str) -> list[tuple[K, V]]:
        """(key, value) of every filter that matches `name`; a key comes once for each of its filters that does."""
        found: list[tuple[K, V]] = []
        plain = self._plain.get(name)
        if plain is not None:
            found += plain.items()
        if not self._root.children:
            return found
        nodes = [self._root]
        wild = name[:1] != "$"  # [MQTT-4.7.2-1] holds for the first level only
        for level in name.split("/"):
            below: list[_FilterNode[K, V]] = []
            for node in nodes:
                children = node.children
                if wild:
                    if "#" in children:
                        found += children["#"].values.items()
                    if "+" in children:
                        below.append(children["+"])
                if level in children:
                    below.append(children[level])
            if not below:
                return found
            nodes = below
            wild = True
        for node in nodes:
            found += node.values.items()
            if "#" in node.children:  # "a/#" matches "a" as well
                found += node.children["#"].values.items()
        return found


class _NameNode:
    """One level of topic names; `name` is the whole name that ends here, or None."""

    __slots__ = ("children", "name")

    def __init__(self) -> None:
        self.children: dict[str, _NameNode] = {}
        self.name: str | None = None


class NameTree(Generic[V]):
    """Topic names, each with one value; `match` finds all that a filter matches. `len()` is the number of names."""

    def __init__(self) -> None:
        self._values: dict[str, V] = {}
        self._root = _NameNode()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, name: str) -> V | None:
        return self._values.get(name)

    def set(self, name: str, value: V) -> None:
        """Store `value`, in place of what `name` had."""
        if name not in self._values:
            node = self._root
            for level in name.split("/"):
                child = node.children.get(level)
                if child is None:
                    child = node.children[level] = _NameNode()
                node = child
            node.name = name
        self._values[name] = value

    def discard(self, name: str) -> bool:
        """Forget `name`. False if it was not there."""
        if name not in self._values:
            return False
        del self._values[name]
        path = [self._root]
        levels = name.split("/")
        for level in levels:
            path.append(path[-1].children[level])
        path[-1].name = None
        while levels and path[-1].name is None and not path[-1].children:
            path.pop()
            del path[-1].children[levels.pop()]
        return True

    def match(self, filter: str) -> Iterator[tuple[str, V]]:
        """(name, value) of every name that `filter`, without its share prefix, matches; in no particular order.

        The tree may change between two steps: what was removed no longer comes, what was added may come.
        """
        return (found for found in self.search(filter) if found is not None)

    def search(self, filter: str) -> Iterator[tuple[str, V] | None]:
        """As `match`, with None now and then, however little there is to be found: a filter may look at all names in
        vain, and who asks may have something else to do meanwhile."""
        levels = filter.split("/")
        stack: list[tuple[Iterator[_NameNode], int]] = [(iter((self._root,)), 0)]
        looked = 0
        while stack:
            nodes, depth = stack[-1]
            node = next(nodes, None)
            if node is None:
                stack.pop()
                continue
            looked += 1
            if looked % PAUSE == 0:
                yield None
            level = levels[depth] if depth < len(levels) else ""
            if depth == len(levels) or level == "#":
                # The root is no topic, and "#" as a filter stands for at least one level: its `name` is None.
                if node.name is not None and node.name in self._values:
                    yield node.name, self._values[node.name]
                if depth == len(levels):
                    continue
            if level in ("#", "+"):
                below = depth if level == "#" else depth + 1
                # A copy, for the tree may change meanwhile; walked step by step, for there may be very many.
                if node is self._root:
                    texts = list(node.children.items())
                    stack.append(((child for text, child in texts if text[:1] != "$"), below))  # [MQTT-4.7.2-1]
                else:
                    stack.append((iter(list(node.children.values())), below))
            elif level in node.children:
                stack.append((iter((node.children[level],)), depth + 1))
