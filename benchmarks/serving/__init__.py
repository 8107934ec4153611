"""Other programs at work on the engine, well behaved and otherwise, while someone types."""
