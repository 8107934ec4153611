"""Quantised linear layers, INT4 and INT8: how weights are stored for a device, and what multiplies them."""
