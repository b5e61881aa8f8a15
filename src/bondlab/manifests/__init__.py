"""Kubernetes manifests, annotations, and what a runtime makes of them."""
