"""Models larger than a device's memory: what lies where, and layers that stream through a ring of slots."""
