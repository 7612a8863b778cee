"""What a node tells the others of its clients' subscriptions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mqttcluster.core.interest import LINKED, LIVE, Interest


def test_only_changes_of_the_bits_are_told() -> None:
    """A second subscriber of the same kind is no news; the last one to leave is."""
    interest = Interest()
    interest.add("a", linked=True)
    assert interest.take_changes() == [("a", LIVE | LINKED)]
    interest.add("a", linked=True)
    interest.add("a", linked=False)
    assert interest.take_changes() == []
    interest.remove("a", linked=True)
    interest.remove("a", linked=True)
    assert interest.take_changes() == [("a", LIVE)]
    interest.remove("a", linked=False)
    assert interest.take_changes() == [("a", 0)]


STEP = st.tuples(st.sampled_from("ab"), st.booleans(), st.sampled_from(["add", "remove", "take"]))


@given(st.lists(STEP, max_size=40))
def test_whoever_hears_every_change_knows_the_truth(steps: list[tuple[str, bool, str]]) -> None:
    """Another node that applies the changes in order knows exactly which filters matter here."""
    interest, held, heard = Interest(), [], {}
    for topic_filter, linked, step in [*steps, ("", False, "take")]:
        if step == "add":
            interest.add(topic_filter, linked)
            held.append((topic_filter, linked))
        elif step == "remove" and (topic_filter, linked) in held:
            interest.remove(topic_filter, linked)
            held.remove((topic_filter, linked))
        elif step == "take":
            heard.update(interest.take_changes())
    truth: dict[str, int] = {}
    for topic_filter, linked in held:
        truth[topic_filter] = truth.get(topic_filter, 0) | LIVE | (LINKED if linked else 0)
    assert {f: bits for f, bits in heard.items() if bits} == truth == dict(interest.everything())
