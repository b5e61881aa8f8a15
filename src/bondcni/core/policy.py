"""Decides which host links a pod may take.

Without a policy a pod may take every host link that is not in use. With a policy it may take
only links that a rule matches, for the Kubernetes namespaces of the rule. A link in use needs
a rule with its exact name and ``force``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bondcni.core.state import Link

GLOB = "*?["


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of ``links`` in the policy file; "" matches every link."""

    name: str = ""  # a name or a glob
    mac: str = ""
    pci: str = ""
    driver: str = ""
    namespaces: tuple[str, ...] = ("*",)  # names or globs of Kubernetes namespaces
    force: bool = False

    def matches(self, link: Link, driver: str, namespace: str) -> bool:
        """Whether the rule matches the link and the Kubernetes namespace."""
        return (
            _like(self.name, (link.name, *link.altnames))
            and (not self.mac or self.mac in (link.permanent_mac, link.mac))
            and (not self.pci or self.pci == link.parent)
            and _like(self.driver, (driver,))
            and any(_like(pattern, (namespace,)) for pattern in self.namespaces)
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a pod may take a link, also in use with ``force``, and why."""

    allowed: bool
    force: bool
    why: str


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of a node; None without a policy file."""

    rules: tuple[Rule, ...] | None = None
    source: str = ""

    def verdict(self, link: Link, driver: str, namespace: str) -> Verdict:
        """The verdict on a link for a pod in a Kubernetes namespace ("" if it is not known)."""
        if self.rules is None:
            why = "no policy file: a pod may take any host link that is not in use"
            return Verdict(allowed=True, force=False, why=why)
        found = [
            (number, rule)
            for number, rule in enumerate(self.rules)
            if rule.matches(link, driver, namespace)
        ]
        if not found:
            whom = f"pods in namespace {namespace}" if namespace else "a pod without a namespace"
            why = f"no rule in {self.source} allows {link.name} for {whom}"
            return Verdict(allowed=False, force=False, why=why)
        number, rule = next((pair for pair in found if pair[1].force), found[0])
        words = " with force" if rule.force else ""
        why = f"rule {number} in {self.source} allows it{words}"
        return Verdict(allowed=True, force=rule.force, why=why)


def _like(pattern: str, values: Sequence[str]) -> bool:
    if not pattern or pattern == "*":
        return True
    import fnmatch  # noqa: PLC0415  # only needed with a policy file

    return any(fnmatch.fnmatchcase(value, pattern) for value in values)
