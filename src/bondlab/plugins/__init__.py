"""Stand-ins for CNI plugins that the lab's guest does not have."""
