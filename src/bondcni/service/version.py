"""VERSION: answered without parsing the configuration, and without kernel or journal.

Runtimes call it often, and before any other verb. It succeeds with any standard input. Source: CNI SPEC 1.1.0, section "VERSION".
"""

from __future__ import annotations

import json

from bondcni.core.document import Object
from bondcni.core.result import SUPPORTED
from bondcni.service.request import Request


def version_of(text: bytes) -> str:
    """The cniVersion of the request where it is supported, else the newest supported one."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    asked = document.get("cniVersion") if isinstance(document, dict) else None
    return asked if asked in SUPPORTED else SUPPORTED[-1]


def version(request: Request) -> Object:
    """The document that lists the supported versions."""
    return {"cniVersion": version_of(request.stdin), "supportedVersions": list(SUPPORTED)}
