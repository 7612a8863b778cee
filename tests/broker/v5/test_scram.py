"""SCRAM-SHA-256: the example of RFC 7677, who gets in, and what a stranger can find out."""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttcluster.broker import scram
from mqttcluster.broker.enhanced import Challenge, Claim, Finish
from mqttcluster.broker.scram import Scram, ScramFileError, line, prepare, read_verifiers, verifier
from mqttcluster.mqtt.reasons import Reason
from tests.broker.v5.scram_client import ScramClient

FEW = 4096
CLAIM = Claim("c", None, "192.0.2.1:1")
USERS = {
    "user": verifier("pencil", b"sixteen bytes...", FEW),
    "a,b=c": verifier("x", b"another salt of them", FEW),
    "Jürgen": verifier("geheim", b"sixteen bytes..!", FEW),
}


def ask(client: ScramClient, server: Scram) -> Finish | Reason:
    """A whole conversation, which the server ends."""
    exchange = server.begin(CLAIM)
    challenge = exchange.step(client.first())
    if not isinstance(challenge, Challenge):
        assert isinstance(challenge, Reason)
        return challenge
    answer = exchange.step(client.final(challenge.data))
    assert isinstance(answer, Finish | Reason)
    return answer


def test_the_example_of_the_standard() -> None:
    """RFC 7677, section 3: the same four messages, byte by byte, on both sides."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    server = Scram({"user": verifier("pencil", salt, 4096)}, lambda: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    client = ScramClient("user", "pencil", "rOprNGfwEbeRWgbNEkqO")
    exchange = server.begin(CLAIM)
    challenge = exchange.step(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
    expected = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    assert challenge == Challenge(expected)
    final = (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert client.final(expected) == final
    outcome = exchange.step(final)
    assert outcome == Finish("user", b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
    assert client.believes(outcome.data)


@pytest.mark.parametrize(
    ("name", "password", "result"),
    [
        ("user", "pencil", "user"),
        ("a=2Cb=3Dc", "x", "a,b=c"),
        ("Jürgen", "geheim", "Jürgen"),
        ("user", "Pencil", Reason.BAD_USER_NAME_OR_PASSWORD),
        ("user", "", Reason.BAD_USER_NAME_OR_PASSWORD),
        ("User", "pencil", Reason.BAD_USER_NAME_OR_PASSWORD),
        ("nobody", "pencil", Reason.BAD_USER_NAME_OR_PASSWORD),
        ("user=", "pencil", Reason.BAD_USER_NAME_OR_PASSWORD),
        ("us\u200der", "pencil", "user"),
        ("us\u0007er", "pencil", Reason.BAD_USER_NAME_OR_PASSWORD),
    ],
)
def test_who_gets_in(name: str, password: str, result: object) -> None:
    """The right name with the right password, and the server proves itself; nobody else learns which was wrong."""
    client = ScramClient(name, password)
    answer = ask(client, Scram(USERS))
    if isinstance(answer, Finish):
        assert answer.username == result
        assert client.believes(answer.data)
    else:
        assert answer is result


@pytest.mark.parametrize(
    ("header", "allowed"),
    [("n,,", True), ("y,,", True), ("n,a=user,", True), ("n,a=root,", False), ("p=tls-unique,,", False), ("", False)],
)
def test_headers(header: str, allowed: bool) -> None:
    """No channel binding is offered; nobody acts for somebody else."""
    answer = ask(ScramClient("user", "pencil", header=header), Scram(USERS))
    assert isinstance(answer, Finish) is allowed


def test_a_nonce_of_another_conversation() -> None:
    """What was recorded is of no use later: the server's part of the nonce is new each time."""
    server, client = Scram(USERS), ScramClient("user", "pencil")
    first, second = server.begin(CLAIM), server.begin(CLAIM)
    one, two = first.step(client.first()), second.step(client.first())
    assert isinstance(one, Challenge)
    assert isinstance(two, Challenge)
    assert one.data != two.data
    recorded = client.final(one.data)
    assert isinstance(first.step(recorded), Finish)
    assert second.step(recorded) is Reason.NOT_AUTHORIZED


def test_a_changed_header_is_noticed() -> None:
    """Whoever sits between the two and takes channel binding out of the offer is found out."""
    client = ScramClient("user", "pencil")
    exchange = Scram(USERS).begin(CLAIM)
    challenge = exchange.step(b"y,," + client.bare.encode())
    assert isinstance(challenge, Challenge)
    assert exchange.step(client.final(challenge.data)) is Reason.NOT_AUTHORIZED


def test_names_that_are_not_there_cannot_be_told() -> None:
    """They have a salt, always the same one, of the usual size and with the usual work; also after a restart."""
    found = []
    for server in (Scram(USERS), Scram(dict(USERS))):
        for name in ("nobody", "nobody", "somebody"):
            client = ScramClient(name, "guess")
            assert ask(client, server) is Reason.BAD_USER_NAME_OR_PASSWORD
            fields = client.fields()
            assert (len(base64.b64decode(fields["s"])), fields["i"]) == (16, str(FEW))
            found.append(fields["s"])
    assert found[0] == found[1] == found[3]
    assert found[2] != found[0]
    assert found[2] == found[5]


@pytest.mark.parametrize(
    "message",
    [
        b"\xff\xfe",
        b"n,,n=user",
        b"n,,r=abc,n=user",
        b"n,,n=,r=abc",
        b"n,,n=user,r=",
        b"n,,n=user,r=a b",
        b"n,,m=ext,n=user,r=abc",
        b"n,,n=user,r=abc,m=ext",
        b"c=biws,r=abc,p=AAAA",
        b"n,,n=user,r=" + b"x" * 3000,
    ],
)
def test_what_is_no_first_message(message: bytes) -> None:
    """It is refused at once."""
    assert Scram(USERS).begin(CLAIM).step(message) is Reason.NOT_AUTHORIZED


