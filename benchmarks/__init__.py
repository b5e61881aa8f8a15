"""How fast the plugin is, held against the incumbent and against the kernel itself.

``python -m benchmarks`` (``make bench``) builds, boots guests and prints; ``benchmarks.inside``
measures in a guest. See README.md in this folder.
"""
