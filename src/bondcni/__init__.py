"""Bonded network interfaces for containers: the CNI plugin ``bond`` and its tools."""

__version__ = "0.1.0"
