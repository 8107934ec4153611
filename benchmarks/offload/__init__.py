"""A model larger than a device's memory, streamed: ours, UMbreLLa's schedule and accelerate's, measured."""
