"""Where the product keeps its files on a node, unless it is told otherwise. The executable
``bond`` has the same paths (shim/bond.c).
"""

STATE_DIRECTORY = "/var/lib/bond-cni"
"""Records, locks, and queued DELs; BONDCNI_STATE names another."""

POLICY_FILE = "/etc/cni/bond/policy.yaml"
"""Which host links pods may take; BONDCNI_POLICY names another."""

SOCKET = "/run/bond-cni/bond.sock"
"""Where the daemon listens; BONDCNI_SOCKET names another."""
