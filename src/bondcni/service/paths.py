"""Default paths on a node. The executable ``bond`` has the same ones (shim/bond.c)."""

STATE_DIRECTORY = "/var/lib/bond-cni"
"""The state directory: records, locks, and queued DELs. Environment variable: BONDCNI_STATE."""

POLICY_FILE = "/etc/cni/bond/policy.yaml"
"""Which host links pods may take. Environment variable: BONDCNI_POLICY."""

SOCKET = "/run/bond-cni/bond.sock"
"""Where the daemon listens. Environment variable: BONDCNI_SOCKET."""
