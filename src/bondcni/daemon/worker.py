"""What a worker does with one request: take it, do it, answer it, tell of it in one line.

What was queued or is due is done before (``pending_cleanup.py``). An ADD whose caller went away before it
was answered is undone: the runtime counts it as failed; what that, or the caller's own end,
leaves is due. Everything that came with a request is closed when it ends.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import NamedTuple

from bondcni.core.config import parse_leniently
from bondcni.core.errors import BondError, EnvironError, PolicyError, TryAgain
from bondcni.core.result import Object
from bondcni.daemon.connection import Connection
from bondcni.daemon.delete_queue import Backlog
from bondcni.daemon.log import Event, Log
from bondcni.daemon.pending_cleanup import Due
from bondcni.daemon.policy_cache import Rules
from bondcni.daemon.protocol import Frame, ProtocolError, Tag
from bondcni.daemon.reply import refusal, send
from bondcni.daemon.shim_client import Caller, environment
from bondcni.kernel.watch import Watch
from bondcni.service.answer import Answer, answered
from bondcni.service.attachment import Service
from bondcni.service.journal import Journal
from bondcni.service.reach import Direct, Unaided
from bondcni.service.reconcile import mend
from bondcni.service.request import Request, read_request
from bondcni.service.timeouts import Timeouts

Verb = Callable[[Service, Request], Object | None]
"""Answers one request, as ``verbs.serve`` does."""


class Visit(NamedTuple):
    """One request on its way to a worker."""

    connection: Connection
    request: Frame
    env: dict[str, str]
    since: float

    @classmethod
    def of(cls, connection: Connection, request: Frame) -> Visit:
        """Raises ``ProtocolError`` where its environment is too large."""
        return cls(connection, request, environment(request), time.monotonic())

    @property
    def command(self) -> str:
        """The verb."""
        return self.env.get("CNI_COMMAND", "")

    @property
    def container(self) -> str:
        """Whose it is; "": nobody's."""
        return self.env.get("CNI_CONTAINERID", "")

    @property
    def stdin(self) -> bytes:
        """The configuration."""
        return self.request.get(Tag.STDIN) or b""


class Worker:
    """Does requests, in any number of threads at once."""

    def __init__(self, state: str, rules: Rules, log: Log, verb: Verb, timeouts: Timeouts) -> None:
        self._journal = Journal(state)
        self._watch = Watch()
        self._rules = rules
        self._log = log
        self._verb = verb
        self._timeouts = timeouts
        self._due = Due(Backlog(state), log)
        self._strange = False

    def prepare(self) -> None:
        """Put right what is at home, note what waits for a caller, and look at the policy."""
        service = Service(self._journal, self._warn, self._rules, Unaided(), self._timeouts)
        self._journal.stay()
        self._watch.begin()
        try:
            mend(service)
            self._due.look(service)
        except BondError as error:
            self._warn(error.message)
        try:
            self._rules()
        except PolicyError as error:
            self._log(Event.POLICY_ERROR, error=error.message)
        queued, dead, unexamined = self._due.waiting()
        self._log(Event.READY, queued=queued, stale=dead, unexamined=unexamined)

    def close(self) -> None:
        """Close what is open for all requests."""
        self._watch.close()

    def _warn(self, text: str) -> None:
        self._log(Event.CLEANUP_WARNING, warning=text)

    def refuse(self, visit: Visit, why: str, seconds: float = 0.0) -> None:
        """Answer with code 11, and close. It waits so long for a caller that does not read."""
        with visit.connection:
            answer = refusal(why, visit.stdin)
            send(visit.connection, answer, seconds=seconds)
            self._line(visit, answer, [])

    def serve(self, visit: Visit) -> None:
        """Do one request."""
        with visit.connection:
            try:
                caller = Caller(
                    visit.connection, visit.request, visit.env, log=self._log, watch=self._watch
                )
            except (ProtocolError, TryAgain) as error:
                self.refuse(visit, str(error))
                return
            with caller:
                self._serve(visit, caller)

    def _serve(self, visit: Visit, caller: Caller) -> None:
        warnings: list[str] = []
        defects = io.StringIO()
        service = Service(self._journal, warnings.append, self._rules, caller, self._timeouts)
        work = partial(self._work, service, caller)
        answer = answered(work, lambda: visit.stdin, defects)
        delivered = send(visit.connection, answer, warnings)
        self._line(visit, answer, warnings)
        if defects.getvalue():
            self._log(Event.INTERNAL_ERROR, traceback=defects.getvalue())
        if not delivered and visit.command in ("ADD", "DEL"):
            self._unheard(service, visit, answer)

    def _work(self, service: Service, caller: Caller) -> Object | None:
        request = read_request(caller.env, caller.stdin)
        self._look_at_host(caller)
        name = request.container_id, request.ifname
        self._due.drain(service._replace(warn=self._warn), name, partial(_links, request))
        if request.command == "ADD" and self._due.is_queued(name):  # it would undo this ADD later
            raise TryAgain(f"a deletion of {name[1]} is queued that cannot be done yet")
        if request.command == "STATUS":
            self._tell_waiting(service)
        return self._verb(service, request)

    def _look_at_host(self, caller: Caller) -> None:
        own = Direct().presence("/proc/self/ns/net").identity
        if caller.host_id != own and not self._strange:
            self._strange = True
            self._log(
                Event.NAMESPACE_MISMATCH,
                warning="the daemon is not in the network namespace of the container runtime: "
                "after a restart it cannot restore NICs before the first request; set "
                "hostNetwork: true",
            )

    def _tell_waiting(self, service: Service) -> None:
        queued, dead, unexamined = self._due.waiting()
        for what, count in (
            ("deletions are queued", queued),
            ("dead attachments wait to be taken down", dead),
            ("attachments could not be examined yet", unexamined),
        ):
            if count:
                service.warn(f"{count} {what}: the next requests do it, or bondctl recover")

    def _unheard(self, service: Service, visit: Visit, answer: Answer) -> None:
        """The caller went away: an ADD is undone; what one that failed left, or a DEL, is due."""
        try:
            request = read_request({**visit.env, "CNI_COMMAND": "DEL"}, visit.stdin)
        except EnvironError:  # then nothing was done
            return
        if answer.code:
            self._due.add((request.container_id, request.ifname))
        elif visit.command == "ADD":
            self._undo(service, request)

    def _undo(self, service: Service, request: Request) -> None:
        """Undo an ADD."""
        name = request.container_id, request.ifname
        try:
            self._verb(service._replace(warn=self._warn), request)
        except BondError as error:
            self._due.add(name)
            self._log(
                Event.CLEANUP_PENDING, container=name[0], ifname=name[1], detail=error.message
            )
        else:
            self._log(Event.ADD_ROLLED_BACK, container=name[0], ifname=name[1])

    def _line(self, visit: Visit, answer: Answer, warnings: list[str]) -> None:
        """The line of a request."""
        self._log(
            Event.REQUEST,
            verb=visit.command,
            container=visit.container,
            ifname=visit.env.get("CNI_IFNAME", ""),
            network=_network(visit.stdin),
            code=answer.code,
            ms=(time.monotonic() - visit.since) * 1000,
            **({"error": answer.message} if answer.message else {}),
            **({"warnings": "; ".join(warnings)} if warnings else {}),
        )


def _links(request: Request) -> Collection[str]:
    """What it wants to take."""
    if request.command != "ADD":
        return ()
    return {link.value for link in parse_leniently(request.stdin).links}


def _network(stdin: bytes) -> str:
    try:
        return str(json.loads(stdin)["name"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
