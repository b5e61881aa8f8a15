"""Reads Kubernetes manifests, and derives the plugin configurations as a runtime does."""
