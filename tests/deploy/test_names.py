"""Whatever deploy/ and the guides in docs/ name is in the program: options, variables, ports, paths, metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqttcluster.broker.metric_table import BY_NAME, HISTOGRAM
from mqttcluster.config import OPTIONS
from mqttcluster.loading import tomllib
from tests.deploy.files import COMPOSE, DEPLOY, DOCS, VARIABLES, Image, texts
from tests.support.brokers import ROOT

GUIDES = ("operations.md", "security.md", "browsers.md")
NAMES = {option.name for option in OPTIONS}
#: Metrics that prometheus-client and Prometheus itself have.
PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_max_fds"}


def everything() -> Iterator[tuple[str, str]]:
    yield from texts()
    for guide in GUIDES:
        yield guide, (DOCS / guide).read_text()


FILES = dict(everything())


@pytest.mark.parametrize("name", FILES)
def test_variables(name: str) -> None:
    """Every environment variable is an option's."""
    named = set(re.findall(r"\bMQTTCLUSTER_[A-Z_]+[A-Z]", FILES[name]))
    assert named <= set(VARIABLES), named - set(VARIABLES)


@pytest.mark.parametrize("name", FILES)
def test_options(name: str) -> None:
    """Every option on a command line of the broker is one."""
    text = FILES[name].replace("\\\n", " ")
    named: set[str] = set()
    for line in re.findall(r"twistd[^\n]* mqttcluster(?: --help)?\b([^\n`]*(?:\n#? {3,}--[^\n`]*)*)", text):
        named |= set(re.findall(r"(?<![\w-])--([a-z-]+)", line))
    assert named <= NAMES, named - NAMES


@pytest.mark.parametrize("name", GUIDES)
def test_options_in_prose(name: str) -> None:
    """A word in code quotes that looks like an option of the broker, and is mentioned as one, is one."""
    named = set(
        re.findall(r"`((?:websocket|max|tls|drain|session|queue|allow|log|connect|sys)-[a-z-]+)\b", FILES[name])
    )
    assert named, "the guide speaks of options"
    assert named <= NAMES, named - NAMES


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.toml")), ids=lambda path: str(path.relative_to(DEPLOY)))
def test_keys(path: Path) -> None:
    """Every key of a TOML file is an option."""
    keys = set(tomllib.loads(path.read_text()))
    assert keys <= NAMES, keys - NAMES


@pytest.mark.parametrize("name", FILES)
def test_metrics(name: str) -> None:
    """Every metric is one of the table; what is added to the name of a histogram is what Prometheus adds."""
    for metric in set(re.findall(r"\bmqttcluster_[a-z_]+[a-z]\b", FILES[name])):
        base = re.sub(r"_(bucket|sum|count)$", "", metric)
        if base != metric:
            assert BY_NAME[base].kind == HISTOGRAM, metric
        else:
            assert metric in BY_NAME, metric
    if name.endswith((".json", "alerts.yml")):
        assert set(re.findall(r"\bprocess_[a-z_]+", FILES[name])) <= PROCESS


def selectors(text: str) -> Iterator[tuple[str, str, str, str]]:
    """Metric, label, operator and value of every selector in a text full of expressions."""
    for metric, inside in re.findall(r"\b(mqttcluster_[a-z_]+)\{([^}]*)\}", text):
        for label, operator, value in re.findall(r'(\w+)\s*(=~|!=|=)\s*"([^"]*)"', inside):
            yield metric, label, operator, value


@pytest.mark.parametrize("name", ["prometheus/alerts.yml", "grafana/mqttcluster.json"])
def test_labels(name: str) -> None:
    """Every label is one that the metric has, and every value one that it takes."""
    text = FILES[name].replace('\\"', '"')
    found = list(selectors(text))
    assert found
    for metric, label, operator, value in found:
        if label in ("job", "instance"):
            continue
        labels = BY_NAME[re.sub(r"_(bucket|sum|count)$", "", metric)].labels
        assert label in labels, (metric, label)
        for one in value.split("|") if operator == "=~" else [value]:
            told = " ".join([labels[label], BY_NAME[metric].help])
            assert f"`{one}`" in told, (metric, label, one)


@pytest.mark.parametrize("name", FILES)
def test_paths(name: str) -> None:
    """Files of this repository that are named are there."""
    text = FILES[name]
    for path in re.findall(r"(?<![\w/.-])((?:deploy|docs|mqttcluster|tests)/[\w./-]*\w)", text):
        assert (ROOT / path).exists() or path == "mqttcluster/metrics", path  # that is a label of Kubernetes
    if name in GUIDES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (DOCS / target).exists(), target


@pytest.mark.parametrize("name", FILES)
def test_admin_paths(name: str) -> None:
    """Paths of the admin listener are served by it."""
    known = {"/healthz", "/readyz", "/metrics", "/api"}
    served = (ROOT / "mqttcluster" / "net" / "admin.py").read_text()
    for path in set(re.findall(r"/(?:healthz|readyz|metrics|livez|health|ready|status)\b(?!\.)", FILES[name])):
        assert path in known, path
        assert path in served, path


def test_ports() -> None:
    """Image, compose file, manifests and balancers agree on the ports."""
    assert Image().ports == {1883, 8083, 8080}
    named = {int(port) for _, text in texts() for port in re.findall(r"(?:tcp|ssl):(\d{4})\b", text)}
    assert named == {1883, 8883, 8083, 8080}
    published = re.findall(r"127\.0\.0\.1:(\d+):(\d+)", COMPOSE.read_text())
    assert published == [("1883", "1883"), ("8083", "8083")]


def test_no_metric_of_the_dashboard_is_forgotten() -> None:
    """The dashboard shows what the table has, but for what is a fact and not a figure, or stands in an alert."""
    shown = json.dumps(json.loads(FILES["grafana/mqttcluster.json"])) + FILES["prometheus/alerts.yml"]
    missing = {name for name in BY_NAME if name not in shown}
    not_drawn = {"mqttcluster_node_info", "mqttcluster_reloads_total", "mqttcluster_subscriptions"}
    not_drawn |= {"mqttcluster_authentication_seconds", "mqttcluster_wills_published_total"}
    not_drawn |= {f"mqttcluster_packets_{way}_total" for way in ("received", "sent")}
    not_drawn |= {f"mqttcluster_publish_{way}_bytes_total" for way in ("received", "sent")}
    assert missing <= not_drawn, missing - not_drawn
