"""Topic names and filters: the tables of the digest, for the plain rule and for both trees, and their agreement."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttcluster.mqtt import topics
from mqttcluster.mqtt.reasons import ProtocolViolation
from mqttcluster.mqtt.topics import PAUSE, NameTree, TopicTree
from tests.mqtt.strategies import filters, names

COMBINING = "cafe\u0301"

#: text, valid name, valid filter before 5.0, valid filter in 5.0
VALID: list[tuple[str, bool, bool, bool]] = [
    *(
        (text, True, True, True)
        for text in ("a/b", "/", "//", "a/", "/a", "a//b", "a b", "$SYS/x", "$share", "$SHARE/g/a")
    ),
    *((text, False, True, True) for text in ("#", "+", "a/#", "/#", "+/#", "+/+/#", "a/+/b", "+/a/#")),
    *(
        (text, False, False, False)
        for text in ("a#", "a/#/b", "#/a", "##", "#+", "+#", "a/##", "a+", "+a", "a/b+/c", "a/++", "", "a\0b", "\0")
    ),
    ("a" * 65535, True, True, True),
    ("a" * 65536, False, False, False),
    ("é" * 32767, True, True, True),
    ("é" * 32768, False, False, False),
    ("$share/g/a/+", False, True, True),
    ("$share/g//finance", True, True, True),
    ("$share/g/", True, True, False),
    ("$share/g", True, True, False),
    ("$share//a", True, True, False),
    ("$share/", True, True, False),
    ("$share/+/a", False, True, False),
    ("$share/#", False, True, False),
    ("$share/g/#", False, True, True),
    ("$share/g/#/a", False, False, False),
]


@pytest.mark.rule("MQTT-4.7.1-1", "MQTT-4.7.1-2", "MQTT-4.7.1-3", "MQTT-4.7.3-1", "MQTT-4.7.3-2", "MQTT-4.7.3-3")
@pytest.mark.rule5(
    *("MQTT-4.7.0-1", "MQTT-4.7.1-1", "MQTT-4.7.1-2", "MQTT-4.7.3-1", "MQTT-4.7.3-2", "MQTT-4.7.3-3"),
    *("MQTT-4.8.2-1", "MQTT-4.8.2-2"),
)
@pytest.mark.parametrize(("text", "name", "old_filter", "new_filter"), VALID, ids=lambda value: repr(value)[:24])
def test_valid(text: str, name: bool, old_filter: bool, new_filter: bool) -> None:
    """What may be published to and what may be subscribed to is what the standard says, and refusals are errors."""
    assert topics.valid_name(text) is name
    assert topics.valid_filter(text) is old_filter
    assert topics.valid_filter(text, 5) is new_filter
    if name:
        topics.check_name(text)
    else:
        with pytest.raises(ProtocolViolation):
            topics.check_name(text)
    for version, valid in ((4, old_filter), (5, new_filter)):
        if valid:
            topics.check_filter(text, version)
        else:
            with pytest.raises(ProtocolViolation):
                topics.check_filter(text, version)


#: filter, name, whether they match
MATCHES: list[tuple[str, str, bool]] = [
    ("a/b", "a/b", True),
    ("a/b", "a/b/", False),
    ("a/b", "/a/b", False),
    ("a/b", "A/b", False),
    ("a/b", "a/b/c", False),
    ("a//b", "a//b", True),
    ("a//b", "a/b", False),
    ("/", "/", True),
    ("Accounts payable", "Accounts payable", True),
    ("+", "a", True),
    ("+", "a/b", False),
    ("+", "/a", False),
    ("+", "/", False),
    ("+/+", "/", True),
    ("+/+", "/finance", True),
    ("+/+", "a", False),
    ("/+", "/finance", True),
    ("/+", "finance", False),
    ("/+", "/", True),
    ("+/", "a/", True),
    ("+/", "a", False),
    ("sport/+", "sport", False),
    ("sport/+", "sport/", True),
    ("sport/+", "sport/tennis", True),
    ("sport/tennis/+", "sport/tennis/player1/ranking", False),
    ("a/+/c", "a/b/c", True),
    ("a/+/c", "a//c", True),
    ("a/+/c", "a/c", False),
    ("a/+/c", "a/b/d/c", False),
    ("+/+/+", "a/b/c", True),
    ("+/b/+", "a/b/", True),
    ("#", "a", True),
    ("#", "a/b/c", True),
    ("#", "/", True),
    ("#", "/a", True),
    ("a/#", "a", True),
    ("a/#", "a/", True),
    ("a/#", "a/b/c/d", True),
    ("a/#", "a//b", True),
    ("a/#", "ab", False),
    ("a/#", "ab/c", False),
    ("a/#", "/a", False),
    ("/#", "/", True),
    ("/#", "/a/b", True),
    ("/#", "a", False),
    ("+/#", "a", True),
    ("+/#", "a/b/c", True),
    ("+/#", "/", True),
    ("+/tennis/#", "sport/tennis", True),
    ("+/tennis/#", "tennis/x", False),
    ("a/+/#", "a", False),
    ("a/+/#", "a/", True),
    ("a/+/#", "a/b", True),
    ("a/b//#", "a/b/", True),
    ("a/b//#", "a/b", False),
    ("#", "$SYS/uptime", False),
    ("+/uptime", "$SYS/uptime", False),
    ("+/#", "$SYS/uptime", False),
    ("+", "$SYS", False),
    ("/#", "$SYS/uptime", False),
    ("$SYS/#", "$SYS/uptime", True),
    ("$SYS/#", "$SYS", True),
    ("$SYS/+", "$SYS/uptime", True),
    ("$SYS/monitor/+", "$SYS/monitor/Clients", True),
    ("a/#", "a/$x/b", True),
    ("+/$x", "a/$x", True),
    ("/+", "/$SYS", True),
    ("caf\u00e9", COMBINING, False),
    ("\ufeffa", "a", False),
]
#: The same for shared subscriptions of 5.0, with the prefix on.
SHARED_MATCHES: list[tuple[str, str, bool]] = [
    ("$share/g/a/+", "a/b", True),
    ("$share/g/a/+", "$share/g/a/b", False),
    ("$share/g//finance", "/finance", True),
    ("$share/g//finance", "finance", False),
    ("$share/g/#", "a/b", True),
    ("$share/g/#", "$SYS/x", False),
    ("$share/g/$SYS/#", "$SYS/x", True),
]


def check(filter: str, name: str, match: bool) -> None:
    assert topics.matches(filter, name) is match
    tree: TopicTree[str, int] = TopicTree()
    tree.add(filter, "key", 7)
    assert tree.match(name) == [("key", 7)] * match
    retained: NameTree[int] = NameTree()
    retained.set(name, 7)
    assert list(retained.match(filter)) == [(name, 7)] * match


@pytest.mark.rule("MQTT-4.7.2-1", "MQTT-4.7.3-4")
@pytest.mark.rule5("MQTT-4.7.2-1", "MQTT-4.7.3-4")
@pytest.mark.parametrize(("filter", "name", "match"), MATCHES)
def test_match(filter: str, name: str, match: bool) -> None:
    """A subscriber gets exactly what its filter says, live and retained alike."""
    check(filter, name, match)


@pytest.mark.parametrize(("filter", "name", "match"), SHARED_MATCHES)
def test_shared_match(filter: str, name: str, match: bool) -> None:
    """A shared subscription matches by what stands behind the share name; `$` is judged there, too."""
    share, inner = topics.split_share(filter)
    assert share == "g"
    check(inner, name, match)


@pytest.mark.parametrize(
    "text", ["a", "$share", "$share/", "$share/g", "$share/g/", "$share//a", "$SHARE/g/a", "/$share/g/a"]
)
def test_not_shared(text: str) -> None:
    """What is no shared subscription stays as it is."""
    assert topics.split_share(text) == ("", text)


@given(stored=st.lists(st.tuples(filters() | names, st.integers(0, 3)), max_size=20), name=names)
def test_tree_agrees_with_the_rule(stored: list[tuple[str, int]], name: str) -> None:
    """With many subscriptions a message reaches the same receivers as by comparing filter by filter."""
    tree: TopicTree[int, str] = TopicTree()
    for filter, key in stored:
        tree.add(filter, key, filter)
    wanted = sorted({(key, filter) for filter, key in stored if topics.matches(filter, name)})
    assert sorted(tree.match(name)) == wanted
    assert len(tree) == len(set(stored))


@given(stored=st.lists(names, max_size=20), filter=filters() | names)
def test_name_tree_agrees_with_the_rule(stored: list[str], filter: str) -> None:
    """A new subscription finds the same retained messages as by comparing name by name."""
    tree: NameTree[int] = NameTree()
    for index, name in enumerate(stored):
        tree.set(name, index)
    wanted = {name: index for index, name in enumerate(stored) if topics.matches(filter, name)}
    got = list(tree.match(filter))
    assert dict(got) == wanted
    assert len(got) == len(wanted)


@given(
    steps=st.lists(st.tuples(st.booleans(), filters() | names, st.integers(0, 2), st.integers(0, 9)), max_size=40),
    asked=st.lists(names, min_size=1, max_size=4),
)
def test_tree_through_changes(steps: list[tuple[bool, str, int, int]], asked: list[str]) -> None:
    """Subscribing, changing and leaving in any order keeps the tree equal to a dictionary, and leaves no trace."""
    tree: TopicTree[int, int] = TopicTree()
    model: dict[tuple[str, int], int] = {}
    for add, filter, key, value in steps:
        if add:
            assert tree.add(filter, key, value) is ((filter, key) not in model)
            model[filter, key] = value
        else:
            assert tree.remove(filter, key) is (model.pop((filter, key), None) is not None)
        assert len(tree) == len(model)
    for name in asked:
        wanted = sorted((key, value) for (filter, key), value in model.items() if topics.matches(filter, name))
        assert sorted(tree.match(name)) == wanted
    for filter, key in list(model):
        assert tree.remove(filter, key)
    assert len(tree) == 0
    assert not tree._plain
    assert not tree._root.children


@given(steps=st.lists(st.tuples(st.booleans(), names, st.integers(0, 9)), max_size=40), filter=filters())
def test_name_tree_through_changes(steps: list[tuple[bool, str, int]], filter: str) -> None:
    """Retaining, replacing and clearing in any order keeps the tree equal to a dictionary, and leaves no trace."""
    tree: NameTree[int] = NameTree()
    model: dict[str, int] = {}
    for add, name, value in steps:
        if add:
            tree.set(name, value)
            model[name] = value
        else:
            assert tree.discard(name) is (model.pop(name, None) is not None)
        assert len(tree) == len(model)
        assert tree.get(name) == model.get(name)
    assert dict(tree.match(filter)) == {name: value for name, value in model.items() if topics.matches(filter, name)}
    for name in list(model):
        tree.discard(name)
    assert not tree._root.children


def test_one_key_under_several_filters() -> None:
    """A client with overlapping subscriptions is found once for each of them, with what each one asked for."""
    tree: TopicTree[str, int] = TopicTree()
    for value, filter in enumerate(("a/#", "a/+", "a/b", "#")):
        tree.add(filter, "client", value)
    assert sorted(tree.match("a/b")) == [("client", value) for value in range(4)]


def test_adding_again_replaces() -> None:
    """The same filter again changes what was asked and does not count twice."""
    tree: TopicTree[str, int] = TopicTree()
    for filter in ("a/+", "a/b"):
        assert tree.add(filter, "client", 1)
        assert not tree.add(filter, "client", 2)
    assert len(tree) == 2
    assert tree.match("a/b") == [("client", 2), ("client", 2)]


def test_removing_what_is_not_there() -> None:
    """Unsubscribing compares texts: a wildcard does not remove what it would match."""
    tree: TopicTree[str, int] = TopicTree()
    tree.add("a/b", "client", 1)
    tree.add("a/+/c", "client", 1)
    for filter, key in (
        ("a/#", "client"),
        ("a/+", "client"),
        ("a/b", "other"),
        ("a/+/c", "other"),
        ("a/+/c/+", "client"),
    ):
        assert not tree.remove(filter, key)
    assert len(tree) == 2


def test_retained_may_change_while_it_is_read() -> None:
    """Reading out many retained messages in several turns is safe while others are published and cleared."""
    tree: NameTree[int] = NameTree()
    for index in range(100):
        tree.set(f"a/{index}", index)
    found = tree.match("a/#")
    got = [next(found) for _ in range(10)]
    for index in range(100):
        tree.discard(f"a/{index}")
    tree.set("a/new/deep", 1)
    tree.set(got[0][0], 1000)
    rest = list(found)
    assert set(rest) <= {("a/new/deep", 1)}


LEVELS = 32_768


@pytest.mark.parametrize("filter", ["+/" * (LEVELS - 1) + "+", "+/" * (LEVELS - 1) + "#", "/" * 65_534 + "+", "#"])
def test_the_deepest_topics(filter: str) -> None:
    """A topic with as many levels as fit into 65535 bytes is matched, stored and forgotten like any other."""
    name = "/" * (filter.count("/") or 65_535)
    assert topics.valid_filter(filter)
    assert topics.valid_name(name)
    tree: TopicTree[int, int] = TopicTree()
    tree.add(filter, 1, 1)
    assert tree.match(name) == [(1, 1)]
    assert tree.match(name + "x") == [(1, 1)]
    assert tree.match(name[2:]) == [(1, 1)] * (filter == "#")
    retained: NameTree[int] = NameTree()
    retained.set(name, 1)
    retained.set("a", 2)
    assert (name, 1) in list(retained.match(filter))
    assert tree.remove(filter, 1)
    assert retained.discard(name)
    assert len(tree) == 0
    assert len(retained) == 1


def test_deep_trees_are_dropped_whole() -> None:
    """Throwing a deep tree away, or asking it something short, does no harm either."""
    tree: TopicTree[int, int] = TopicTree()
    tree.add("+/" * (LEVELS - 1) + "+", 1, 1)
    assert tree.match("a/b") == []
    del tree
    retained: NameTree[int] = NameTree()
    retained.set("/" * 65_535, 1)
    assert list(retained.match("+/+")) == []
    del retained


def test_every_node_is_visited_once() -> None:
    """All 1024 mixtures of `a` and `+` over ten levels match one name, and each of them is found once."""
    tree: TopicTree[int, int] = TopicTree()
    for mask in range(1024):
        tree.add("/".join("+" if mask >> bit & 1 else "a" for bit in range(10)), mask, mask)
    assert sorted(tree.match("/".join("a" * 10))) == [(mask, mask) for mask in range(1024)]


def test_a_search_in_vain_pauses() -> None:
    """A filter that looks at all names and finds none of them gives its caller a chance to do something else."""
    tree: NameTree[int] = NameTree()
    for number in range(10 * PAUSE):
        tree.set(f"a/{number}", number)
    assert list(tree.search("+/+/none")) == [None] * 10
    assert list(tree.match("+/+/none")) == []
