"""Turns a cursor into a suggestion. Never imports torch; models live in the engine's own process."""
