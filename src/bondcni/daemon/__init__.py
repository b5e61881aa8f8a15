"""The resident server that the executable ``bond`` hands requests to."""
