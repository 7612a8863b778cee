"""docs/cluster.md and the code name the same keys."""

from __future__ import annotations

import re

from mqttcluster.storage.redis_cluster import ClusterConfig
from mqttcluster.storage.redis_keys import Keys
from mqttcluster.storage.redis_members import NodeKeys
from tests.support.brokers import ROOT


def named_in_the_code() -> set[str]:
    keys, nodes = Keys("mc:", ClusterConfig("run", 1, 1)), NodeKeys("mc:")
    names = {*keys.common(0), *keys.session(0, "ID"), *keys.retained(0)}
    names |= {nodes.config, nodes.nodes, nodes.routes, nodes.graves, nodes.everybody}
    names |= {nodes.alive("NODE"), nodes.link("NODE"), nodes.want("NODE"), nodes.channel("NODE")}
    return {name.replace("{p0}", "{pN}").replace("{r0}", "{rN}") for name in names}


def test_every_key_is_in_the_table() -> None:
    """Who looks at a Redis finds each key explained, and no key that is not there."""
    table = re.findall(r"^\| (`mc:.*?) \|", (ROOT / "docs" / "cluster.md").read_text(), re.MULTILINE)
    assert {name for cell in table for name in re.findall(r"`(.*?)`", cell)} == named_in_the_code()
