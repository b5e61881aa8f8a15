"""Boots a guest with its own kernel, and runs commands in it."""