def test_extensions_that_may_be_ignored() -> None:
    """The standard has a place for them."""
    client = ScramClient("user", "pencil")
    client.bare += ",x=whatever"
    assert isinstance(ask(client, Scram(USERS)), Finish)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-4] + b"AAA=",
        lambda text: text.replace(b",p=", b",p=!"),
        lambda text: text.split(b",p=")[0],
        lambda text: text.split(b",p=")[0] + b",p=AAAA",
        lambda text: text.replace(b"c=biws", b"c=eSws"),
        lambda text: text.replace(b"c=biws", b"c=b"),
        lambda text: text + b",x=1",
        lambda text: text.replace(b",p=", b",m=1,p="),
        lambda text: b"",
    ],
)
def test_what_is_no_final_message(spoil: object) -> None:
    """It does not let the client in."""
    client = ScramClient("user", "pencil")
    exchange = Scram(USERS).begin(CLAIM)
    challenge = exchange.step(client.first())
    assert isinstance(challenge, Challenge)
    answer = exchange.step(spoil(client.final(challenge.data)))  # type: ignore[operator]
    assert answer in (Reason.NOT_AUTHORIZED, Reason.BAD_USER_NAME_OR_PASSWORD)


@given(st.lists(st.binary(max_size=80), min_size=1, max_size=3))
def test_any_bytes_are_refused(messages: list[bytes]) -> None:
    """Never an exception, never somebody let in."""
    exchange = Scram(USERS).begin(CLAIM)
    for message in messages:
        assert not isinstance(exchange.step(message), Finish)


@pytest.mark.parametrize(
    ("text", "prepared"),
    [("I\u00adX", "IX"), ("user", "user"), ("USER", "USER"), ("\u00aa", "a"), ("\u2168", "IX"), ("a\u00a0b", "a b")],
)
def test_texts_are_prepared(text: str, prepared: str) -> None:
    """The examples of RFC 4013, and a space of another kind."""
    assert prepare(text) == prepared


@pytest.mark.parametrize("text", ["\u0007", "\u0627\u0031", "", "\ue000", "\u0627x\u0627", "\u0221"])
def test_texts_that_are_forbidden(text: str) -> None:
    """Control characters, mixed directions, private and unassigned code points, nothing at all."""
    with pytest.raises(ValueError, match=r"SASLprep"):
        prepare(text)


# -- the file


def test_a_line_that_was_made_lets_its_user_in(tmp_path: Path) -> None:
    """Names may have colons and spaces; every line has a salt of its own."""
    path = tmp_path / "users"
    made = [line("alice", "secret", FEW), line("a:b c", "other", FEW), line("bob", "secret", FEW)]
    path.write_text("# users\n\n" + "\n".join(made) + "\n")
    users = read_verifiers(str(path))
    assert list(users) == ["alice", "a:b c", "bob"]
    assert users["alice"].salt != users["bob"].salt
    assert "secret" not in path.read_text()
    for name, password in (("alice", "secret"), ("a:b c", "other")):
        assert isinstance(ask(ScramClient(name, password), Scram(users)), Finish)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("alice", "line 1: this is no verifier"),
        ("alice:scram-sha-1:4096:c2FsdA==:" + "A" * 43 + "=:" + "A" * 43 + "=", "line 1: this is no verifier"),
        ("alice:scram-sha-256:10:c2FsdA==:" + "A" * 43 + "=:" + "A" * 43 + "=", "line 1: this is no verifier"),
        ("alice:scram-sha-256:x:c2FsdA==:" + "A" * 43 + "=:" + "A" * 43 + "=", "line 1: this is no verifier"),
        ("alice:scram-sha-256:4096:c2FsdA==:AAAA:" + "A" * 43 + "=", "line 1: this is no verifier"),
        ("alice:scram-sha-256:4096::" + "A" * 43 + "=:" + "A" * 43 + "=", "line 1: this is no verifier"),
        ("alice:scram-sha-256:4096:?:" + "A" * 43 + "=:" + "A" * 43 + "=", "line 1: this is no verifier"),
        ("# nobody", "holds no user"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, text: str, complaint: str) -> None:
    """The line is named and the cure told."""
    path = tmp_path / "users"
    path.write_text(text + "\n")
    with pytest.raises(ScramFileError, match=complaint):
        read_verifiers(str(path))


def test_more_files_that_cannot_be_used(tmp_path: Path) -> None:
    """One that is not there, one that is not text, one with a name twice."""
    path = tmp_path / "users"
    with pytest.raises(ScramFileError, match="name a readable file"):
        read_verifiers(str(path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ScramFileError, match="not UTF-8"):
        read_verifiers(str(path))
    made = line("alice", "x", FEW)
    path.write_text(f"{made}\n{made}\n")
    with pytest.raises(ScramFileError, match="line 2: the name is there twice"):
        read_verifiers(str(path))


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It reads a password from a pipe and writes a line that lets its user in."""
    monkeypatch.setattr(sys, "argv", ["scram", "alice", "5000"])
    monkeypatch.setattr(sys, "stdin", io.StringIO("secret\n"))
    scram.main()
    path = tmp_path / "users"
    path.write_text(capsys.readouterr().out)
    users = read_verifiers(str(path))
    assert users["alice"].iterations == 5000
    assert isinstance(ask(ScramClient("alice", "secret"), Scram(users)), Finish)
    for arguments in ([], ["alice", "many"], ["#alice"], ["alice", "10"]):
        monkeypatch.setattr(sys, "argv", ["scram", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO("secret\n"))
        with pytest.raises(SystemExit):
            scram.main()
