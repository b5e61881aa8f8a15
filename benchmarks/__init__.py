"""The speed of the plugin, compared with the Go plugin and with the kernel alone.

``python -m benchmarks`` (``make bench``) builds, boots guests and prints; ``benchmarks.inside``
measures in a guest. See README.md in this directory.
"""
