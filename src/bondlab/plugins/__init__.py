"""Stand-ins for CNI plugins that cannot run in a guest."""
