"""A guest kernel to run bonds in, and what is run there."""
