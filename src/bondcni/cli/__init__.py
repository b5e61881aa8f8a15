"""``bondctl``: one module for each command."""
