"""VERSION: answered without the configuration's parser, the kernel or the journal.

Runtimes ask it often and before anything else; it never fails, whatever is on standard
input. Source: CNI SPEC 1.1.0, section "VERSION".
"""

from __future__ import annotations

import json

from bondcni.core.result import SUPPORTED, Object
from bondcni.service.request import Request


def version_of(text: bytes) -> str:
    """The request's cniVersion where it is one that we know, else the newest that we do."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    asked = document.get("cniVersion") if isinstance(document, dict) else None
    return asked if asked in SUPPORTED else SUPPORTED[-1]


def version(request: Request) -> Object:
    """The versions that are supported."""
    return {"cniVersion": version_of(request.stdin), "supportedVersions": list(SUPPORTED)}
