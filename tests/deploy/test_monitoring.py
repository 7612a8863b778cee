"""Alerts and dashboard: read by promtool, fired by made-up figures, explained in the docs, and fed by a real node."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mqttcluster.broker.metric_table import BY_NAME
from tests.deploy.files import DEPLOY, DOCS
from tests.support.process import TCP, Broker

ALERTS, DASHBOARD = DEPLOY / "prometheus" / "alerts.yml", DEPLOY / "grafana" / "mqttcluster.json"
NODE = '{job="mqttcluster", instance="n1:8080"}'

#: What makes each alert fire, as series of promtool: name and labels, values a minute apart. 90 minutes are played.
FIRED_BY: dict[str, list[tuple[str, str]]] = {
    "MqttclusterNodeDown": [(f"up{NODE}", "0x90")],
    "MqttclusterNotReady": [(f"mqttcluster_ready{NODE}", "0x90")],
    "MqttclusterStoreDown": [(f"mqttcluster_store_up{NODE}", "0x90")],
    "MqttclusterStoreFailing": [(f"mqttcluster_store_failures_total{NODE}", "0+1x90")],
    "MqttclusterStoreSlow": [
        (f'mqttcluster_store_batch_seconds_bucket{NODE[:-1]}, le="0.1"}}', "0+90x90"),
        (f'mqttcluster_store_batch_seconds_bucket{NODE[:-1]}, le="1"}}', "0+100x90"),
        (f'mqttcluster_store_batch_seconds_bucket{NODE[:-1]}, le="+Inf"}}', "0+100x90"),
    ],
    "MqttclusterStoreBehind": [(f"mqttcluster_store_backlog_calls{NODE}", "6000x90")],
    "MqttclusterLeaseLost": [(f"mqttcluster_fenced_total{NODE}", "0+1x90")],
    "MqttclusterFenced": [(f"mqttcluster_fenced{NODE}", "1x90")],
    "MqttclusterNodesDisagree": [
        (f"mqttcluster_cluster_nodes{NODE}", "3x90"),
        ('mqttcluster_cluster_nodes{job="mqttcluster", instance="n2:8080"}', "2x90"),
    ],
    "MqttclusterLinkBehind": [(f"mqttcluster_link_backlog_bytes{NODE}", "20000000x90")],
    "MqttclusterLinkGaps": [(f"mqttcluster_link_gaps_total{NODE}", "0+1x90")],
    "MqttclusterChannelInterrupted": [
        (f"mqttcluster_channel_gaps_total{NODE}", "0+1x90"),
        (f"mqttcluster_channel_dropped_total{NODE}", "0x90"),
    ],
    "MqttclusterConnectionsNearLimit": [
        (f"mqttcluster_connections{NODE}", "9000x90"),
        (f"mqttcluster_max_connections{NODE}", "10000x90"),
    ],
    "MqttclusterConnectionsRefused": [
        (f'mqttcluster_connections_refused_total{NODE[:-1]}, reason="too_many_connections"}}', "0+5x90")
    ],
    "MqttclusterLoginsDenied": [(f'mqttcluster_authentications_total{NODE[:-1]}, result="denied"}}', "0+120x90")],
    "MqttclusterLoginsFailing": [(f'mqttcluster_authentications_total{NODE[:-1]}, result="timeout"}}', "0+5x90")],
    "MqttclusterAuthorizationFailing": [
        (f'mqttcluster_authorization_failures_total{NODE[:-1]}, reason="error"}}', "0+5x90")
    ],
    "MqttclusterQueuesFull": [(f'mqttcluster_messages_dropped_total{NODE[:-1]}, reason="queue_full"}}', "0+5x90")],
    "MqttclusterSlowReceivers": [(f'mqttcluster_messages_dropped_total{NODE[:-1]}, reason="send_buffer"}}', "0+5x90")],
    "MqttclusterRetainedFull": [(f'mqttcluster_messages_dropped_total{NODE[:-1]}, reason="retained_full"}}', "0+5x90")],
    "MqttclusterBusy": [
        (f'mqttcluster_reactor_lag_seconds_bucket{NODE[:-1]}, le="0.1"}}', "0+80x90"),
        (f'mqttcluster_reactor_lag_seconds_bucket{NODE[:-1]}, le="0.25"}}', "0+100x90"),
        (f'mqttcluster_reactor_lag_seconds_bucket{NODE[:-1]}, le="+Inf"}}', "0+100x90"),
    ],
    "MqttclusterReloadFailed": [(f"mqttcluster_last_reload_successful{NODE}", "0x90")],
    "MqttclusterCertificateExpires": [(f"mqttcluster_certificate_expiry_timestamp_seconds{NODE}", "864000x90")],
}

#: Figures of a node that is well, with some work, a restart, and a few mishaps that are nobody's business.
HEALTHY = [
    (f"up{NODE}", "1x90"),
    (f"mqttcluster_ready{NODE}", "1 1 0 1x87"),
    (f"mqttcluster_store_up{NODE}", "1x90"),
    (f"mqttcluster_store_failures_total{NODE}", "3x90"),
    (f'mqttcluster_store_batch_seconds_bucket{NODE[:-1]}, le="0.1"}}', "0+100x90"),
    (f'mqttcluster_store_batch_seconds_bucket{NODE[:-1]}, le="+Inf"}}', "0+100x90"),
    (f"mqttcluster_store_backlog_calls{NODE}", "10 6000 0x88"),
    (f"mqttcluster_fenced{NODE}", "0x90"),
    (f"mqttcluster_fenced_total{NODE}", "0x40 1x50"),
    (f"mqttcluster_cluster_nodes{NODE}", "3x90"),
    ('mqttcluster_cluster_nodes{job="mqttcluster", instance="n2:8080"}', "3x40 2 3x49"),
    (f"mqttcluster_link_backlog_bytes{NODE}", "0 20000000 0x88"),
    (f"mqttcluster_link_gaps_total{NODE}", "0x40 1x50"),
    (f"mqttcluster_channel_gaps_total{NODE}", "0x40 1x50"),
    (f"mqttcluster_channel_dropped_total{NODE}", "0x40 1x50"),
    (f"mqttcluster_connections{NODE}", "8000x90"),
    (f"mqttcluster_max_connections{NODE}", "10000x90"),
    (f'mqttcluster_connections_refused_total{NODE[:-1]}, reason="not_authorized"}}', "0+1x90"),
    (f'mqttcluster_authentications_total{NODE[:-1]}, result="allowed"}}', "0+500x90"),
    (f'mqttcluster_authentications_total{NODE[:-1]}, result="denied"}}', "0+5x90"),
    (f'mqttcluster_authorization_failures_total{NODE[:-1]}, reason="error"}}', "0x90"),
    (f'mqttcluster_messages_dropped_total{NODE[:-1]}, reason="expired"}}', "0+50x90"),
    (f'mqttcluster_messages_dropped_total{NODE[:-1]}, reason="queue_full"}}', "0x40 9x50"),
    (f'mqttcluster_reactor_lag_seconds_bucket{NODE[:-1]}, le="0.1"}}', "0+99x90"),
    (f'mqttcluster_reactor_lag_seconds_bucket{NODE[:-1]}, le="+Inf"}}', "0+100x90"),
    (f"mqttcluster_last_reload_successful{NODE}", "1x90"),
    (f"mqttcluster_certificate_expiry_timestamp_seconds{NODE}", "5000000x90"),
]


@pytest.fixture(scope="module")
def promtool() -> str:
    """The program."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed")
    return program


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(ALERTS.read_text())["groups"]
    return list(group["rules"])


