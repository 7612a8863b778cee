"""`twistd mqttcluster` from outside: its command line, start and end, and what it says when it cannot start."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mqttcluster.tap import Hangup, Options
from tests.storage.driver import QueueReactor
from tests.support.certificates import Certificates

ROOT = Path(__file__).resolve().parents[1]
TWISTD = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from twisted.scripts.twistd import run; run()"


def run_twistd(
    run: Path, *arguments: str, env: Mapping[str, str] | None = None, twistd: Sequence[str] = ("--nodaemon",)
) -> subprocess.CompletedProcess[str]:
    """Run twistd to its end, which it reaches only if it cannot start."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MQTTCLUSTER_")}
    return subprocess.run(
        [sys.executable, "-c", TWISTD, *twistd, "mqttcluster", *arguments],
        cwd=run,
        env=clean | dict(env or {}),
        capture_output=True,
        text=True,
        timeout=60,
    )


def refused(result: subprocess.CompletedProcess[str], run: Path) -> list[str]:
    """The lines on standard error of a process that refused to start, after all that holds for each of them."""
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert not (run / "twistd.pid").exists()
    lines = result.stderr.splitlines()
    assert all(line.startswith("mqttcluster: ") for line in lines), result.stderr
    return lines


QUIET = ("--websocket", "none", "--store", "memory:")


class TestRefusing:
    """What an operator sees who made a mistake."""

    def test_everything_wrong_is_told_at_once(self, tmp_path: Path) -> None:
        """Mistakes of the command line, the environment, listeners and files are all there, one line each."""
        lines = refused(
            run_twistd(
                tmp_path,
                *("--listn", "tcp:1883", "stray", "--allow-anonymous=yes", "--max-inflight", "0"),
                *("--listen", "tcp:1883", "--listen", "ssl:0:interface=127.0.0.1", "--websocket", "none"),
                *("--listen", "unix:/no/such/directory/mqtt.sock", "--listen", "carrier:pigeon"),
                *("--listen", "tcp:mqtt"),
                *("--passwords", "/no/passwords", "--acl", "/no/acl", "--store", "sqlite:/no/such/directory/x"),
                "--log-level",
                env={"MQTTCLUSTER_NOED": "a"},
            ),
            tmp_path,
        )
        for part in (
            "--listn (command line): no such option; did you mean --listen?",
            "stray: no option begins like this",
            "--allow-anonymous (command line): it takes no value",
            "--log-level (command line): it needs a value",
            "--max-inflight (command line): 0 is out of bounds",
            "MQTTCLUSTER_NOED (environment): no such option; did you mean MQTTCLUSTER_NODE?",
            f"ssl:0:interface=127.0.0.1: cannot read privateKey {tmp_path}/server.pem",
            "unix:/no/such/directory/mqtt.sock: the directory /no/such/directory is not there",
            "carrier:pigeon: Unknown endpoint type",
            "tcp:mqtt: 'mqtt' is no port",
            "--passwords (command line): cannot read /no/passwords",
            "--acl (command line): cannot read /no/acl",
            "--store (command line): the directory /no/such/directory is not there",
        ):
            assert sum(part in line for line in lines) == 1, (part, lines)
        assert len(lines) == 13

    def test_port_in_use(self, tmp_path: Path) -> None:
        """Found out after the store was opened: still one line, status 1, and no pid file."""
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            result = run_twistd(tmp_path, *QUIET, "--listen", f"tcp:{port}:interface=127.0.0.1")
        (line,) = refused(result, tmp_path)
        assert f"--listen (command line), tcp:{port}:interface=127.0.0.1: cannot listen (Address already" in line

    @pytest.mark.parametrize(
        ("option", "place"),
        [(name, "missing/it") for name in ("--logfile", "--pidfile", "--rundir")]
        + [("--logfile", "there"), ("--rundir", "there")],
    )
    def test_what_twistd_cannot_write(self, tmp_path: Path, option: str, place: str) -> None:
        """Its own files and directory: a line each, as for everything else, and no traceback."""
        (tmp_path / "there").write_text("") if option == "--rundir" else (tmp_path / "there").mkdir()
        result = run_twistd(tmp_path, *QUIET, twistd=("--nodaemon", f"{option}={tmp_path / place}"))
        (line,) = refused(result, tmp_path)
        assert line.startswith(f"mqttcluster: {option} (twistd): ")
        assert str(tmp_path) in line

    def test_store_that_is_no_store(self, tmp_path: Path) -> None:
        """A file that belongs to something else is left as it is."""
        (tmp_path / "notes.txt").write_bytes(b"not a database, and long enough to be looked at closely\n" * 100)
        before = (tmp_path / "notes.txt").read_bytes()
        result = run_twistd(tmp_path, "--listen", "tcp:0:interface=127.0.0.1", "--store", "sqlite:notes.txt")
        (line,) = refused(result, tmp_path)
        assert line.startswith("mqttcluster: --store (command line): ")
        assert (tmp_path / "notes.txt").read_bytes() == before

    def test_files_of_a_store_that_are_not_there(self, tmp_path: Path) -> None:
        """Said at once, and not when Redis is to be reached; without the password."""
        url = f"rediss://:secret@127.0.0.1:1/0?ssl_ca_certs={tmp_path}/missing.pem"
        (line,) = refused(run_twistd(tmp_path, "--listen", "tcp:0:interface=127.0.0.1", "--store", url), tmp_path)
        assert line.startswith(f"mqttcluster: --store (command line): ssl_ca_certs, {tmp_path}/missing.pem, cannot be")
        assert "secret" not in line

    def test_open_to_the_world_without_authentication(self, tmp_path: Path) -> None:
        """A listener on all interfaces needs passwords, or the operator's word that anybody may come."""
        (line,) = refused(run_twistd(tmp_path, *QUIET, "--listen", "tcp:0"), tmp_path)
        assert "--allow-anonymous" in line
        assert "--passwords" in line

    def test_rules_about_users_need_passwords(self, tmp_path: Path) -> None:
        """Without passwords a user name is only a claim; rules that rely on it would protect nothing."""
        (tmp_path / "acl").write_text("allow user alice to publish and subscribe #\n")
        result = run_twistd(tmp_path, *QUIET, "--listen", "tcp:0:interface=127.0.0.1", "--acl", "acl")
        (line,) = refused(result, tmp_path)
        assert line.startswith("mqttcluster: --acl (command line): ")

    def test_paths_start_at_the_run_directory(self, tmp_path: Path) -> None:
        """With --rundir, that is where a relative path is looked for."""
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        twistd = ("--nodaemon", "--rundir", str(elsewhere))
        (line,) = refused(run_twistd(tmp_path, *QUIET, "--passwords", "users", twistd=twistd), tmp_path)
        assert f"cannot read {elsewhere}/users" in line


