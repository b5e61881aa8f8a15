"""Which links of the host a pod may take: rules, and the verdict on one link.

Without rules every link may be taken that the host itself does not use. With rules only
what one of them names, for the Kubernetes namespaces it names; what the host uses is
taken only by a rule that gives its exact name and says ``force``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bondcni.core.state import Link

GLOB = "*?["


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of the policy's ``links``; "" matches every link."""

    name: str = ""  # a name or a glob
    mac: str = ""
    pci: str = ""
    driver: str = ""
    namespaces: tuple[str, ...] = ("*",)  # names or globs of Kubernetes namespaces
    force: bool = False

    def matches(self, link: Link, driver: str, namespace: str) -> bool:
        """Whether the rule names this link for that namespace."""
        return (
            _like(self.name, (link.name, *link.altnames))
            and (not self.mac or self.mac in (link.permanent_mac, link.mac))
            and (not self.pci or self.pci == link.parent)
            and _like(self.driver, (driver,))
            and any(_like(pattern, (namespace,)) for pattern in self.namespaces)
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a link may be taken; ``force``: also while the host uses it."""

    allowed: bool
    force: bool
    why: str


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of a node; None: no policy file, the default."""

    rules: tuple[Rule, ...] | None = None
    source: str = ""

    def verdict(self, link: Link, driver: str, namespace: str) -> Verdict:
        """What the rules say of one link for a pod of one Kubernetes namespace."""
        if self.rules is None:
            why = "no policy file: what the host does not use may be taken"
            return Verdict(allowed=True, force=False, why=why)
        found = [
            (number, rule)
            for number, rule in enumerate(self.rules)
            if rule.matches(link, driver, namespace)
        ]
        if not found:
            whom = f"pods of namespace {namespace}" if namespace else "a pod of no namespace"
            why = f"no rule of {self.source} gives {link.name} to {whom}"
            return Verdict(allowed=False, force=False, why=why)
        number, rule = next((pair for pair in found if pair[1].force), found[0])
        words = " with force" if rule.force else ""
        why = f"rule {number} of {self.source} gives it{words}"
        return Verdict(allowed=True, force=rule.force, why=why)


def _like(pattern: str, values: Sequence[str]) -> bool:
    if not pattern or pattern == "*":
        return True
    import fnmatch  # noqa: PLC0415  only nodes with a policy file pay for it

    return any(fnmatch.fnmatchcase(value, pattern) for value in values)
