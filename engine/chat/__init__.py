"""``umbrella-chat``: a conversation with the engine's target, in a terminal, in a browser, or from a file.

A client like any other: it knows `engine.client.Client`, and nothing of models.
"""
