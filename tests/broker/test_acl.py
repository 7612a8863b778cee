"""ACL files: how a rule reads, and that no filter, name or wildcard gets more than a rule gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttcluster.broker.acl import AclFile, AclFileError, Rule, covers, overlaps, read_acl, read_rule
from mqttcluster.broker.auth import AllowAll, Identity
from mqttcluster.mqtt.topics import matches

ALICE = Identity("sensor-1", "alice")
NOBODY = Identity("guest-1", None)


def acl(*lines: str) -> AclFile:
    return AclFile([read_rule(line) for line in lines])


def test_without_rules_the_answer_is_no() -> None:
    """With an ACL file, what it does not allow is refused."""
    assert not acl().may_publish(ALICE, "a")
    assert not acl().may_subscribe(ALICE, "a")
    assert AllowAll().may_publish(ALICE, "a")
    assert AllowAll().may_subscribe(ALICE, "#")


def test_the_first_rule_that_applies_decides() -> None:
    """Order is the only priority."""
    rules = ("deny user alice to publish a/b", "allow everyone to publish a/#")
    assert not acl(*rules).may_publish(ALICE, "a/b")
    assert acl(*rules).may_publish(NOBODY, "a/b")
    assert acl(*reversed(rules)).may_publish(ALICE, "a/b")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["allow", "deny"]),
            st.sampled_from(["everyone", "users", "anonymous", "user alice", "user bob", "client sensor-1"]),
            st.sampled_from(["a", "a/#", "b"]),
        ),
        max_size=12,
    ),
    st.sampled_from([ALICE, NOBODY, Identity("x", "bob"), Identity("sensor-1", None)]),
    st.sampled_from(["a", "b"]),
)
def test_the_order_of_the_file_holds(rules: list[tuple[str, str, str]], client: Identity, topic: str) -> None:
    """Whomever rules name, the first one that speaks of this client and topic decides."""
    lines = [f"{verb} {who} to publish {filter}" for verb, who, filter in rules]
    first = [
        rule.allow
        for rule in map(read_rule, lines)
        if rule.concerns(client) and covers(rule.levels, topic.split("/"))
    ][:1]
    assert acl(*lines).decide(client, topic, True) == (first[0] if first else None)


def test_rules_for_others_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may have a rule for each of many users: a publish does not wait until all of them were looked at."""
    lines = [f"allow user u{number} to publish a" for number in range(500)]
    lines += [f"allow client c{number} to publish a" for number in range(500)]
    rules = acl(*lines, "allow user alice to publish a", "allow everyone to publish b")
    looked_at: list[Rule] = []
    concerns = Rule.concerns
    monkeypatch.setattr(Rule, "concerns", lambda rule, client: looked_at.append(rule) or concerns(rule, client))
    assert rules.may_publish(ALICE, "b")
    assert not rules.may_publish(NOBODY, "a")
    assert len(looked_at) == 3


def test_actions_are_told_apart() -> None:
    """A rule about one action says nothing about the other."""
    assert acl("allow everyone to publish a").may_publish(ALICE, "a")
    assert not acl("allow everyone to publish a").may_subscribe(ALICE, "a")
    assert not acl("allow everyone to subscribe a").may_publish(ALICE, "a")
    both = acl("allow everyone to publish and subscribe a")
    assert both.may_publish(ALICE, "a")
    assert both.may_subscribe(ALICE, "a")


@pytest.mark.parametrize(
    ("who", "alice", "nobody"),
    [
        ("everyone", True, True),
        ("anonymous", False, True),
        ("users", True, False),
        ("user alice", True, False),
        ('user "alice"', True, False),
        ("user bob", False, False),
        ("client guest-1", False, True),
    ],
)
def test_who(who: str, alice: bool, nobody: bool) -> None:
    """Rules speak of everyone, of clients with and without a user name, of one user, of one client id."""
    rules = acl(f"allow {who} to publish a")
    assert rules.may_publish(ALICE, "a") is alice
    assert rules.may_publish(NOBODY, "a") is nobody


