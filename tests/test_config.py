"""The configuration: what is read from where, who wins, and that all problems are told at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from mqttcluster.config import OPTIONS, Config
from mqttcluster.configdoc import document
from mqttcluster.loading import Loaded, load
from mqttcluster.storage.interfaces import NEVER

ROOT = Path(__file__).resolve().parents[1]


def read(
    tmp_path: Path,
    toml: str | None = None,
    env: Mapping[str, str] | None = None,
    **arguments: Sequence[str],
) -> Loaded:
    given = {name.replace("_", "-"): list(values) for name, values in arguments.items()}
    if toml is not None:
        path = tmp_path / "broker.toml"
        path.write_text(toml)
        given["config"] = [str(path)]
    return load(given, env or {}, "/run/here")


def good(loaded: Loaded) -> Config:
    assert [str(problem) for problem in loaded.problems] == []
    return loaded.config


def texts(loaded: Loaded) -> list[str]:
    return [str(problem) for problem in loaded.problems]


def test_defaults_are_loopback_and_a_durable_store(tmp_path: Path) -> None:
    """Without options the broker listens on loopback only, and keeps sessions in a file of the run directory."""
    config = good(read(tmp_path))
    assert config.listen == ("tcp:1883:interface=127.0.0.1",)
    assert config.websocket == ("tcp:8083:interface=127.0.0.1",)
    assert config.store == "sqlite:/run/here/mqttcluster.sqlite"
    assert not config.allow_anonymous
    assert config.session_expiry == NEVER


def test_command_line_wins_then_environment_then_file(tmp_path: Path) -> None:
    """Each option comes from the first of command line, environment, file and default that has it."""
    toml = 'max-inflight = 1\nmax-queued = 1\nmax-retained = 1\nallow-anonymous = true\nlisten = ["tcp:1"]\n'
    env = {"MQTTCLUSTER_MAX_INFLIGHT": "2", "MQTTCLUSTER_MAX_QUEUED": "2", "MQTTCLUSTER_ALLOW_ANONYMOUS": "no"}
    config = good(read(tmp_path, toml, env, max_inflight=["3"]))
    assert (config.max_inflight, config.max_queued, config.max_retained, config.max_receiving) == (3, 2, 1, 256)
    assert config.allow_anonymous is False
    assert config.listen == ("tcp:1",)


def test_file_can_be_named_by_the_environment(tmp_path: Path) -> None:
    """In a container MQTTCLUSTER_CONFIG names the file."""
    path = tmp_path / "a.toml"
    path.write_text("max-inflight = 7")
    assert good(load({}, {"MQTTCLUSTER_CONFIG": str(path)}, "/")).max_inflight == 7


def test_repeated_options(tmp_path: Path) -> None:
    """Several endpoints: repeated on the command line, a list in the file, white space between them in the environment.
    The places replace each other."""
    env = {"MQTTCLUSTER_LISTEN": " tcp:1:interface=127.0.0.1\n unix:/a,b "}
    assert good(read(tmp_path, 'listen = ["tcp:9", "tcp:8"]')).listen == ("tcp:9", "tcp:8")
    assert good(read(tmp_path, 'listen = "tcp:9"')).listen == ("tcp:9",)
    assert good(read(tmp_path, 'listen = ["tcp:9"]', env)).listen == ("tcp:1:interface=127.0.0.1", "unix:/a,b")
    assert good(read(tmp_path, None, env, listen=["tcp:5", "tcp:6"])).listen == ("tcp:5", "tcp:6")


@pytest.mark.parametrize("toml", ["websocket = []", 'websocket = "none"', 'websocket = ["none"]'])
def test_none_is_the_empty_list(tmp_path: Path, toml: str) -> None:
    """A broker without WebSocket can be had from every place."""
    assert good(read(tmp_path, toml)).websocket == ()
    assert good(read(tmp_path, env={"MQTTCLUSTER_WEBSOCKET": "none"})).websocket == ()
    assert good(read(tmp_path, websocket=["none"])).websocket == ()


def test_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    """Compose files pass variables on that nobody has set."""
    assert good(read(tmp_path, env={"MQTTCLUSTER_NODE": "", "MQTTCLUSTER_LISTEN": " "})).listen == Config().listen


@pytest.mark.parametrize(
    ("text", "size"),
    [("2048", 2048), ("256k", 262_144), ("1MiB", 1_048_576), ("1.5m", 1_572_864), ("2 KiB", 2048)],
)
def test_sizes(tmp_path: Path, text: str, size: int) -> None:
    """Sizes are bytes, or 1024-based with a unit."""
    assert good(read(tmp_path, max_packet_size=[text])).max_packet_size == size
    assert good(read(tmp_path, f'max-packet-size = "{text}"')).max_packet_size == size


def test_times(tmp_path: Path) -> None:
    """Times are seconds, or have a unit; a session may be kept for ever."""
    config = good(read(tmp_path, "connect-timeout = 2.5\nsession-expiry = '7d'", sys_interval=["2m"]))
    assert (config.connect_timeout, config.session_expiry, config.sys_interval) == (2.5, 604_800, 120.0)
    assert good(read(tmp_path, session_expiry=["never"])).session_expiry == NEVER


def test_paths_are_relative_to_the_run_directory(tmp_path: Path) -> None:
    """Wherever a relative path is written, it starts at twistd's --rundir."""
    config = good(read(tmp_path, 'passwords = "users"\nstore = "sqlite:data/a.db"\nacl = "/etc/acl"'))
    assert config.passwords == "/run/here/users"
    assert config.store == "sqlite:/run/here/data/a.db"
    assert config.acl == "/etc/acl"


