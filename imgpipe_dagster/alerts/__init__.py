"""Telling people: what is decided, how a mail reads, how it travels. The outbox itself is in ``catalogue/``."""
