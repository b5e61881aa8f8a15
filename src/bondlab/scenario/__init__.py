"""What the lab does with a pod: topology, CNI calls, drills, the report."""
