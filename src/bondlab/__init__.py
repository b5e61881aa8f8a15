"""The lab: runs manifests and commands on a guest kernel with the bonding driver."""
