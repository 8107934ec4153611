"""Turns a prefix and a suffix, or a chat, into text. Knows nothing of LSP, editors or workspaces."""

__version__ = "0.1.0"