def test_all_problems_at_once_with_key_place_and_cure(tmp_path: Path) -> None:
    """One start shows everything that is wrong: the key, where it was given, what to write."""
    toml = 'max-queud = 5\nmax-inflight = "many"\nwebsocket-path = "mqtt"\nlisten = 5\nallow-anonymous = "perhaps"\n'
    env = {"MQTTCLUSTER_MAX_PACKET_SIZE": "1 kB", "MQTTCLUSTER_LISTN": "tcp:1"}
    loaded = read(tmp_path, toml, env, store=["redis+cluster://host"], session_expiry=["-1"], log_format=["xml"])
    path = tmp_path / "broker.toml"
    expected = {
        f"mqttcluster: max-queud ({path}): no such option; did you mean max-queued?",
        f"mqttcluster: max-inflight ({path}): 'many' cannot be read; write a whole number",
        f"mqttcluster: websocket-path ({path}): 'mqtt' is no path of a URL; write something like /mqtt",
        f'mqttcluster: listen ({path}): 5 is no list; write listen = ["..."]',
        f"mqttcluster: allow-anonymous ({path}): 'perhaps' is neither true nor false; write one of them",
        "mqttcluster: MQTTCLUSTER_MAX_PACKET_SIZE (environment): '1 kB' cannot be read; "
        "write bytes, or a number with k, m or g",
        "mqttcluster: MQTTCLUSTER_LISTN (environment): no such option; did you mean MQTTCLUSTER_LISTEN?",
        "mqttcluster: --store (command line): this release has no redis+cluster: store; "
        "write redis://HOST:PORT/0, sqlite:PATH or memory:",
        "mqttcluster: --session-expiry (command line): '-1' cannot be read; "
        "write never, or seconds, or a number with s, m, h or d",
        "mqttcluster: --log-format (command line): 'xml' is not known; write text or json",
    }
    assert set(texts(loaded)) == expected
    assert len(loaded.problems) == len(expected)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("max_packet_size", "1"),
        ("max_packet_size", "1g"),
        ("max_connections", "0"),
        ("max_connections", "1.5"),
        ("max_inflight", "70000"),
        ("connect_timeout", "0"),
        ("node", "a/b"),
        ("node", ""),
        ("store", "sqlite:"),
        ("store", "memory:x"),
        ("store", "postgres:x"),
        ("websocket_path", "/a?b"),
        ("websocket_origins", "example.org"),
        ("websocket_origins", "https://example.org:443"),
        ("websocket_origins", "https://me@example.org"),
        ("session_expiry", "4294967295"),
    ],
)
def test_values_out_of_bounds_are_problems(tmp_path: Path, option: str, text: str) -> None:
    """A value that cannot be meant is refused, with its option named."""
    (problem,) = texts(read(tmp_path, **{option: [text]}))
    assert problem.startswith(f"mqttcluster: --{option.replace('_', '-')} (command line): ")
    assert "; " in problem


