"""The policy: which links a rule matches, and what force allows."""

from __future__ import annotations

import pytest
from tests.unit.core.world import config, nic, plan_for, space

from bondcni.core.errors import Refused
from bondcni.core.plan import Plan
from bondcni.core.policy import Policy, Rule
from bondcni.core.state import Address, Link

ETH = nic(5, "eth12", altnames=("enp9s0",), mac="02:00:00:00:00:99")
"""Its permanent MAC is 02:00:00:00:00:05, its PCI address 0000:05:00.0."""


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        (Rule(), True),
        (Rule(name="eth12"), True),
        (Rule(name="enp9s0"), True),
        (Rule(name="eth1*"), True),
        (Rule(name="eth1?"), True),
        (Rule(name="eth1[3-9]"), False),
        (Rule(name="eth1"), False),
        (Rule(name="ETH12"), False),
        (Rule(mac="02:00:00:00:00:05"), True),
        (Rule(mac="02:00:00:00:00:99"), True),
        (Rule(mac="02:00:00:00:00:06"), False),
        (Rule(pci="0000:05:00.0"), True),
        (Rule(pci="0000:05:00.1"), False),
        (Rule(driver="mlx5_core"), True),
        (Rule(driver="mlx5*"), True),
        (Rule(driver="ixgbe"), False),
        (Rule(name="eth*", driver="ixgbe"), False),
        (Rule(name="eth*", driver="mlx5_core"), True),
        (Rule(namespaces=("telco-a",)), True),
        (Rule(namespaces=("web", "telco-*")), True),
        (Rule(namespaces=("telco",)), False),
        (Rule(namespaces=()), False),
    ],
)
def test_what_a_rule_matches(rule: Rule, *, matches: bool) -> None:
    assert rule.matches(ETH, "mlx5_core", "telco-a") is matches


def test_a_rule_with_namespaces_does_not_match_without_a_namespace() -> None:
    assert not Rule(namespaces=("telco-*",)).matches(ETH, "", "")
    assert Rule().matches(ETH, "", "")


def test_without_a_file_all_links_are_allowed_without_force() -> None:
    verdict = Policy().verdict(ETH, "", "")
    assert (verdict.allowed, verdict.force) == (True, False)


def test_an_empty_list_allows_no_link() -> None:
    verdict = Policy((), "p.yaml").verdict(ETH, "", "web")
    assert (verdict.allowed, verdict.force) == (False, False)
    assert verdict.why == "no rule in p.yaml allows eth12 for pods in namespace web"


def test_a_rule_with_force_is_used_wherever_it_is() -> None:
    policy = Policy((Rule(name="eth*"), Rule(name="eth12", force=True)), "p.yaml")
    verdict = policy.verdict(ETH, "", "")
    assert (verdict.allowed, verdict.force) == (True, True)
    assert verdict.why == "rule 1 in p.yaml allows it with force"


def plan(policy: Policy, *uses: Address) -> Plan:
    """A bond over eth12, which the host may use, and eth13."""
    host = space(ETH, nic(6, "eth13"), addresses=uses)
    return plan_for(config("eth12", "eth13"), host, space(), policy)


IN_USE = Address(ETH.index, "192.0.2.1/24")


def test_the_plan_refuses_a_link_that_no_rule_allows() -> None:
    with pytest.raises(Refused) as refused:
        plan(Policy((Rule(name="eth12"),), "p.yaml"))
    assert refused.value.reasons == (
        "host link eth13: no rule in p.yaml allows eth13 for a pod without a namespace",
    )


@pytest.mark.parametrize("rule", [Rule(), Rule(name="eth12")])
def test_a_link_in_use_needs_force(rule: Rule) -> None:
    with pytest.raises(Refused, match=r"eth12 is in use: it has the address 192\.0\.2\.1/24"):
        plan(Policy((rule, Rule()), "p.yaml"), IN_USE)


def claimed(made: Plan) -> list[Link]:
    return [item.link for item in made.claimed]


def test_force_allows_a_link_in_use() -> None:
    made = plan(Policy((Rule(name="eth12", force=True), Rule()), "p.yaml"), IN_USE)
    assert claimed(made)[0] == ETH


def test_force_does_not_allow_what_cannot_be_a_member() -> None:
    policy = Policy((Rule(name="lo", force=True), Rule()), "p.yaml")
    with pytest.raises(Refused, match="lo is the loopback"):
        plan_for(config("lo", "eth12"), space(ETH), space(), policy)
