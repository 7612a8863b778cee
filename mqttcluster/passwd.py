"""``mqttcluster-passwd``: add, change, delete and verify users in a password file.

    mqttcluster-passwd add passwords alice       asks twice; makes the file if it is not there
    mqttcluster-passwd delete passwords alice
    mqttcluster-passwd verify passwords alice    asks; ends with status 0 if the password fits, else 1

From a pipe the password is read once, as one line. Lines that are not about the user stay as they are, and the file is
replaced in one stroke, so that a broker never reads half of it. A running broker reads it again on SIGHUP.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import sys
import tempfile
from collections.abc import Sequence

from mqttcluster.broker.passwords import PasswordFileError, line, read_passwords


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. Exits with status 1 and one line on standard error for what cannot be done."""
    given = _parser().parse_args(arguments)
    try:
        given.do(given)
    except (ValueError, PasswordFileError) as error:
        sys.exit(f"mqttcluster-passwd: {error}")
    except OSError as error:
        sys.exit(f"mqttcluster-passwd: {given.file}: {error.strerror}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mqttcluster-passwd", description="Keeps a password file of mqttcluster.")
    commands = parser.add_subparsers(required=True, metavar="add|delete|verify")
    for name, do, text in (
        ("add", _add, "add a user, or give one another password"),
        ("delete", _delete, "remove a user"),
        ("verify", _verify, "tell whether a password fits"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("file", help="the password file")
        command.add_argument("name", help="the user's name")
        if name != "delete":
            command.add_argument(
                "--password", help="do not ask; others on this machine can see it, so better use a pipe"
            )
        command.set_defaults(do=do)
    return parser


def _add(given: argparse.Namespace) -> None:
    with contextlib.suppress(FileNotFoundError):
        _lines(given.file)  # so that nobody is asked for a password that cannot be kept
    made = line(given.name, _password(given, again=True))
    try:
        lines = _lines(given.file)
    except FileNotFoundError:
        lines = []
    at = _find(lines, given.name)
    lines[at : at + 1] = [made]
    _replace(given.file, lines)


def _delete(given: argparse.Namespace) -> None:
    lines = _lines(given.file)
    at = _find(lines, given.name)
    if at == len(lines):
        raise ValueError(f"{given.file} has no user {given.name}")
    del lines[at]
    _replace(given.file, lines)


def _verify(given: argparse.Namespace) -> None:
    known = read_passwords(given.file).get(given.name)
    if known is None:
        raise ValueError(f"{given.file} has no user {given.name}")
    if not known.fits(_password(given, again=False).encode()):
        raise ValueError("the password does not fit")
    sys.stdout.write("the password fits\n")


def _password(given: argparse.Namespace, again: bool) -> str:
    if given.password is not None:
        sys.stderr.write("mqttcluster-passwd: a password on the command line can be seen by others on this machine\n")
        return str(given.password)
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    password = getpass.getpass()
    if again and password != getpass.getpass("Again: "):
        raise ValueError("the two differ; nothing was changed")
    return password


def _lines(path: str) -> list[str]:
    with open(path, encoding="utf-8") as stream:
        return stream.read().splitlines()


def _find(lines: list[str], name: str) -> int:
    """Where the user's line is; the end if there is none."""
    for at, text in enumerate(lines):
        if not text.startswith("#") and text.rpartition(":")[0] == name:
            return at
    return len(lines)


def _replace(path: str, lines: list[str]) -> None:
    path = os.path.realpath(path)
    handle, new = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".passwords-")  # readable by its owner only
    try:
        with open(handle, "w", encoding="utf-8") as stream:
            stream.write("".join(f"{text}\n" for text in lines))
            stream.flush()
            os.fsync(stream.fileno())
        with contextlib.suppress(FileNotFoundError):
            before = os.stat(path)
            os.chmod(new, before.st_mode & 0o7777)
            with contextlib.suppress(PermissionError):
                os.chown(new, before.st_uid, before.st_gid)
        os.replace(new, path)
    except BaseException:
        os.unlink(new)
        raise


if __name__ == "__main__":
    main()
