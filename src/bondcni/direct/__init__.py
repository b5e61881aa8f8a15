"""One CNI request in one process, without the daemon."""
