"""INT4 linear layers: how their weights are stored for a device, and the kernels that multiply."""