@pytest.mark.parametrize("value", ["true", "[1]", "nan", "inf", "1.5", "1979-05-27"])
def test_toml_values_of_the_wrong_type_are_problems(tmp_path: Path, value: str) -> None:
    """Whatever TOML can say, a number is a number."""
    (problem,) = texts(read(tmp_path, f"max-inflight = {value}"))
    assert "max-inflight" in problem


@pytest.mark.parametrize("content", [b"a = ", b"\xff\xfe", b"[listen]\nx = 1\n"])
def test_broken_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    """A file that is no TOML, no UTF-8, or has a table in it is named, without a traceback."""
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    (problem,) = texts(load({"config": [str(path)]}, {}, "/"))
    assert str(path) in problem
    assert "\n" not in problem


def test_missing_file_is_named_with_its_option(tmp_path: Path) -> None:
    """A wrong --config is told apart from a wrong MQTTCLUSTER_CONFIG."""
    (problem,) = texts(load({"config": ["/no/file"]}, {}, "/"))
    assert problem.startswith("mqttcluster: --config (command line): cannot read /no/file: ")
    (problem,) = texts(load({}, {"MQTTCLUSTER_CONFIG": "/no/file"}, "/"))
    assert problem.startswith("mqttcluster: MQTTCLUSTER_CONFIG (environment): cannot read /no/file: ")


def test_file_cannot_name_another(tmp_path: Path) -> None:
    """config is no key of the file."""
    (problem,) = texts(read(tmp_path, 'config = "other.toml"'))
    assert "a file cannot name another" in problem


def test_variables_of_kubernetes_services_are_left_alone(tmp_path: Path) -> None:
    """A service named mqttcluster puts variables into every pod; they are not ours."""
    names = "SERVICE_HOST SERVICE_PORT SERVICE_PORT_MQTT PORT PORT_1883_TCP PORT_1883_TCP_ADDR PORT_1883_TCP_PROTO"
    env = {f"MQTTCLUSTER_{name}": "x" for name in names.split()}
    env |= {"MQTTCLUSTER_HEADLESS_SERVICE_HOST": "x", "MQTTCLUSTER_HEADLESS_PORT_1883_TCP_PORT": "x"}
    env |= {"MQTTCLUSTERX": "x"}
    good(read(tmp_path, env=env))
    (problem,) = texts(read(tmp_path, env={"MQTTCLUSTER_PORTS": "1"}))
    assert "MQTTCLUSTER_PORTS" in problem


def test_every_option_has_help_and_a_default_that_it_accepts() -> None:
    """What the documentation shows as default can be written down as such."""
    for option in OPTIONS:
        assert option.help
        assert option.group
        default = option.default
        if not callable(default) and not option.repeatable and default not in ("", NEVER):
            assert option.kind.read(default) == default, option.name
    assert [option.name.replace("-", "_") for option in OPTIONS] == [field.name for field in dataclasses.fields(Config)]


def test_documentation_is_not_stale() -> None:
    """docs/configuration.md is what `python -m mqttcluster.configdoc` writes."""
    assert (ROOT / "docs" / "configuration.md").read_text() == document()
