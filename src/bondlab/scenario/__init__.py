"""Runs the case of a pod: topology, CNI calls, drills, report."""
