"""The pure core: values in, values out; no I/O module is imported here."""
