"""Which kernels a guest can run, and where they come from."""
