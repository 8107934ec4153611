"""Tries a configuration's own checkpoints, in a process of its own: what nobody else can run for its user."""
