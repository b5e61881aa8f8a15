"""The one error tree. A class says what the caller can do and carries the CNI code.

::

    BondError
    ├── VersionError        1    the cniVersion is not supported
    ├── NamespaceGone       3    the network namespace does not exist
    ├── EnvironError        4    CNI_* variables are missing or invalid; names every one
    │   └── NotANamespace        the path exists and is not a network namespace
    ├── JournalError        5    a file of the state directory cannot be read or written
    ├── InputError          6    standard input is not JSON, or not an object
    ├── ConfigError         7    the configuration has problems; names every one
    ├── TryAgain            11   a transient condition, such as a lock or a timeout
    ├── Unavailable         50   STATUS: the plugin cannot serve ADD
    ├── Refused             101  valid, but not possible on this node: link missing, in use, ...
    ├── KernelError         102  the kernel refused an operation
    ├── VerifyError         103  the kernel acknowledged a request and did not do it
    ├── DelegateError       104  the IPAM plugin failed; its own CNI code where it gave one
    │   ├── DelegateUnstarted    it was not started
    │   └── DelegateIncompatible (1) it supports no cniVersion that this plugin supports
    ├── CheckError          105  CHECK found differences; lists all
    ├── Incomplete          106  teardown is incomplete; lists all errors
    └── PolicyError         107  the node's policy file is invalid; lists all mistakes

Codes: CNI SPEC 1.1.0, section "Error"; this plugin's own begin at 100. Only the code that
answers the runtime prints an error (``service/answer.py``).
"""

from __future__ import annotations

import errno as errno_names
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self


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
    """Base of every error that becomes a CNI error document."""

    code = 100

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def whole(self) -> str:
        """Message and details, for an error that becomes part of another."""
        return "; ".join(filter(None, (self.message, self.details)))


class VersionError(BondError):
    """The cniVersion is not supported, or has no such verb."""

    code = 1


class NamespaceGone(BondError):
    """No network namespace exists at the path."""

    code = 3  # "Container unknown or does not exist" (CNI SPEC 1.1.0, "Error")

    def __init__(self, path: str) -> None:
        super().__init__(f"network namespace {path} does not exist")


class EnvironError(BondError):
    """CNI environment variables are missing or invalid; all are named."""

    code = 4


class NotANamespace(EnvironError):
    """The path exists and is not a network namespace."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} is not a network namespace")


class JournalError(BondError):
    """A record, or the lock file, cannot be read or written (code 5, I/O failure)."""

    code = 5


class InputError(BondError):
    """The request's standard input cannot be decoded."""

    code = 6


class ConfigError(BondError):
    """The configuration has problems; ``problems`` holds every one.

    ``warnings`` go into the details: a misspelled key is a warning, and often the reason why a
    required key is missing.
    """

    code = 7

    def __init__(self, problems: tuple[Problem, ...], warnings: tuple[Problem, ...] = ()) -> None:
        text = "; ".join(map(str, warnings))
        super().__init__("; ".join(map(str, problems)), f"warnings: {text}" if text else "")
        self.problems = problems
        self.warnings = warnings


class TryAgain(BondError):
    """A transient condition prevented the request; the runtime should try again."""

    code = 11


class Unavailable(BondError):
    """STATUS: the plugin cannot serve ADD."""

    code = 50


class Refused(BondError):
    """The request is not possible on this node; nothing was changed. Lists every reason."""

    code = 101

    def __init__(self, reasons: tuple[str, ...]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class KernelError(BondError):
    """The kernel refused an operation.

    ``operation`` says what was tried ("create bond bond0"), ``number`` is the errno, ``text``
    the message of the kernel's extended acknowledgement ("" without one), ``option`` the key of
    the bond option at the acknowledgement's offset ("" without one).
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
    """The state of the kernel differs from what it acknowledged."""

    code = 103


class DelegateError(BondError):
    """A delegate failed; ``code`` is the delegate's own where it gave one."""

    code = 104

    def __init__(self, message: str, details: str = "", code: int | None = None) -> None:
        super().__init__(message, details)
        if code is not None:
            self.code = code


class DelegateUnstarted(DelegateError):
    """A delegate is missing or could not be started, so it changed nothing."""


class DelegateIncompatible(DelegateError):
    """A delegate refused the cniVersion, so it changed nothing, and it supports no other version
    that this plugin supports for the verb.
    """

    code = 1


class CheckError(BondError):
    """CHECK found differences; the message lists all of them."""

    code = 105


class Incomplete(BondError):
    """Teardown continued after errors; the message lists all of them."""

    code = 106


class ErrorList:
    """The errors of work that continues after each one, such as teardown."""

    def __init__(self) -> None:
        self._messages: list[str] = []

    def append(self, error: BondError | str) -> None:
        """Add one error, with its details."""
        self._messages.append(error if isinstance(error, str) else error.whole())

    def __iadd__(self, errors: Iterable[BondError | str]) -> Self:
        for error in errors:
            self.append(error)
        return self

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Add an error of the context instead of raising it."""
        try:
            yield
        except BondError as error:
            self.append(error)

    def __bool__(self) -> bool:
        return bool(self._messages)

    def __iter__(self) -> Iterator[str]:
        return iter(self._messages)

    def __str__(self) -> str:
        return "; ".join(self._messages)

    def raise_all(self) -> None:
        """Raise ``Incomplete`` with all errors; nothing where there is none."""
        if self:
            raise Incomplete(str(self))


class PolicyError(BondError):
    """The node's policy file is invalid or cannot be read; ADD refuses host links until it is fixed."""

    code = 107