def test_every_alert_fires_and_a_healthy_node_is_quiet(promtool: str, tmp_path: Path) -> None:
    """Prometheus's own test of rules: each alert fires by the figures that it is for, and none for a node that is
    well."""
    names = [rule["alert"] for rule in rules()]
    assert set(FIRED_BY) == set(names)
    tests: list[dict[str, Any]] = []
    for name, series in FIRED_BY.items():
        firing = [{"series": series_name, "values": values} for series_name, values in series]
        # How many series fire, not their words: those are in the file.
        expression = f'count(ALERTS{{alertname="{name}", alertstate="firing"}})'
        expected = [{"labels": "{}", "value": 1}]
        tests.append(
            {
                "interval": "1m",
                "input_series": firing,
                "promql_expr_test": [{"expr": expression, "eval_time": "80m", "exp_samples": expected}],
            }
        )
    quiet = [{"series": name, "values": values} for name, values in HEALTHY]
    times = [{"expr": 'ALERTS{alertstate="firing"}', "eval_time": f"{minute}m", "exp_samples": []}
             for minute in (10, 42, 50, 85)]  # fmt: skip
    tests.append({"interval": "1m", "input_series": quiet, "promql_expr_test": times})
    played = {"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "played.yml").write_text(yaml.safe_dump(played))
    done = subprocess.run([promtool, "test", "rules", str(tmp_path / "played.yml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_explained() -> None:
    """Who is woken up by an alert finds its name in docs/operations.md, with what it means and what to do; and there
    is no word about an alert that there is not."""
    section = (DOCS / "operations.md").read_text().split("## What each alert means\n")[1].split("\n## ")[0]
    explained = dict(re.findall(r"^### (\w+)\n\n(.+?)(?=\n### |\Z)", section, re.MULTILINE | re.DOTALL))
    alerts = {rule["alert"]: rule for rule in rules()}
    assert list(explained) == list(alerts)
    for name, rule in alerts.items():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("page", "ticket")
        for metric in re.findall(r"mqttcluster_\w+?(?=_bucket|\W)", rule["expr"]):
            assert f"`{metric}`" in explained[name], (name, metric)


def test_the_dashboard() -> None:
    """Grafana can import it: panels with numbers of their own that do not overlap, each with an expression, all from
    the chosen data source."""
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        mine = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not mine & cells, panel["title"]
        cells |= mine
    names = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert names == {"datasource", "job", "instance"}
    for panel in panels:
        if panel["type"] == "row":
            continue
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert 'job="$job"' in target["expr"]
            assert "[5m]" not in target["expr"], "$__rate_interval follows the scrape interval"


def test_the_expressions_of_the_dashboard(promtool: str, tmp_path: Path) -> None:
    """Prometheus understands every expression."""
    found = [t["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for t in panel.get("targets", [])]
    recorded = [
        {"record": f"dashboard:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(found)
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    done = subprocess.run([promtool, "check", "rules", str(tmp_path / "rules.yml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_node_shows_what_the_alerts_ask_for(promtool: str, start_broker: Callable[..., Broker]) -> None:
    """Every metric and label of the rules is there on a real node, so that no alert is quiet for ever; and Prometheus
    has nothing against the page."""
    broker = start_broker((TCP,), ("--admin", "tcp:0:interface=127.0.0.1"))
    where = broker.log.wait_for("listening for probes").rpartition(" ")[2]
    with urllib.request.urlopen(f"http://{where}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    there = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    there |= {f"{name}_total" for name in there}
    wanted = {name for rule in rules() for name in re.findall(r"mqttcluster_\w+?(?=_bucket|\W)", rule["expr"])}
    wanted -= {"mqttcluster_certificate_expiry_timestamp_seconds"}  # not without TLS
    assert wanted <= set(BY_NAME)
    assert wanted <= there, wanted - there
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True)
    assert checked.returncode in (0, 3), checked.stderr  # 3: matters of taste
