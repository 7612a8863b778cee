"""What every backplane promises to a node that is alone. Each implementation has a class that inherits these tests."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from mqttcluster.storage.shared import Given, NodeInterest, SessionChange, Take
from tests.storage.nodes import Node, World, forward


class BackplaneContract:
    """`lone` is a node that has not been started yet."""

    def test_loads_the_state_before_it_is_live(self, world: World, lone: Node) -> None:
        """A broker serves nobody before it knows all subscriptions."""
        lone.events.loading = Deferred()
        started: list[None] = []
        lone.backplane.start(lone.events).addCallback(started.append)
        world.until(lambda: lone.events.named("load"))
        world.rest(0.1)
        assert not started
        assert not lone.events.named("fenced")
        lone.events.loading.callback(None)
        world.until(lambda: started)
        assert lone.events.log == [("load",), ("fenced", False)]
        assert lone.backplane.valid()

    def test_what_a_lone_node_announces_is_known_to_all(self, world: World, lone: Node) -> None:
        """A SUBACK is not kept waiting by nodes that are not there."""
        lone.start()
        lone.announce(NodeInterest("a/#", 1), SessionChange("c", 3))
        lone.announce()

    def test_nobody_is_there(self, world: World, lone: Node) -> None:
        """Nothing is sent to oneself, and what is said to nobody is not waited for."""
        lone.start()
        assert lone.id
        assert list(lone.backplane.members()) == []
        lone.backplane.cast("nobody", Take("c", 1))
        lone.backplane.cast_all(Given("c", 1))
        assert world.wait(lone.backplane.link("nobody", forward(1))) is False
        world.rest(0.1)
        assert not lone.backplane.congested()
        assert not lone.events.named("received")

    def test_leaves(self, world: World, lone: Node) -> None:
        """A node may be stopped, also before it was started, and twice."""
        world.wait(lone.backplane.stop())
        lone.start()
        world.wait(lone.backplane.stop())
        world.wait(lone.backplane.stop())
