"""Turns a prefix and a suffix, or a chat, into text. Knows nothing of LSP or editors."""

__version__ = "0.1.0"
