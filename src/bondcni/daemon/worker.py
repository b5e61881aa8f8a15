"""What a worker does with one request: prepare it, run the verb, answer, and log it.

Pending cleanup is done first (``pending_cleanup.py``). An ADD whose caller went away before the
answer is rolled back, because the runtime treats it as failed; what the rollback or a failed
request leaves behind becomes pending cleanup. Everything that came with a request is closed when
it ends.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import NamedTuple

from bondcni.core.config import parse_leniently
from bondcni.core.document import Object
from bondcni.core.errors import BondError, EnvironError, PolicyError, TryAgain
from bondcni.daemon.connection import Connection
from bondcni.daemon.delete_queue import DeleteQueue
from bondcni.daemon.log import Event, Log
from bondcni.daemon.pending_cleanup import PendingCleanup
from bondcni.daemon.policy_cache import PolicyCache
from bondcni.daemon.protocol import Frame, ProtocolError, Tag
from bondcni.daemon.reply import refusal, send
from bondcni.daemon.shim_client import ShimClient, environment
from bondcni.kernel.watch import Watch
from bondcni.service.answer import Answer, answered
from bondcni.service.attachment import Service
from bondcni.service.journal import Journal
from bondcni.service.reach import Direct, Unaided
from bondcni.service.reconcile import restore_returned
from bondcni.service.request import Request, read_request
from bondcni.service.timeouts import Timeouts

Verb = Callable[[Service, Request], Object | None]
"""Runs one request, as ``verbs.serve`` does."""


class IncomingRequest(NamedTuple):
    """A complete request, before a worker runs it."""

    connection: Connection
    request: Frame
    env: dict[str, str]
    since: float

    @classmethod
    def of(cls, connection: Connection, request: Frame) -> IncomingRequest:
        """Raises ``ProtocolError`` if the environment is too large."""
        return cls(connection, request, environment(request), time.monotonic())

    @property
    def command(self) -> str:
        """The verb."""
        return self.env.get("CNI_COMMAND", "")

    @property
    def container(self) -> str:
        """The container ID, or ""."""
        return self.env.get("CNI_CONTAINERID", "")

    @property
    def stdin(self) -> bytes:
        """The configuration."""
        return self.request.get(Tag.STDIN) or b""


class Worker:
    """Runs requests; can be used by several threads."""

    def __init__(
        self, state: str, policy: PolicyCache, log: Log, verb: Verb, timeouts: Timeouts
    ) -> None:
        self._journal = Journal(state)
        self._watch = Watch()
        self._policy = policy
        self._log = log
        self._verb = verb
        self._timeouts = timeouts
        self._cleanup = PendingCleanup(DeleteQueue(state), log)
        self._mismatch_logged = False

    def prepare(self) -> None:
        """Restore links that are back on the host, scan for pending cleanup, check the policy."""
        service = Service(self._journal, self._warn, self._policy, Unaided(), self._timeouts)
        self._journal.stay()
        self._watch.begin()
        try:
            restore_returned(service)
            self._cleanup.scan(service)
        except BondError as error:
            self._warn(error.message)
        try:
            self._policy()
        except PolicyError as error:
            self._log(Event.POLICY_ERROR, error=error.message)
        self._log(Event.READY, **self._cleanup.counts()._asdict())

    def close(self) -> None:
        """Close what is open for all requests."""
        self._watch.close()

    def _warn(self, text: str) -> None:
        self._log(Event.CLEANUP_WARNING, warning=text)

    def refuse(self, incoming: IncomingRequest, why: str, seconds: float = 0.0) -> None:
        """Answer with code 11 and close; wait at most ``seconds`` for a caller that does not read."""
        with incoming.connection:
            answer = refusal(why, incoming.stdin)
            send(incoming.connection, answer, seconds=seconds)
            self._log_request(incoming, answer, [])

    def serve(self, incoming: IncomingRequest) -> None:
        """Run one request."""
        with incoming.connection:
            try:
                shim = ShimClient(
                    incoming.connection,
                    incoming.request,
                    incoming.env,
                    log=self._log,
                    watch=self._watch,
                )
            except (ProtocolError, TryAgain) as error:
                self.refuse(incoming, str(error))
                return
            with shim:
                self._serve(incoming, shim)

    def _serve(self, incoming: IncomingRequest, shim: ShimClient) -> None:
        warnings: list[str] = []
        traceback = io.StringIO()
        service = Service(self._journal, warnings.append, self._policy, shim, self._timeouts)
        work = partial(self._work, service, shim)
        answer = answered(work, lambda: incoming.stdin, traceback)
        delivered = send(incoming.connection, answer, warnings)
        self._log_request(incoming, answer, warnings)
        if traceback.getvalue():
            self._log(Event.INTERNAL_ERROR, traceback=traceback.getvalue())
        if not delivered and incoming.command in ("ADD", "DEL"):
            self._undelivered(service, incoming, answer)

    def _work(self, service: Service, shim: ShimClient) -> Object | None:
        request = read_request(shim.env, shim.stdin)
        self._check_host_namespace(shim)
        name = request.container_id, request.ifname
        self._cleanup.drain(service._replace(warn=self._warn), name, partial(_links, request))
        if request.command == "ADD" and self._cleanup.is_queued(name):  # it would undo this ADD
            raise TryAgain(
                f"the queued DEL of {name[1]} must be done first, but failed: see the daemon's log"
            )
        if request.command == "STATUS":
            self._warn_pending(service)
        return self._verb(service, request)

    def _check_host_namespace(self, shim: ShimClient) -> None:
        own = Direct().presence("/proc/self/ns/net").identity
        if shim.host_id != own and not self._mismatch_logged:
            self._mismatch_logged = True
            self._log(
                Event.NAMESPACE_MISMATCH,
                warning="the daemon is not in the network namespace of the container runtime: "
                "after a restart it cannot restore NICs before the first request; set "
                "hostNetwork: true",
            )

    def _warn_pending(self, service: Service) -> None:
        queued, stale, unexamined = self._cleanup.counts()
        for what, count in (
            ("queued DELs", queued),
            ("stale attachments", stale),
            ("attachments not examined yet", unexamined),
        ):
            if count:
                service.warn(
                    f"{what}: {count}; the next requests or `bondctl recover` will clean up"
                )

    def _undelivered(self, service: Service, incoming: IncomingRequest, answer: Answer) -> None:
        """The caller went away: roll back an ADD; what a failed request left is pending cleanup."""
        try:
            request = read_request({**incoming.env, "CNI_COMMAND": "DEL"}, incoming.stdin)
        except EnvironError:  # then nothing was done
            return
        if answer.code:
            self._cleanup.add((request.container_id, request.ifname))
        elif incoming.command == "ADD":
            self._roll_back(service, request)

    def _roll_back(self, service: Service, request: Request) -> None:
        """Roll back an ADD. ``request`` is its DEL."""
        name = request.container_id, request.ifname
        try:
            self._verb(service._replace(warn=self._warn), request)
        except BondError as error:
            self._cleanup.add(name)
            self._log(
                Event.CLEANUP_PENDING, container=name[0], ifname=name[1], detail=error.message
            )
        else:
            self._log(Event.ADD_ROLLED_BACK, container=name[0], ifname=name[1])

    def _log_request(self, incoming: IncomingRequest, answer: Answer, warnings: list[str]) -> None:
        self._log(
            Event.REQUEST,
            verb=incoming.command,
            container=incoming.container,
            ifname=incoming.env.get("CNI_IFNAME", ""),
            network=_network(incoming.stdin),
            code=answer.code,
            ms=(time.monotonic() - incoming.since) * 1000,
            **({"error": answer.message} if answer.message else {}),
            **({"warnings": "; ".join(warnings)} if warnings else {}),
        )


def _links(request: Request) -> Collection[str]:
    """The links that an ADD wants to claim."""
    if request.command != "ADD":
        return ()
    return {link.value for link in parse_leniently(request.stdin).links}


def _network(stdin: bytes) -> str:
    try:
        return str(json.loads(stdin)["name"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
