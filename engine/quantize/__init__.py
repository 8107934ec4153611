"""Makes AWQ INT4 checkpoints with autoawq: `command` has the options, `run` does it, on `calibration`.

Only `command` is imported by the engine, and only what it imports when it runs needs the extra ``awq``.
"""
