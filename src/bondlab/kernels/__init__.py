"""The kernels that a guest can run, and how they are fetched."""
