"""Boot, hold and talk to a machine with a kernel of its own."""
