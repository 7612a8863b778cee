"""docs/configuration.md, made from the table in `mqttcluster.config`.

To write it anew: ``python -m mqttcluster.configdoc > docs/configuration.md``. A test fails when it is stale.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from mqttcluster.config import OPTIONS, PREFIX, Option

_HEAD = f"""# Configuration

<!-- Made by `python -m mqttcluster.configdoc > docs/configuration.md`; a test fails when it is stale. -->

Each option below can be given in three ways. The first of them that is given counts:

1. on the command line, `twistd -n mqttcluster --max-packet-size 256k`;
2. in the environment, `{PREFIX}MAX_PACKET_SIZE=256k`: upper case, underscores for dashes. An empty variable
   counts as not set;
3. in the TOML file named by `--config` or `{PREFIX}CONFIG`, `max-packet-size = "256k"`.

An option that may be given several times is repeated on the command line, a list in the file, and in the
environment its values are separated by white space. Its values replace those of the next place, they are not
added. The word `none` alone is the empty list.

Sizes are bytes, or a number with k, m or g (1024-based). Times are seconds, or a number with s, m, h or d.
Relative paths are relative to the directory in which the broker runs (twistd's `--rundir`); that of the TOML
file itself, to the directory in which twistd was started.

All problems are reported at once, one line each on standard error, and the process ends with status 1 before
it listens. Options and variables that do not exist are problems. (Variables that Kubernetes makes for a
service named mqttcluster, such as {PREFIX}SERVICE_HOST, are left alone.)

## Endpoints

Listeners are Twisted endpoint strings: `tcp:1883`, `tcp:1883:interface=127.0.0.1`, `tcp6:1883`,
`ssl:8883:privateKey=key.pem:certKey=cert.pem`, `unix:/run/mqtt.sock:mode=660`, `systemd:domain=INET:index=0`,
`haproxy:tcp:1883`. A port of 0 takes a free one; the log names it. A colon within a value is written `\\:`.

`haproxy:` before another endpoint is for a balancer that sends the PROXY protocol, version 1 or 2: logs and
limits see the address it tells. With `haproxy:ssl:` the header comes before TLS, from a balancer that passes TLS on;
it cannot stand before `tls:`. A connection without such a header is dropped, at once or after `connect-timeout`.
Only the balancer should reach such a port, for the header is believed. [deploy/haproxy.cfg](../deploy/haproxy.cfg)
is an example.

As long as nobody checks who a client is (`passwords`, `authenticator`, `tls-identity`; see
[authentication.md](authentication.md)), anonymous clients are accepted on listeners that only this machine reaches: a
loopback interface, or a Unix socket. A listener on any other interface refuses to start unless there is a password
file or one of the others, or every client must show a certificate (`ssl:` with `tls-client-ca`), or `allow-anonymous`
is given.
`haproxy:` counts as reachable from elsewhere whatever its interface, and so does a TCP socket from systemd.
With a password file or one of the others, a client without a user name is refused, unless `allow-anonymous` is
given, or a certificate was required of it that need not have a name.
"""


def document() -> str:
    """The whole text."""
    lines = [_HEAD]
    for group in dict.fromkeys(option.group for option in OPTIONS):
        lines.append(f"## {group}\n")
        for option in OPTIONS:
            if option.group == group:
                lines.extend(_entry(option))
    return "\n".join(lines)


def _entry(option: Option) -> list[str]:
    shown = option.shown or _show(option)
    given = f"--{option.name}" if option.flag else f"--{option.name} {option.kind.label.upper()}"
    more = " May be given several times." if option.repeatable else ""
    text = f"{option.help[0].upper()}{option.help[1:]}.{more}"
    bounds = f" ({option.kind.bounds})" if option.kind.bounds else ""
    lines = [f"### {option.name}\n", f"{text}\n", f"`{given}`{bounds}, default: {shown}.\n"]
    if option.others:
        lines.append(f"Elsewhere: {option.others}.\n")
    return lines


def _show(option: Option) -> str:
    if option.repeatable:
        return " ".join(f"`{value}`" for value in option.default)
    return f"`{option.kind.show(option.default)}`"


def main(write: Callable[[str], object] = sys.stdout.write) -> None:
    """Write docs/configuration.md to standard output."""
    write(document())


if __name__ == "__main__":
    main()
