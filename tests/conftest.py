"""Fixtures for brokers as real processes, and the rule that a machine that runs everything skips nothing.

``broker``         a broker of its own for one test, with ``kill()``, ``restart()`` and ``log``
``shared_broker``  one broker for all tests that do not harm it; it also listens on TLS and a UNIX socket
``start_broker``   a function that starts more of them, with other listeners or options

A test fails when its broker's log has a traceback in it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import hypothesis
import pytest
from hypothesis import HealthCheck

from tests.support import certificates as authority
from tests.support.brokers import Mosquitto, Mqttcluster
from tests.support.certificates import Certificates
from tests.support.process import TCP, TLS, UNIX, WEBSOCKET, Broker, Recipe

# How long an example takes, or its making, says how busy the machine is; how large examples are, or how many fit, is
# chance.
CHANCE = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
hypothesis.settings.register_profile("mqttcluster", deadline=None, suppress_health_check=CHANCE)
hypothesis.settings.load_profile("mqttcluster")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--broker", choices=("mqttcluster", "mosquitto"), default="mqttcluster", help="run the process tests against it"
    )


def _complain_about_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"with CI=true nothing may be skipped. {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _complain_about_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _complain_about_skip(report)
    return report


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A certificate authority, a server's certificate and a client's."""
    return authority.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def recipe(pytestconfig: pytest.Config, certificates: Certificates) -> Recipe:
    """How to start the broker under test."""
    if pytestconfig.getoption("--broker") == "mosquitto":
        if shutil.which("mosquitto") is None:
            pytest.skip("mosquitto is not installed")
        return Mosquitto(certificates)
    return Mqttcluster(certificates)


def _check(broker: Broker, since: int = 0) -> None:
    faults = broker.faults(since)
    assert not faults, f"the broker's log tells of faults:\n{broker.log}"


@pytest.fixture
def start_broker(recipe: Recipe, certificates: Certificates, tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """A function that starts a broker: `listeners` to open, more `options` for the command line."""
    brokers: list[Broker] = []

    def start(listeners: Sequence[str] = (TCP, WEBSOCKET), options: Sequence[str] = ()) -> Broker:
        run = tmp_path / f"broker{len(brokers)}"
        run.mkdir()
        broker = Broker(Mqttcluster(certificates, options) if options else recipe, run, listeners)
        brokers.append(broker)
        broker.start()
        return broker

    yield start
    for broker in brokers:
        broker.stop()
        _check(broker)


@pytest.fixture
def broker(start_broker: Callable[..., Broker]) -> Broker:
    """A broker of its own for one test."""
    return start_broker()


@pytest.fixture(scope="session")
def _session_broker(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(recipe, tmp_path_factory.mktemp("shared-broker"), (TCP, WEBSOCKET, TLS, UNIX))
    broker.start()
    yield broker
    broker.stop()
    _check(broker)


@pytest.fixture
def shared_broker(_session_broker: Broker) -> Iterator[Broker]:
    """One broker for all tests that use names of their own and leave it running."""
    since = len(_session_broker.log.lines)
    yield _session_broker
    _check(_session_broker, since)
