"""The edges: parse, call the service, print, exit."""