def test_names_in_rules() -> None:
    """%u and %c stand for the client's own names, also within a level."""
    rules = acl("allow users to publish and subscribe u/%u/#", "allow everyone to publish c/dev-%c")
    assert rules.may_publish(ALICE, "u/alice/x")
    assert rules.may_subscribe(ALICE, "u/alice/+/y")
    assert not rules.may_publish(ALICE, "u/bob/x")
    assert not rules.may_subscribe(ALICE, "u/+/x")
    assert rules.may_publish(NOBODY, "c/dev-guest-1")
    assert not rules.may_publish(NOBODY, "c/dev-sensor-1")


@pytest.mark.parametrize("name", ["+", "#", "a/b", "a+", "", "$SYS", "/", "x#", None])
def test_no_name_widens_a_rule(name: str | None) -> None:
    """Who calls himself + or # gets no more than others: an allow rule with such a name says nothing."""
    rules = acl("allow everyone to publish and subscribe %u/#", "allow everyone to publish and subscribe a/%u/b")
    client = Identity("c", name)
    for topic in ("a/x/b", "a/+/b", "#", "+/#", "$SYS/#", "$SYS/x", "a/b/#", "/x", "x/y", f"{name}/x"):
        assert not rules.may_subscribe(client, topic)
        assert not rules.may_publish(client, topic)


@pytest.mark.parametrize("name", ["+", "#", "a/b", "", "$x", None])
def test_no_name_escapes_a_denial(name: str | None) -> None:
    """A deny rule with a name that cannot stand in it takes every name."""
    rules = acl("deny everyone to publish and subscribe private/%u/#", "allow everyone to publish and subscribe #")
    client = Identity("c", name)
    assert not rules.may_publish(client, "private/whoever/x")
    assert not rules.may_subscribe(client, "private/whoever/#")
    assert rules.may_publish(client, "public/x")


def test_a_names_percent_sign_is_not_read_again() -> None:
    """A user named %c is not the client id."""
    rules = acl("allow users to publish u/%u")
    assert rules.may_publish(Identity("admin", "%c"), "u/%c")
    assert not rules.may_publish(Identity("admin", "%c"), "u/admin")


def test_a_wider_subscription_does_not_reach_what_is_denied() -> None:
    """A subscription that could bring one denied topic is refused; one that is allowed only in part, too."""
    rules = acl("deny everyone to subscribe secret/#", "allow everyone to subscribe #")
    for filter in (
        "secret",
        "secret/x",
        "#",
        "+/x",
        "+",
        "+/+/#",
        "secret/#",
        "$share/group/#",
        "$share/group/secret/x",
    ):
        assert not rules.may_subscribe(ALICE, filter), filter
    assert rules.may_subscribe(ALICE, "public/#")
    assert rules.may_subscribe(ALICE, "$share/group/public/#")
    some = acl("allow everyone to subscribe a/+")
    for filter in ("a/#", "+/b", "#", "a", "a/b/c", "+/+"):
        assert not some.may_subscribe(ALICE, filter), filter
    assert some.may_subscribe(ALICE, "a/+")
    assert some.may_subscribe(ALICE, "a/b")


def test_system_topics_need_a_rule_that_names_them() -> None:
    """A wildcard at the beginning of a rule does not reach $SYS [MQTT-4.7.2-1]."""
    rules = acl("allow everyone to publish and subscribe #", "allow everyone to publish and subscribe +/x")
    assert not rules.may_subscribe(ALICE, "$SYS/#")
    assert not rules.may_publish(ALICE, "$SYS/x")
    assert acl("allow everyone to subscribe $SYS/#").may_subscribe(ALICE, "$SYS/broker/uptime")
    assert acl("deny everyone to subscribe $SYS/#", "allow everyone to subscribe #").may_subscribe(ALICE, "#")


LEVEL = st.sampled_from(["a", "b", "$x", ""])
NAME = st.lists(LEVEL, min_size=1, max_size=4).filter(lambda levels: levels != [""])
FILTER = st.builds(
    lambda levels, end: [*levels, *end],
    st.lists(st.sampled_from(["a", "b", "$x", "", "+"]), max_size=3),
    st.sampled_from([["#"], ["+"], ["a"]]),
)


