"""The one error tree. A class says what the caller can do and carries the CNI code.

::

    BondError
    ├── VersionError        1    cniVersion not supported
    ├── EnvironError        4    CNI_* variables missing or bad (names every one)
    ├── JournalError        5    the state folder fails
    ├── InputError          6    the request is not JSON, or not an object
    ├── ConfigError         7    the configuration's problems, all of them
    ├── TryAgain            11   transient: a lock, a deadline; ask again
    ├── Unavailable         50   STATUS: ADD cannot be served here and now
    ├── Refused             101  valid, but not on this node: link missing, in use, ...
    ├── KernelError         102  the kernel said no (operation, link, errno, its own text)
    ├── VerifyError         103  the kernel said yes and holds something else
    ├── DelegateError       104  the IPAM plugin failed (its own CNI code where it gave one)
    │   ├── DelegateUnstarted    104  it could not be run: it did nothing
    │   └── DelegateIncompatible 1    it knows no cniVersion that we know: it did nothing
    ├── CheckError          105  CHECK: what differs from what was asked
    ├── Incomplete          106  teardown went on after errors; all of them
    └── PolicyError         107  the node's policy file has mistakes; all of them

Codes: CNI SPEC 1.1.0, section "Error"; 100 and above are ours. The edge that
answers the runtime prints the error; nothing else does.
"""

from __future__ import annotations

import errno as errno_names
import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a configuration.

    ``pointer`` is a JSON pointer (RFC 6901) such as ``/links/1/name``; ``message`` names
    the value and what is wrong with it, ``advice`` says what to write instead, as a
    command without a full stop (``write "miimon": 100``), "" where the message says it.
    """

    pointer: str
    message: str
    advice: str = ""

    def __str__(self) -> str:
        advice = f": {self.advice}" if self.advice else ""
        return f"{self.pointer or '/'}: {self.message}{advice}"


class BondError(Exception):
    """Base of every error that is answered with a CNI error document."""

    code = 100

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def whole(self) -> str:
        """Message and details, for an error that becomes a part of another."""
        return "; ".join(filter(None, (self.message, self.details)))


class VersionError(BondError):
    """The cniVersion is not supported, or does not have the verb."""

    code = 1


class EnvironError(BondError):
    """CNI environment variables are missing or unusable; all are named."""

    code = 4


class JournalError(BondError):
    """The state folder fails: a record or a lock cannot be read or written (code 5, I/O)."""

    code = 5


class InputError(BondError):
    """The request's standard input cannot be decoded."""

    code = 6


class ConfigError(BondError):
    """The configuration has problems; ``problems`` holds every one.

    ``warnings`` are what else was noted of it. They are in the details: a misspelled key is
    a warning, and often the reason why a required key is missing.
    """

    code = 7

    def __init__(self, problems: tuple[Problem, ...], warnings: tuple[Problem, ...] = ()) -> None:
        told = "; ".join(map(str, warnings))
        super().__init__("; ".join(map(str, problems)), f"warnings: {told}" if told else "")
        self.problems = problems
        self.warnings = warnings


class TryAgain(BondError):
    """Something transient stood in the way."""

    code = 11


class Unavailable(BondError):
    """STATUS: the plugin cannot serve ADD."""

    code = 50


class Refused(BondError):
    """The plan is impossible on this node; nothing was touched. Lists every reason."""

    code = 101

    def __init__(self, reasons: tuple[str, ...]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class KernelError(BondError):
    """The kernel refused an operation.

    ``operation`` is what was tried in words ("create bond bond0"), ``number`` the
    errno, ``text`` the kernel's extended ack ("" when it gave none), ``option`` the
    key of the bond option that the ack's offset points at, when it does.
    """

    code = 102

    def __init__(self, operation: str, number: int, text: str = "", option: str = "") -> None:
        name = errno_names.errorcode.get(number, str(number))
        said = f"{name} ({os.strerror(number)})" + (f": {text}" if text else "")
        where = f" (option {option})" if option else ""
        super().__init__(f"{operation}{where}: kernel says {said}")
        self.operation = operation
        self.number = number
        self.text = text
        self.option = option


class VerifyError(BondError):
    """What the kernel holds differs from what it acknowledged."""

    code = 103


class DelegateError(BondError):
    """A delegated plugin failed; ``code`` is the delegate's own where it gave one."""

    code = 104

    def __init__(self, message: str, details: str = "", code: int | None = None) -> None:
        super().__init__(message, details)
        if code is not None:
            self.code = code


class DelegateUnstarted(DelegateError):
    """A delegated plugin is missing or could not be run, so it did nothing."""


class DelegateIncompatible(DelegateError):
    """A delegated plugin refused the cniVersion, so it did nothing, and there is none that both
    know for this verb.
    """

    code = 1


class CheckError(BondError):
    """CHECK found differences; the message lists all."""

    code = 105


class Incomplete(BondError):
    """Teardown did all it could; the message lists what failed."""

    code = 106


class PolicyError(BondError):
    """The node's policy file cannot be read; no host link is taken while that is so."""

    code = 107
