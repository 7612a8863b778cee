"""Where clients come in: endpoint strings made into endpoints, with every mistake found before the first one listens.

Twisted's own parsers build the endpoints. What is added: paths relative to the run directory, client certificates on
``ssl:``, whether a listener can be reached from other machines, which decides about anonymous clients, and
``haproxy:``, whose header comes before TLS, as balancers send it (Twisted looks for it inside).
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
from dataclasses import dataclass
from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet import ssl
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IAddress, IStreamServerEndpoint

from mqttcluster.config import Config
from mqttcluster.loading import Loaded
from mqttcluster.net.certificates import Renewable

#: The parameters by position, as far as they matter here, and those that are paths of files to be read.
_POSITIONS = {
    "tcp": ("port", "interface"),
    "tcp6": ("port", "backlog", "interface"),
    "ssl": ("port", "privateKey", "certKey", "sslmethod", "interface"),
    "tls": ("path", "port", "backlog", "interface"),
    "unix": ("address", "mode"),
    "systemd": ("domain", "index"),
}
_FILES = ("privateKey", "certKey", "extraCertChain", "dhParameters")
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class Listener:
    """One place where clients come in.

    `option` is ``listen``, ``websocket`` or ``admin``; `where` are the words a problem with it begins with.
    `anonymous`: clients without a user name are welcome. `proxied`: each connection begins with a PROXY header;
    `inside` is then the TLS context for what comes behind it, if it is TLS, since `endpoint` does not do it.
    `certificate` is what an ``ssl:`` listener shows, to be renewed.
    """

    option: str
    where: str
    description: str
    endpoint: IStreamServerEndpoint
    secure: bool
    anonymous: bool
    proxied: bool = False
    inside: Renewable | None = None
    certificate: Renewable | None = None


@dataclass
class _Parts:
    """An endpoint string taken apart. `kind` is lower case; `inner` is what ``haproxy:`` wraps."""

    kind: str
    values: dict[str, str]
    rest: list[str]
    inner: _Parts | None = None

    def text(self) -> str:
        if self.inner is not None:
            return f"{self.kind}:{self.inner.text()}"
        named = [f"{key}={_quoted(value)}" for key, value in self.values.items()]
        return ":".join([self.kind, *[_quoted(item).replace("=", "\\=") for item in self.rest], *named])

    def innermost(self) -> _Parts:
        return self.inner.innermost() if self.inner is not None else self


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace(":", "\\:")


def parse(description: str) -> _Parts:
    """Take an endpoint string apart: fields at colons, names before the first equals sign, a backslash takes the next
    character as it is."""
    fields: list[tuple[str | None, str]] = []
    name: str | None = None
    current = ""
    characters = iter(description)
    for character in characters:
        if character == "\\":
            current += next(characters, "")
        elif character == "=" and name is None:
            name, current = current, ""
        elif character == ":":
            fields.append((name, current))
            name, current = None, ""
        else:
            current += character
    fields.append((name, current))
    return _parts(fields)


def _parts(fields: list[tuple[str | None, str]]) -> _Parts:
    name, kind = fields[0]
    kind = kind.lower() if name is None else ""
    if kind == "haproxy":
        if len(fields) == 1:
            raise ValueError("haproxy: needs an endpoint to listen on; write haproxy:tcp:1883")
        inner = _parts(fields[1:])
        if inner.kind in ("haproxy", "tls"):
            raise ValueError(f"haproxy: cannot stand before {inner.kind}:; write haproxy:tcp:1883 or haproxy:ssl:8883")
        return _Parts(kind, {}, [], inner)
    values: dict[str, str] = {}
    rest: list[str] = []
    positions = iter(_POSITIONS.get(kind, ()))
    for name, value in fields[1:]:
        position = next(positions, None) if name is None else name
        if position is None:
            rest.append(value)
        else:
            values[position] = value
    return _Parts(kind, values, rest)


def build(loaded: Loaded, reactor: Any, base: str) -> list[Listener]:
    """The listeners of a configuration. What is wrong is added to its problems; paths are relative to `base`."""
    config = loaded.config
    if config.tls_client_ca:
        try:
            _authorities(config)
        except ValueError as error:
            loaded.complain("tls-client-ca", str(error))
            config = dataclasses.replace(config, tls_client_ca="")
    listeners: list[Listener] = []
    any_ssl = False
    admin = (config.admin,) if config.admin else ()
    for option, descriptions in (("listen", config.listen), ("websocket", config.websocket), ("admin", admin)):
        for description in descriptions:
            where = f"{loaded.sources[option]}, {description}"
            try:
                parts = parse(description)
                any_ssl = any_ssl or parts.innermost().kind == "ssl"
                _check(parts, config, base)
                endpoint, inside = _endpoint(parts, config, reactor), None
                certificate = getattr(endpoint, "_sslContextFactory", None)
                if parts.inner is not None and parts.inner.kind == "ssl":
                    endpoint, inside = _outside(parts.inner, reactor), certificate
            except ValueError as error:
                loaded.complain(option, f"{description}: {error}")
                continue
            kind = parts.innermost().kind
            certified = kind == "ssl" and bool(config.tls_client_ca) and config.tls_client_certificates == "require"
            certified = certified and config.tls_identity == "none"  # else the certificate has to have a name
            welcome = config.allow_anonymous or certified or (not config.has_users and local(parts))
            if not welcome and not config.has_users and option != "admin":
                loaded.complain(
                    option,
                    f"{description}: other machines can reach it and nobody is asked who they are; "
                    "give --passwords FILE, or --allow-anonymous, or an interface as in tcp:1883:interface=127.0.0.1",
                )
            secure, proxied = kind in ("ssl", "tls"), parts.inner is not None
            listeners.append(
                Listener(option, where, description, endpoint, secure, welcome, proxied, inside, certificate)
            )
    if not config.listen and not config.websocket:
        loaded.complain("listen", "there is nothing to listen on; give a --listen or a --websocket endpoint")
    if loaded.config.tls_identity != "none" and not loaded.config.tls_client_ca:
        loaded.complain("tls-identity", "nobody's certificate is asked for; give --tls-client-ca FILE as well")
    if config.tls_client_ca and not any_ssl:
        loaded.complain("tls-client-ca", "no listener asks for certificates; give one that begins with ssl:")
    return listeners


def local(parts: _Parts) -> bool:
    """Whether only this machine reaches the listener. A proxy brings clients from elsewhere."""
    if parts.kind == "unix" or (parts.kind == "systemd" and parts.values.get("domain") == "UNIX"):
        return True
    if parts.kind not in ("tcp", "tcp6", "ssl", "tls"):
        return False
    interface = parts.values.get("interface", "")
    if interface == "localhost":
        return True
    try:
        return ipaddress.ip_address(interface).is_loopback
    except ValueError:
        return False


def address(host: IAddress) -> str:
    """The address of a listening port as people write it."""
    if isinstance(host, IPv4Address):
        return f"{host.host}:{host.port}"
    if isinstance(host, IPv6Address):
        return f"[{host.host}]:{host.port}"
    name = getattr(host, "name", None)
    return os.fsdecode(name) if isinstance(name, (str, bytes)) else str(host)


def _check(parts: _Parts, config: Config, base: str) -> None:
    """Find what Twisted would report late or darkly, and make paths absolute."""
    if parts.inner is not None:
        _check(parts.inner, config, base)
        return
    values = parts.values
    if parts.kind == "stdio" or not parts.kind:
        raise ValueError("this is no listener; write something like tcp:1883")
    if parts.kind in ("tcp", "tcp6", "ssl"):
        port = values.get("port", "")
        if not port.isascii() or not port.isdigit() or int(port) > 65_535:
            raise ValueError(f"{port!r} is no port; write a number from 0 to 65535")
    if parts.kind == "ssl":
        values.setdefault("privateKey", "server.pem")
        for key in _FILES:
            if key in values:
                values[key] = os.path.join(base, values[key])
                _readable(key, values[key])
    if parts.kind == "tls":
        values["path"] = os.path.join(base, values.get("path", ""))
        if not os.path.isdir(values["path"]):
            raise ValueError(f"{values['path']} is no directory; name one that holds PEM files")
        if config.tls_client_ca:
            raise ValueError("tls-client-ca does not reach tls: listeners; use ssl: here")
    if parts.kind == "unix":
        if not values.get("address"):
            raise ValueError("it has no path; write unix:/run/mqtt.sock")
        values["address"] = os.path.join(base, values.get("address", ""))
        directory = os.path.dirname(values["address"])
        if not os.path.isdir(directory):
            raise ValueError(f"the directory {directory} is not there; make it, or choose another path")
        if not os.access(directory, os.W_OK | os.X_OK):
            raise ValueError(f"nothing can be created in {directory}; change its permissions, or choose another path")


def _readable(key: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ValueError(f"cannot read {key} {path}: {error.strerror}; name a readable PEM file") from None


def _endpoint(parts: _Parts, config: Config, reactor: Any) -> Any:
    """The endpoint, without what ``haproxy:`` adds."""
    if parts.inner is not None:
        return _endpoint(parts.inner, config, reactor)
    endpoint = _plain_endpoint(parts, config, reactor)
    if parts.kind == "ssl":

        def again() -> ssl.CertificateOptions:
            made: Any = _plain_endpoint(parts, config, reactor)
            return made._sslContextFactory  # type: ignore[no-any-return]

        endpoint._sslContextFactory = Renewable(again)
    return endpoint


def _plain_endpoint(parts: _Parts, config: Config, reactor: Any) -> Any:
    try:
        if parts.kind == "ssl":
            _check_key(parts.values["privateKey"])
        endpoint: Any = serverFromString(reactor, parts.text())
        if parts.kind == "ssl":
            # The endpoint has no public way to its own context, and Twisted's syntax none to ask for certificates.
            context: ssl.CertificateOptions = endpoint._sslContextFactory
            if config.tls_client_ca:
                context.verify = True
                context.requireCertificate = config.tls_client_certificates == "require"
                context.trustRoot = _authorities(config)
            context.getContext()
    except (SSL.Error, crypto.Error) as error:
        raise ValueError(
            f"the key and the certificate cannot be used ({_reason(error)}); "
            "give a PEM key without a passphrase and the certificate that belongs to it"
        ) from None
    except Exception as error:
        # Endpoint parsers are plugins, and raise what they please.
        said, cure = _said(error), "see the endpoint strings in docs/configuration.md"
        if "keys do not match" in said:
            cure = "give the certificate that was made for this key"
        raise ValueError(f"{said}; {cure}") from None
    return endpoint


def _check_key(path: str) -> None:
    """For a key with a passphrase OpenSSL would ask on the terminal, and on SIGHUP everybody would wait for that."""
    with open(path, "rb") as stream:
        crypto.load_privatekey(crypto.FILETYPE_PEM, stream.read(), passphrase=b"none is asked for")


def _outside(parts: _Parts, reactor: Any) -> Any:
    """The endpoint for plain bytes where ``ssl:`` would listen."""
    where = {key: value for key, value in parts.values.items() if key in ("port", "interface", "backlog")}
    return serverFromString(reactor, _Parts("tcp", where, []).text())


def _said(error: Exception) -> str:
    text = str(error).replace("\n", " ").rstrip(".")
    if isinstance(error, TypeError):
        text = re.sub(r"^\S*\(\) ", "", text)
    if isinstance(error, (KeyError, IndexError)):
        text = f"no such socket was handed over ({text})"
    return text or type(error).__name__


def _reason(error: Exception) -> str:
    reasons = error.args[0] if error.args else None
    if isinstance(reasons, list) and reasons:
        return str(reasons[-1][-1])
    return "no reason given"


def _authorities(config: Config) -> Any:
    """What `CertificateOptions` takes as a trust root. Raises ValueError with the cure."""
    path = config.tls_client_ca
    try:
        with open(path, encoding="ascii", errors="replace") as stream:
            found = [ssl.Certificate.loadPEM(text) for text in _CERTIFICATE.findall(stream.read())]
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; name a readable PEM file") from None
    except (SSL.Error, crypto.Error) as error:
        raise ValueError(f"{path} holds a broken certificate ({_reason(error)}); replace it") from None
    if not found:
        raise ValueError(f"{path} holds no certificate; give a PEM file")
    return ssl.trustRootFromCertificates(found)
