"""What clients may do: authorizers from outside first, then the ACL file, then what holds without one.

`Rules` is asked once for each client and topic; clients remember the answers. When the rules change (`change`) they
forget them, and the subscriptions of connected clients are looked at anew: what is not allowed any more is *muted*, it
stays a subscription and delivers nothing, until another reload allows it again.

``$SYS`` tells about everybody. Once there are users, only administrators may subscribe it: the users that the option
names, the group `administrators` of the ACL file, and whom a rule of that file names with ``$SYS`` in its filter.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Iterable, Sequence
from typing import Literal

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mqttcluster.broker.acl import AclFile
from mqttcluster.broker.auth import Authorizer, IAuthorizer, Identity, Permission
from mqttcluster.broker.authentication import TIMEOUT, ask
from mqttcluster.broker.metrics import Metrics
from mqttcluster.mqtt.topics import split_share

log = Logger(namespace="mqttcluster.authorization")

Question = Literal["may_publish", "may_subscribe"]


class Rules:
    """The `Authorizer` that asks others in turn.

    `users`: clients have user names that were checked. `administrators` are some of those.
    """

    def __init__(
        self,
        authorizers: Sequence[IAuthorizer],
        acl: AclFile | None,
        metrics: Metrics,
        clock: IReactorTime,
        timeout: float = TIMEOUT,
        users: bool = False,
        administrators: Collection[str] = (),
    ) -> None:
        self._authorizers = authorizers
        self._acl = acl
        self._metrics = metrics
        self._clock = clock
        self._timeout = timeout
        self._users = users
        self._administrators = frozenset(administrators)

    def change(self, acl: AclFile) -> None:
        """The ACL file was read again."""
        self._acl = acl

    def may_publish(self, client: Identity, topic: str) -> Permission | Deferred[Permission]:
        if self._authorizers:
            return self._ask("may_publish", client, topic)
        return self._by_file("may_publish", client, topic)

    def may_subscribe(self, client: Identity, filter: str) -> Permission | Deferred[Permission]:
        filter = split_share(filter)[1]  # what a group gets is what each of its members may have
        if self._authorizers:
            return self._ask("may_subscribe", client, filter)
        return self._by_file("may_subscribe", client, filter)

    def _ask(self, question: Question, client: Identity, topic: str) -> Deferred[Permission]:
        return Deferred.fromCoroutine(self._decide(question, client, topic))

    async def _decide(self, question: Question, client: Identity, topic: str) -> Permission:
        for authorizer in self._authorizers:
            name = type(authorizer).__name__
            try:
                answer = await ask(
                    getattr(authorizer, question), client, topic, clock=self._clock, timeout=self._timeout
                )
                if answer is not None and not isinstance(answer, bool):
                    raise TypeError(f"an authorizer answered {type(answer).__name__}")
            except TimeoutError:
                log.error("{name} took more than {timeout} seconds", name=name, timeout=self._timeout)
                self._metrics.authorization_failures["timeout"] += 1
                return None
            except Exception:
                log.failure("{name} failed", name=name)
                self._metrics.authorization_failures["error"] += 1
                return None
            if answer is not None:
                return answer
        return self._by_file(question, client, topic)

    def _by_file(self, question: Question, client: Identity, topic: str) -> bool:
        acl = self._acl
        decided = None if acl is None else acl.decide(client, topic, question == "may_publish")
        if decided is not None:
            return decided
        if self._users and question == "may_subscribe" and _tells_about_all(topic):
            return self._is_administrator(client)
        return acl is None and not self._authorizers

    def _is_administrator(self, client: Identity) -> bool:
        name = client.username
        return name is not None and (name in self._administrators or (self._acl is not None and self._acl.leads(name)))


def _tells_about_all(filter: str) -> bool:
    return filter.partition("/")[0] == "$SYS"


async def forbidden(authorizer: Authorizer, client: Identity, filters: Iterable[str]) -> set[str]:
    """Those of the filters that `client` may not subscribe. All are asked for at the same time."""
    answers = [(filter, authorizer.may_subscribe(client, filter)) for filter in list(filters)]
    return {filter for filter, answer in answers if not await permission(answer)}


async def permission(answer: Permission | Awaitable[Permission]) -> bool:
    """An authorizer's answer, waited for if need be."""
    if answer is None or isinstance(answer, bool):
        return bool(answer)
    return bool(await answer)
