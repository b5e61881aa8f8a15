"""The resident server that receives requests from the executable ``bond``."""
