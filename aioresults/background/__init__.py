"""The background work of one lifetime, from ``open`` to ``close``: connections; storing, reading and looking up."""