class TestRunning:
    """A process that starts, serves and ends."""

    @pytest.fixture
    def processes(self) -> Iterator[list[subprocess.Popen[str]]]:
        started: list[subprocess.Popen[str]] = []
        yield started
        for process in started:
            process.kill()
            process.communicate()

    def start(self, processes: list[subprocess.Popen[str]], run: Path, *arguments: str) -> subprocess.Popen[str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith("MQTTCLUSTER_")}
        # A shell lets what it starts in the background ignore SIGINT, these tests and what they start included.
        interruptible = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {TWISTD}"
        command = [sys.executable, "-c", interruptible, "--nodaemon", "mqttcluster", *arguments]
        process = subprocess.Popen(
            command, cwd=run, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        processes.append(process)
        return process

    @pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT"])
    def test_json_log_and_clean_end(self, processes: list[Any], tmp_path: Path, signal: str) -> None:
        """Each line on standard output is a JSON object, from the first to the last; the end leaves nothing behind."""
        import signal as signals

        listen = ("--listen", "tcp:0:interface=127.0.0.1")
        process = self.start(processes, tmp_path, *QUIET, *listen, "--log-format", "json", "--node", "one")
        seen: list[dict[str, Any]] = []
        for line in process.stdout:
            seen.append(json.loads(line))
            if "listening for MQTT" in seen[-1]["text"]:
                break
        texts = [entry["text"] for entry in seen]
        assert texts[0].startswith("twistd ")
        assert "node one, store memory:" in texts
        port = int(re.fullmatch(r"listening for MQTT on 127\.0\.0\.1:(\d+)", texts[-1])[1])
        with socket.create_connection(("127.0.0.1", port)):
            process.send_signal(getattr(signals, signal))
            rest, errors = process.communicate(timeout=60)
        last = [json.loads(line)["text"] for line in rest.splitlines()]
        assert "node one has stopped" in last
        assert "Server Shut Down." in last
        assert "Traceback" not in rest
        assert errors == ""
        assert not (tmp_path / "twistd.pid").exists()

    def test_log_level(self, processes: list[Any], tmp_path: Path) -> None:
        """With --log-level warn a start without trouble says nothing."""
        sock = tmp_path / "s"
        process = self.start(processes, tmp_path, *QUIET, "--listen", f"unix:{sock}", "--log-level", "warn")
        while not sock.exists() and process.poll() is None:
            os.sched_yield()
        process.terminate()
        output, errors = process.communicate(timeout=60)
        assert (output, errors) == ("", "")

    def test_probes(self, processes: list[Any], tmp_path: Path) -> None:
        """With --admin a probe learns over HTTP that the node is ready."""
        admin, listen = "tcp:0:interface=127.0.0.1", "tcp:0:interface=127.0.0.1"
        process = self.start(processes, tmp_path, *QUIET, "--listen", listen, "--admin", admin)
        said = ""
        while "listening for MQTT" not in said:  # before that, it is not ready
            line = process.stdout.readline()
            assert line, "the process has ended"
            said += line
        [where] = re.findall(r"listening for probes on (\S+)", said)
        with urllib.request.urlopen(f"http://{where}/readyz", timeout=60) as answer:
            assert (answer.status, json.load(answer)) == (200, {"status": "ok"})
        process.terminate()
        process.communicate(timeout=60)

    @pytest.mark.parametrize("mode", ["require", "optional"])
    def test_client_certificates(
        self, processes: list[Any], tmp_path: Path, certificates: Certificates, mode: str
    ) -> None:
        """With --tls-client-ca a client of our authority is served; one without certificate only if it is optional."""
        process = self.start(
            processes,
            tmp_path,
            *QUIET,
            "--listen",
            f"ssl:0:interface=127.0.0.1:privateKey={certificates.server_key}:certKey={certificates.server}",
            *("--tls-client-ca", str(certificates.authority), "--tls-client-certificates", mode),
        )
        for line in process.stdout:
            found = re.search(r"listening for MQTT over TLS on 127\.0\.0\.1:(\d+)", line)
            if found:
                break
        port = int(found[1])
        assert self.pings(port, certificates, known=True)
        assert self.pings(port, certificates, known=False) == (mode == "optional")

    def pings(self, port: int, certificates: Certificates, known: bool) -> bool:
        """Whether CONNECT is answered by CONNACK."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(certificates.authority)
        context.check_hostname = False
        if known:
            context.load_cert_chain(certificates.client, certificates.client_key)
        try:
            with (
                socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as secure,
            ):
                secure.sendall(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x")
                return secure.recv(4) == b"\x20\x02\x00\x00"
        except (ssl.SSLError, ConnectionError):
            return False


class TestCommandLine:
    """What `Options` makes of the command line."""

    def parse(self, *arguments: str) -> tuple[dict[str, list[str]], list[str]]:
        options = Options()
        options.parseOptions(list(arguments))
        return options.given, [str(mistake) for mistake in options.mistakes]

    def test_values_and_flags(self) -> None:
        """Both spellings of a value, repeated options, flags, and names that are cut short."""
        given, mistakes = self.parse("--listen", "tcp:1", "--listen=tcp:2", "--allow-anonymous", "--nod", "n")
        assert given == {"listen": ["tcp:1", "tcp:2"], "allow-anonymous": ["true"], "node": ["n"]}
        assert mistakes == []

    def test_the_rest_is_read_past_a_mistake(self) -> None:
        """An option that does not exist takes its value with it, and hides no other."""
        given, mistakes = self.parse("--foo", "bar", "-x", "--node", "n", "--max", "3", "--acl")
        assert given == {"node": ["n"]}
        assert [mistake.split(" ")[1] for mistake in mistakes] == ["--foo", "-x", "--max", "--acl"]

    def test_help_names_every_option(self, capsys: pytest.CaptureFixture[str]) -> None:
        """`twistd mqttcluster --help` ends with status 0."""
        with pytest.raises(SystemExit) as ended:
            self.parse("--help")
        assert not ended.value.code
        text = capsys.readouterr().out
        assert "--websocket-origins=" in text
        assert "--allow-anonymous " in text


def test_a_hangup_while_the_files_are_read_for_the_first_time() -> None:
    """It does not end the process, and the files are read once more."""
    before = signal.getsignal(signal.SIGHUP)
    asked: list[str] = []
    reactor = QueueReactor()
    try:
        hangup = Hangup(reactor)
        os.kill(os.getpid(), signal.SIGHUP)
        hangup.deal_with(lambda: asked.append("read again"))
        assert asked == ["read again"]
        os.kill(os.getpid(), signal.SIGHUP)
        reactor.turn()
        assert len(asked) == 2
    finally:
        signal.signal(signal.SIGHUP, before)
