"""``twistd mqttcluster``: the command line, and the only place that chooses concrete classes and reads the reactor.

`Options` only collects what the command line says. `makeService` reads the whole configuration; it either ends the
process with a line for each problem, or puts the parts together.
"""

from __future__ import annotations

import dataclasses
import getopt
import os
import resource
import select
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.usage import Options as UsageOptions

from mqttcluster import __version__, listeners, logs
from mqttcluster.access import Access, attempt
from mqttcluster.broker.broker import Broker
from mqttcluster.broker.lag import LagMeter
from mqttcluster.broker.metrics import Metrics
from mqttcluster.broker.prometheus import Exposition, NodeCollector
from mqttcluster.broker.settings import Settings
from mqttcluster.config import OPTIONS, Config
from mqttcluster.listeners import Listener
from mqttcluster.loading import Loaded, Problem, load, suggest
from mqttcluster.net.admin import MAX_CONNECTIONS, AdminSite
from mqttcluster.net.certificates import renew_all
from mqttcluster.net.gather import Gather
from mqttcluster.net.proxy import ProxyFactory
from mqttcluster.net.stream import MQTTFactory
from mqttcluster.net.websocket import WebSocketFactory
from mqttcluster.service import BrokerService, complain
from mqttcluster.storage.interfaces import IObserved, IStore, QueueLimits, StoreError
from mqttcluster.storage.memory import MemoryStore
from mqttcluster.storage.redis_backplane import RedisBackplane
from mqttcluster.storage.redis_cluster import check_files, redacted
from mqttcluster.storage.redis_store import RedisStore
from mqttcluster.storage.sqlite import SqliteStore

log = Logger(namespace="mqttcluster")

#: Open files that are not connections: the store, the listeners, the log, Twisted's own.
_OTHER_FILES = 64
_COMMAND_LINE = "command line"


