"""The Redis store against the contract; what it says when it cannot start; what a starting node finds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from cryptography.hazmat.primitives import serialization

from mqttcluster.mqtt.packets import Subscription
from mqttcluster.storage.interfaces import GONE, IStore, QueueLimits, StoreError
from mqttcluster.storage.redis_cluster import check_files, found, redacted
from mqttcluster.storage.redis_store import RedisStore
from tests.cluster.redis_server import ClusterMaster, RedisServer, Sentinel
from tests.storage.contract import Contract, LastingContract, Make, payloads, will
from tests.storage.driver import Driver, QueueReactor, message, outcome, to
from tests.storage.redis_nodes import Nodes
from tests.support.certificates import Certificates
from tests.support.ports import free_port


class TestRedis(Contract):
    @pytest.fixture
    def make(self, nodes: Nodes) -> Make:
        prefixes = iter(range(100))

        def make(limits: QueueLimits | None = None) -> Driver:
            return nodes.make("node", limits=limits, prefix=f"mc{next(prefixes)}:")

        return make

    # In a store that nodes share a known exchange is done again: the node that had begun it may have died half-way.

    def test_an_exchange_counts_once(self, store: Driver) -> None:
        """A QoS 2 message that is sent again reaches those who have missed it, and nobody twice [MQTT-4.3.3-2]."""
        subscriber, other, publisher = store.open("s"), store.open("o"), store.open("p")
        exchange = ("p", publisher.epoch, 7)
        first = store.publish(message("x", qos=2), to(subscriber, "s"), exchange=exchange)
        assert first.sequences == [1]
        again = store.publish(message("x", qos=2), to(subscriber, "s"), to(other, "o"), exchange=exchange)
        assert (again.repeated, again.stale, again.sequences) == (False, False, [GONE, 1])
        assert again.exchange == first.exchange
        store.close("p", publisher.epoch)
        publisher = store.open("p")
        assert publisher.inbound == {7}
        assert store.publish(message("x"), to(subscriber, "s"), exchange=("p", publisher.epoch, 7)).sequences == [GONE]
        assert store.publish(message("y"), to(subscriber, "s"), exchange=("p", publisher.epoch, 8)).sequences == [2]
        assert payloads(store.read("s", subscriber.epoch)) == [(1, b"x"), (2, b"y")]
        assert payloads(store.read("o", other.epoch)) == [(1, b"x")]

    def test_a_released_packet_id_is_free(self, store: Driver) -> None:
        subscriber, publisher = store.open("s"), store.open("p")

        def publish(packet_id: int) -> object:
            exchange = ("p", publisher.epoch, packet_id)
            return store.publish(message("x", qos=2), to(subscriber, "s"), exchange=exchange).sequences

        assert [publish(7), publish(8)] == [[1], [2]]
        assert store.release("p", publisher.epoch, 7, 99)
        assert [publish(7), publish(8)] == [[3], [GONE]]
        assert store.open("p").inbound == {7, 8}

    def test_a_repeated_exchange_does_not_bring_an_old_retained_message_back(self, store: Driver) -> None:
        """Somebody has set a newer one in between; the repetition must not undo that."""
        publisher = store.open("p")
        exchange = ("p", publisher.epoch, 7)
        first = store.publish(message("old", qos=2, retain=True), retain=True, exchange=exchange)
        second = store.publish(message("new", retain=True), retain=True)
        assert 0 < first.version < second.version
        again = store.publish(message("old", qos=2, retain=True), retain=True, exchange=exchange)
        assert again.version == 0
        assert [each.payload for each in store.recover().retained] == [b"new"]

    def test_the_clock_of_the_next_node_is_a_little_slow(self, store: Driver) -> None:
        """A will without a delay does not wait: the client that comes back does not cancel it [MQTT-3.1.2-8]."""
        first = store.open(will=will())
        store.close("c", first.epoch, now=5.0)
        assert store.open(now=4.9).present
        assert [text.payload for _, _, text in store.due(5.0).wills] == [b"gone"]


class TestRedisRestarted(LastingContract):
    """What was answered is there after a restart: the store is stopped after each call and another goes on."""

    test_an_exchange_counts_once = TestRedis.test_an_exchange_counts_once
    test_a_released_packet_id_is_free = TestRedis.test_a_released_packet_id_is_free

    @pytest.fixture
    def make(self, nodes: Nodes) -> Iterator[Make]:
        made: list[Driver] = []

        def make(limits: QueueLimits | None = None) -> Driver:
            prefix = f"mc{len(made)}:"

            def started(before: IStore | None = None) -> IStore:
                if before is not None:
                    outcome(before.stop(), nodes.reactor)
                store = RedisStore(nodes.server.url, nodes.reactor, "node", limits, prefix=prefix)
                outcome(store.start(), nodes.reactor)
                return store

            made.append(Driver(started(), nodes.reactor, started))
            return made[-1]

        yield make
        for driver in made:
            outcome(driver.store.stop(), nodes.reactor)


class TestStart:
    def problem(self, url: str, **options: object) -> str:
        reactor = QueueReactor()
        store = RedisStore(url, reactor, "node", patience=0.2, **options)  # type: ignore[arg-type]
        with pytest.raises(StoreError) as caught:
            outcome(store.start(), reactor)
        assert not store.ready()
        return str(caught.value)

    @pytest.mark.parametrize(
        "url",
        [
            *("redis://host:notaport", "http://host", "redis://h/0?socket_timeout=x", "nonsense"),
            *("redis://h/0?protocol=3", "redis://h/0?ssl_ca_certs=/x"),
            *("rediss://h/0?ssl_cert_reqs=none", "rediss://h/0?ssl_ca_cert="),
        ],
    )
    def test_a_url_that_says_nothing(self, url: str) -> None:
        assert "write redis://" in self.problem(url)

    def test_nobody_there(self) -> None:
        """The text names the store and the cure, and never the password."""
        text = self.problem(f"redis://user:secret@127.0.0.1:{free_port()}/3")
        assert "does not answer" in text
        assert "127.0.0.1" in text
        assert "secret" not in text

    def test_a_wrong_password(self, tmp_path: Path) -> None:
        with RedisServer(tmp_path, ["--requirepass", "right"]) as server:
            for credentials in ("", ":wrong@", "nobody:right@"):
                text = self.problem(f"redis://{credentials}127.0.0.1:{server.port}")
                assert "user name or password" in text
                assert "wrong@" not in text
            reactor = QueueReactor()
            store = RedisStore(server.url, reactor, "node")
            outcome(store.start(), reactor)
            assert store.ready()
            outcome(store.stop(), reactor)

    @pytest.mark.parametrize("mode", ["cluster", "sentinel"])
    def test_a_redis_that_is_not_alone(self, tmp_path: Path, mode: str) -> None:
        """A node of a Redis Cluster, or a Sentinel, is refused before anything is written."""
        with Sentinel(tmp_path) if mode == "sentinel" else ClusterMaster(tmp_path) as server:
            assert f"runs in {mode} mode; name a standalone Redis" in self.problem(server.url)

    def test_another_format(self, redis: RedisServer) -> None:
        with redis.client() as client:
            client.hset("other:{c}:cfg", mapping={"format": "99", "run": "x", "N": "1", "R": "1"})
            text = self.problem(redis.url, prefix="other:")
            assert "format 99" in text
            assert client.keys("other:*") == [b"other:{c}:cfg"], "nothing of it is touched"

    def test_a_cluster_is_founded_once(self, redis: RedisServer) -> None:
        """Whoever comes second takes over the partitions of the founder."""
        with redis.client() as client:
            first = found(client, "founded:", 8, 4)
            assert (first.partitions, first.retained_partitions) == (8, 4)
            assert found(client, "founded:", 99, 99) == first

    def test_a_url_is_shown_without_its_secrets(self) -> None:
        assert redacted("rediss://user:pass@host:1/2?password=x") == "rediss://host:1/2"


class TestFiles:
    """What a URL with rediss names is looked at before anything is opened."""

    def problem(self, **files: object) -> str:
        with pytest.raises(StoreError) as caught:
            check_files(f"rediss://:secret@host/0?{urlencode(files)}")
        assert "secret" not in str(caught.value)
        return str(caught.value)

    def test_files_that_are_fine(self, certificates: Certificates) -> None:
        check_files("rediss://host/0")
        files = {"ssl_ca_certs": certificates.authority, "ssl_certfile": certificates.client}
        check_files(f"rediss://host/0?{urlencode({**files, 'ssl_keyfile': certificates.client_key})}")

    def test_files_that_are_not(self, certificates: Certificates, tmp_path: Path) -> None:
        """The text names the option and the file."""
        (tmp_path / "text").write_text("no certificate")
        for path in (tmp_path / "missing", tmp_path / "text"):
            for name in ("ssl_ca_certs", "ssl_certfile"):
                assert self.problem(**{name: path}).startswith(f"{name}, {path}, cannot be used")
        assert "cannot be used" in self.problem(ssl_certfile=certificates.client, ssl_keyfile=certificates.server_key)
        assert "no ssl_certfile" in self.problem(ssl_keyfile=certificates.client_key)
        assert "write the whole path" in self.problem(ssl_ca_certs="authority.pem")

    def test_a_key_with_a_password(self, certificates: Certificates, tmp_path: Path) -> None:
        """It is refused, and nobody is asked for it on the terminal."""
        key = serialization.load_pem_private_key(certificates.client_key.read_bytes(), None)
        form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        (tmp_path / "key").write_bytes(key.private_bytes(*form, serialization.BestAvailableEncryption(b"secret")))
        assert "cannot be used" in self.problem(ssl_certfile=certificates.client, ssl_keyfile=tmp_path / "key")


class TestRecover:
    def test_sessions_and_retained_messages_of_all_nodes(self, nodes: Nodes) -> None:
        """A node that joins routes for sessions that other nodes serve."""
        a = nodes.make("a")
        for number in range(300):
            opened = a.open(f"c{number}")
            if number % 2:
                a.subscribe(f"c{number}", opened.epoch, {f"t/{number}": Subscription(1)})
            a.publish(message(str(number), f"r/{number}", retain=True), retain=True)
        a.open("clean", clean=True, expiry=0)
        found = nodes.make("b").recover()
        sessions = {each.client_id: each.subscriptions for each in found.sessions}
        assert sessions == {f"c{n}": {f"t/{n}": Subscription(1)} if n % 2 else {} for n in range(300)}
        assert {each.topic: each.payload for each in found.retained} == {f"r/{n}": b"%d" % n for n in range(300)}

    def test_later_recovery_ends_nobody(self, nodes: Nodes) -> None:
        """A node that has to read the state again, because it lagged behind, keeps its connections."""
        a, b = nodes.make("a"), nodes.make("b")
        theirs = b.open("theirs")
        a.recover()
        mine = a.open("mine")
        assert {each.client_id for each in a.recover().sessions} == {"mine", "theirs"}
        assert a.release("mine", mine.epoch)
        assert b.release("theirs", theirs.epoch)
