"""Who gets a message, whatever was subscribed and forgotten before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mqttcluster.core.routing import Receiver, Routing, Subscriber
from mqttcluster.mqtt.packets import Subscription
from mqttcluster.mqtt.topics import matches

FILTERS = ["a", "a/b", "a/+", "a/#", "+/b", "#", "+", "$S/x", "$S/#"]
TOPICS = ["a", "a/b", "a/c", "b", "$S/x", "$S", "c/b"]


def test_overlapping_subscriptions_give_one_receiver_at_the_highest_qos() -> None:
    """A client with several matching subscriptions gets a message once, at the best QoS among them."""
    routing = Routing()
    subscriber = Subscriber("c", 1, durable=False)
    routing.subscribe(subscriber, "a/#", Subscription(0))
    routing.subscribe(subscriber, "a/b", Subscription(2))
    routing.subscribe(subscriber, "+/b", Subscription(1))
    assert routing.match("a/b") == (Receiver(subscriber, 2),)
    routing.unsubscribe(subscriber, "a/b")
    assert routing.match("a/b") == (Receiver(subscriber, 1),)


CALLS = st.tuples(
    st.sampled_from(["on", "off", "forget"]), st.integers(0, 2), st.sampled_from(FILTERS), st.integers(0, 2)
)


@given(st.lists(CALLS, max_size=40))
def test_the_answers_are_those_of_a_plain_search(calls: list[tuple[str, int, str, int]]) -> None:
    """The tree and its memory of topics never disagree with looking at every subscription."""
    routing = Routing()
    subscribers = [Subscriber(str(n), 1, durable=False) for n in range(3)]
    plain: dict[tuple[int, str], int] = {}
    for call, who, topic_filter, qos in calls:
        if call == "on":
            routing.subscribe(subscribers[who], topic_filter, Subscription(qos))
            plain[who, topic_filter] = qos
        elif call == "off":
            assert routing.unsubscribe(subscribers[who], topic_filter) == ((who, topic_filter) in plain)
            plain.pop((who, topic_filter), None)
        else:
            routing.forget(subscribers[who])
            plain = {key: value for key, value in plain.items() if key[0] != who}
        assert len(routing) == len(plain)
        for topic in TOPICS:
            expected: dict[str, int] = {}
            for (n, f), granted in plain.items():
                if matches(f, topic):
                    expected[str(n)] = max(expected.get(str(n), 0), granted)
            assert {r.subscriber.client_id: r.qos for r in routing.match(topic)} == expected