@given(FILTER, FILTER, NAME)
def test_covers_and_overlaps_agree_with_matching(rule: list[str], wanted: list[str], name: list[str]) -> None:
    """Whatever a covered filter matches, the rule matches; and where both match, they overlap."""
    by_rule, by_wanted = matches("/".join(rule), "/".join(name)), matches("/".join(wanted), "/".join(name))
    if by_wanted and covers(rule, wanted):
        assert by_rule
    if by_rule and by_wanted:
        assert overlaps(rule, wanted)
        assert overlaps(wanted, rule)
    assert covers(rule, name) == by_rule


@pytest.mark.parametrize(
    "line",
    [
        "allow alice to publish a",
        "allow user to publish a",
        "permit everyone to publish a",
        "allow everyone to read a",
        "allow everyone publish a",
        "allow everyone to publish",
        "allow everyone to publish a/#/b",
        "allow everyone to publish a+",
        "allow everyone to subscribe and publish and publish a/#/b",
        'allow user "" to publish a',
    ],
)
def test_mistakes_name_the_line_and_the_cure(tmp_path: Path, line: str) -> None:
    """A file with a line that is no rule is refused: nobody can say what it was meant to forbid."""
    path = tmp_path / "acl"
    path.write_text(f"# rules\n\nallow everyone to publish x\n{line}\n")
    with pytest.raises(AclFileError, match=r"acl, line 4: "):
        read_acl(str(path))


def write(tmp_path: Path, *lines: str) -> str:
    path = tmp_path / "acl"
    path.write_text("\n".join(lines))
    return str(path)


def test_file(tmp_path: Path) -> None:
    """Comments and empty lines say nothing; a filter may hold spaces."""
    path = write(tmp_path, "# all", "  # more", "", '  allow user "alice smith" to subscribe living room/#  \r', "")
    file = read_acl(path)
    assert file.may_subscribe(Identity("c", "alice smith"), "living room/lamp")
    assert not file.may_subscribe(Identity("c", "alice"), "living room/lamp")
    with pytest.raises(AclFileError, match="cannot read"):
        read_acl(str(tmp_path / "none"))
    Path(path).write_bytes(b"\xff")
    with pytest.raises(AclFileError, match="UTF-8"):
        read_acl(path)


def test_groups(tmp_path: Path) -> None:
    """A rule for a group is for the users in it, wherever in the file the group stands."""
    path = write(
        tmp_path,
        "allow group operators to publish control/%u",
        "group operators has alice",
        'group operators has "bob smith" carol',
        "group empty-handed has dave",
        "deny group empty-handed to subscribe #",
        "allow everyone to subscribe #",
    )
    file = read_acl(path)
    for name in ("alice", "bob smith", "carol"):
        assert file.may_publish(Identity("c", name), f"control/{name}")
    for name in ("bob", "smith", "dave", "operators", None):
        assert not file.may_publish(Identity("alice", name), f"control/{name}")
    assert not file.may_subscribe(Identity("c", "dave"), "a")
    assert file.may_subscribe(Identity("c", "alice"), "a")
    assert file.needs_users
    assert not file.leads("alice")
    assert read_acl(write(tmp_path, "group administrators has alice")).leads("alice")


@pytest.mark.parametrize(
    "line", ["group has alice", "group operators has", "group operators: alice", 'group operators has "alice']
)
def test_mistakes_in_groups(tmp_path: Path, line: str) -> None:
    """A line that is neither a rule nor a group is refused."""
    with pytest.raises(AclFileError, match=r"acl, line 2: this is no rule"):
        read_acl(write(tmp_path, "group operators has alice", line))


def test_a_group_that_nobody_is_in_is_a_mistake(tmp_path: Path) -> None:
    """A misspelt name of a group would silently forbid, or deny nobody."""
    path = write(tmp_path, "group operators has alice", "", "deny group operator to publish a")
    with pytest.raises(AclFileError, match=r"acl, line 3: .* group operator has USER"):
        read_acl(path)


@pytest.mark.parametrize(
    ("line", "needs"),
    [
        ("allow user a to publish a", True),
        ("allow users to publish a", True),
        ("deny anonymous to publish a", True),
        ("allow everyone to publish %u", True),
        ("allow everyone to publish %c", False),
        ("allow client a to publish a", False),
    ],
)
def test_which_rules_need_passwords(line: str, needs: bool) -> None:
    """A rule that depends on a user name protects nothing unless the name was checked."""
    assert read_rule(line).needs_user is needs
