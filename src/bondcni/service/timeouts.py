"""How long a request waits for what: one value, which ``Service`` holds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds."""

    lock: float = 30.0
    """For another request that holds the lock of the attachment or of one of its links."""

    busy: float = 0.2
    """As ``lock``, for recover, GC and pending cleanup, which go on with the next record."""

    links_return: float = 5.0
    """For a link whose pod is gone: the kernel deletes network namespaces asynchronously."""

    delegate: float = 60.0
    """For a delegate; enough for a DHCP exchange with retries."""

    delegate_version: float = 10.0
    """For a delegate's answer to VERSION."""

    queued_delete: float = 60.0
    """For the queued DEL of the request's own attachment, while another request processes it."""

    cleanup: float = 2.0
    """For the pending cleanup that is done before one request."""

    cleanup_retry: float = 10.0
    """Until a pending cleanup that failed is tried again."""


DEFAULT = Timeouts()
