"""What one client may publish, as far as it has asked: the authorizer's answers, kept for as long as the rules are the
same.

An authorizer may take its time. Then the client waits: the publish in question is held, and nothing more is taken from
what it has sent until the answer is there, so the order stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from mqttcluster.broker.auth import Permission
from mqttcluster.mqtt.reasons import Reason

if TYPE_CHECKING:
    from mqttcluster.broker.broker import Broker
    from mqttcluster.broker.client import Client

#: Answers that are remembered; longer topics are asked for each time.
CACHED_TOPICS = 10_000
LONGEST_CACHED = 256


class Permissions:
    """`known` has the answers: SUCCESS (which is 0), or why the client may not publish to a topic."""

    __slots__ = ("_answer", "_answered", "_broker", "_client", "asking", "known", "term")

    def __init__(self, client: Client, broker: Broker) -> None:
        self._client = client
        self._broker = broker
        self.known: dict[str, Reason] = {}
        #: The topic that was answered for last, and the answer; it is not among `known` if it must be asked again.
        self._answered = ""
        self._answer = Reason.NOT_AUTHORIZED
        #: The authorizer is thinking, and the client has to wait.
        self.asking = False
        #: Counts how often the answers were forgotten: one that comes after that is of no use.
        self.term = 0

    def find_out(self, topic: str) -> Reason:
        """SUCCESS, or why the client may not publish to `topic`. While that is not known, it may not."""
        if self.undecided(topic):
            return Reason.NOT_AUTHORIZED
        return self.known.get(topic, self._answer)

    def refused(self) -> None:
        """The last answer was no, and the client was told so. If it is not among `known` the question is open again."""
        self._answered = ""

    def undecided(self, topic: str) -> bool:
        """Whether the authorizer is still thinking about `topic`; it is asked if it was not yet. The client is told to
        proceed when it has answered."""
        if topic in self.known or topic == self._answered:
            return False
        if not self.asking and topic:
            self._ask(topic)
        return self.asking

    def _ask(self, topic: str) -> None:
        identity = self._client.identity
        assert identity is not None
        if topic.count("/") >= self._broker.settings.max_topic_levels:
            self._remember(topic, Reason.TOPIC_NAME_INVALID)
        elif topic[0] == "$":
            self._remember(topic, Reason.NOT_AUTHORIZED)
        else:
            answer = self._broker.authorizer.may_publish(identity, topic)
            if isinstance(answer, Deferred):
                self.asking = True
                answer.addCallback(self._told, topic, self.term).addErrback(self._client.crashed)
            else:
                self._take(topic, answer)

    def _told(self, permission: Permission, topic: str, term: int) -> None:
        self.asking = False
        if term == self.term:
            self._take(topic, permission)
        self._client.proceed()

    def _take(self, topic: str, permission: Permission) -> None:
        self._remember(topic, Reason.SUCCESS if permission else Reason.NOT_AUTHORIZED, permission is not None)

    def _remember(self, topic: str, reason: Reason, lasting: bool = True) -> None:
        self._answered, self._answer = topic, reason
        if lasting and len(topic) <= LONGEST_CACHED:
            if len(self.known) >= CACHED_TOPICS:
                self.known.clear()
            self.known[topic] = reason

    def forget(self) -> None:
        """The rules have changed."""
        self.known.clear()
        self._answered = ""
        self.term += 1