class Options(UsageOptions):
    """The command line. `given` has the options that were named, with their texts; `mistakes` what cannot be read."""

    synopsis = "Usage: twistd [twistd's options] mqttcluster [options]"
    longdesc = "Every option is also an environment variable and a key of the TOML file: docs/configuration.md."

    optFlags = [[option.name, None, option.help] for option in OPTIONS if option.flag]  # noqa: RUF012
    optParameters = [  # noqa: RUF012
        [option.name, None, None, option.help + (", several times" if option.repeatable else "")]
        for option in OPTIONS
        if not option.flag
    ]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.given: dict[str, list[str]] = {}
        self.mistakes: list[Problem] = []

    def opt_version(self) -> None:
        """Show the version and exit."""
        sys.stdout.write(f"mqttcluster {__version__}\n")
        sys.exit(0)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """As in the base class, but mistakes are kept for `makeService`, which reports them with all others."""
        arguments = list(sys.argv[1:] if options is None else options)
        if len(arguments) > 1 and arguments[-2] == "--_shell-completion":
            super().parseOptions(arguments)  # type: ignore[no-untyped-call]
        pairs, rest = self._split(arguments)
        for dashed, text in pairs:
            name = dashed[2:]
            if name == "help":
                self.opt_help()  # type: ignore[no-untyped-call]
            elif name == "version":
                self.opt_version()
            else:
                self.given.setdefault(name, []).append(text if f"{name}=" in self.longOpt else "true")
        self.mistakes.extend(Problem(word, "no option begins like this; write --name value") for word in rest)

    def _split(self, arguments: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
        """`getopt`, again and again, without what it does not understand."""
        while True:
            try:
                return getopt.gnu_getopt(arguments, "", self.longOpt)
            except getopt.GetoptError as error:
                long = [index for index, word in enumerate(arguments) if word.split("=")[0] == f"--{error.opt}"]
                short = [index for index, word in enumerate(arguments) if word[:1] == "-" and word[:2] != "--"]
                index = (long or short or [0])[0]
                word = arguments.pop(index).split("=")[0]
                if "requires argument" in error.msg:
                    cure = "it needs a value; write one behind it"
                elif "not have an argument" in error.msg:
                    cure = "it takes no value; leave the value out"
                else:
                    cure = "no such option" + suggest(word, {f"--{option.name}" for option in OPTIONS})
                    if index < len(arguments) and not arguments[index].startswith("-"):
                        arguments.pop(index)
                self.mistakes.append(Problem(f"{word} ({_COMMAND_LINE})", cure))


def makeService(options: Options) -> IService:
    """The service for twistd. If anything is wrong: all problems on standard error, and SystemExit with status 1."""
    from twisted.internet import reactor

    hangup = Hangup(reactor)
    twistd: Mapping[str, Any] = options.parent or {}
    base = os.path.abspath(twistd.get("rundir") or ".")
    loaded = load(options.given, os.environ, base)
    loaded.problems[:0] = options.mistakes
    config = loaded.config
    access = Access.read(loaded)
    doors = listeners.build(loaded, reactor, base)
    _check_store(loaded)
    _check_twistd(loaded, twistd, base)
    if twistd.get("syslog") and config.log_format == "json":
        loaded.complain("log-format", "twistd's --syslog takes text only; leave one of them out")
    if loaded.problems:
        complain([str(problem) for problem in loaded.problems])
        sys.exit(1)
    node = _Node(config, reactor, access, doors, hangup)
    return BrokerService(
        node,
        doors,
        reactor,
        name=config.node,
        store=redacted(config.store) if config.store.startswith("redis") else config.store,
        store_where=loaded.sources["store"],
        websocket_path=config.websocket_path,
        observer=logs.observer(twistd, config.log_format, config.log_level),
    )


class Hangup:
    """SIGHUP, from before the files are read for the first time: it would end a process that does not expect it, and
    what it asks for is not to be missed."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._call: Callable[[], None] | None = None
        self._early = False
        signal.signal(signal.SIGHUP, self._came)

    def _came(self, *_: object) -> None:
        if self._call is None:
            self._early = True
        else:
            self._reactor.callFromThread(self._call)

    def deal_with(self, call: Callable[[], None]) -> None:
        """Make this call for each signal, and for those that have come."""
        self._call = call
        if self._early:
            call()


class _Node:
    """The broker with its store, and the protocols in front of it."""

    def __init__(
        self, config: Config, reactor: Any, access: Access, doors: Sequence[Listener], hangup: Hangup
    ) -> None:
        names = {field.name for field in dataclasses.fields(Settings)}
        settings = Settings(**{name: getattr(config, name) for name in names})
        settings = dataclasses.replace(settings, max_connections=_allow_files(config.max_connections))
        self._config = config
        self._reactor = reactor
        self._max_connections = settings.max_connections
        store, backplane = _store(config, reactor)
        metrics = Metrics(reactor.seconds())
        who, what = access.authenticator(metrics, reactor), access.authorizer(metrics, reactor)
        self._broker = Broker(store, settings, reactor, who, what, backplane, metrics, access.methods)
        self._access = access
        self._doors = doors
        self._hangup = hangup
        self._certificates = [door.certificate for door in doors if door.certificate is not None]
        if isinstance(store, IObserved):
            store.observe(metrics.store_batch)
        if backplane is not None:
            backplane.observe(metrics.link_parcel)
        self._lag = LagMeter(metrics.reactor_lag, reactor)
        self._exposition = Exposition(
            NodeCollector(self._broker, self._not_ready, backplane, self._certificates_end)
        )
        self._gather: Gather | None = None
        self._open = False
        self._readings = DeferredLock()

    def start(self) -> Deferred[None]:
        if hasattr(select, "epoll"):
            self._gather = Gather(self._reactor, self._broker.output)
        self._lag.start()
        self._hangup.deal_with(self._reload)
        self._look_at_certificates()
        return self._broker.start()

    def listening(self, listener: Listener, port: Any) -> None:
        if listener.option != "admin" and self._gather is not None:
            self._gather.adopt(port)

    def opened(self) -> None:
        self._open = True

    def stop(self) -> Deferred[None]:
        self._lag.stop()
        return self._broker.stop()

    def _reload(self) -> None:
        """SIGHUP: read passwords, rules and certificates again; no client is dropped. One reading after the other: the
        last word is that of the last signal."""
        reading: Deferred[None] = self._readings.run(lambda: Deferred.fromCoroutine(self._read_again()))
        reading.addErrback(lambda failure: log.failure("not all was read again", failure))

    async def _read_again(self) -> None:
        metrics = self._broker.metrics
        await self._access.reload(metrics)
        if self._certificates:
            attempt(metrics, "certificates", lambda: renew_all(self._certificates))
            self._look_at_certificates()
        Deferred.fromCoroutine(self._broker.rules_changed()).addErrback(
            lambda failure: log.failure("the new rules are not in force everywhere", failure)
        )

    def _look_at_certificates(self) -> None:
        """The clients only say that they do not like a certificate, if they say anything."""
        for door in self._doors:
            trouble = door.certificate.trouble(self._reactor.seconds()) if door.certificate is not None else ""
            if trouble:
                log.warn(
                    "{where}: {trouble}; clients refuse it. Put another in its place, then send SIGHUP",
                    where=door.where,
                    trouble=trouble,
                )

    def _certificates_end(self) -> float | None:
        return min((certificate.ends for certificate in self._certificates), default=None)

    def _not_ready(self) -> list[str]:
        reasons = self._broker.not_ready()
        return reasons if self._open or reasons else ["the listeners are not open"]

    def factory(self, listener: Listener) -> Any:
        factory = self._factory(listener)
        if not listener.proxied:
            return factory
        if listener.inside is not None:
            factory = TLSMemoryBIOFactory(listener.inside, False, factory)
        room = (lambda: MAX_CONNECTIONS) if listener.option == "admin" else self._room
        return ProxyFactory(factory, self._config.connect_timeout, room, self._reactor)

    def _room(self) -> int:
        """How many more connections this node takes."""
        return self._max_connections - len(self._broker.clients)

    def _factory(self, listener: Listener) -> Any:
        if listener.option == "admin":
            return AdminSite(self._not_ready, self._exposition)
        stream = MQTTFactory(self._broker, listener.anonymous, self._config.tls_identity)
        if listener.option == "listen":
            return stream
        config = self._config
        return WebSocketFactory(
            stream,
            config.websocket_path,
            config.websocket_origins,
            config.websocket_deflate,
            # Compressed messages alone have this bound, and one of them may hold many packets.
            max_message=max(4 * 1024 * 1024, 2 * config.max_packet_size),
            handshake_timeout=config.connect_timeout,
            ping_interval=config.websocket_ping,
            room=self._room,
            clock=self._reactor,
        )


def _store(config: Config, reactor: Any) -> tuple[IStore, RedisBackplane | None]:
    """The store, and for one that nodes share what joins them."""
    limits = QueueLimits(config.max_queued, config.queue_policy == "drop-oldest")
    if config.store == "memory:":
        return MemoryStore(limits), None
    if config.store.startswith("sqlite:"):
        return SqliteStore(config.store.removeprefix("sqlite:"), reactor, limits), None
    backplane = RedisBackplane(config.store, reactor, config.node)
    return RedisStore(config.store, reactor, backplane.node, limits), backplane


def _check_store(loaded: Loaded) -> None:
    """What can be known of a store before it is opened."""
    scheme, _, path = loaded.config.store.partition(":")
    directory = os.path.dirname(path)
    if scheme == "rediss":
        try:
            check_files(loaded.config.store)
        except StoreError as problem:
            loaded.complain("store", str(problem))
    if scheme != "sqlite":
        return
    if os.path.isdir(path):
        loaded.complain("store", f"{path} is a directory; name a file")
    elif not os.path.isdir(directory):
        loaded.complain("store", f"the directory {directory} is not there; make it, or choose another path")
    elif not os.access(directory, os.W_OK | os.X_OK):
        loaded.complain("store", f"nothing can be created in {directory}; change its permissions, or the path")
    elif os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK):
        loaded.complain("store", f"{path} cannot be written; change its permissions, or the path")


def _check_twistd(loaded: Loaded, twistd: Mapping[str, Any], base: str) -> None:
    """What twistd itself would say with a traceback: where it runs, and the files that it writes."""
    if twistd.get("chroot"):  # these paths are looked for in there, later
        return
    if not os.path.isdir(base) or not os.access(base, os.X_OK):
        _twistd_problem(loaded, "rundir", f"{base} is no directory that this user may enter")
    log_file, pid_file = twistd.get("logfile"), twistd.get("pidfile")
    if not log_file and not twistd.get("nodaemon") and not twistd.get("syslog"):
        log_file = "twistd.log"
    if log_file and log_file != "-":
        _check_written(loaded, "logfile", os.path.abspath(log_file))
    if pid_file:
        _check_written(loaded, "pidfile", os.path.join(base, pid_file))


def _check_written(loaded: Loaded, option: str, path: str) -> None:
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        _twistd_problem(loaded, option, f"the directory {directory} is not there")
    elif os.path.isdir(path) or not os.access(path if os.path.exists(path) else directory, os.W_OK):
        _twistd_problem(loaded, option, f"{path} cannot be written")


def _twistd_problem(loaded: Loaded, option: str, text: str) -> None:
    loaded.problems.append(Problem(f"--{option} (twistd)", f"{text}; correct that, or choose another path"))


def _allow_files(connections: int) -> int:
    """How many of `connections` the limit of open files allows, after raising it as far as this process may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return connections
    target = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    except (OSError, ValueError):
        target = soft
    allowed = max(1, min(connections, target - _OTHER_FILES))
    if allowed < connections:
        log.warn(
            "max-connections is {allowed}, not {asked}: this process may have {files} open files (ulimit -n)",
            allowed=allowed,
            asked=connections,
            files=target,
        )
    return allowed
