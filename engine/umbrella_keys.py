"""Configurations in UMbreLLa's spelling, put into ours. Knows names and values, no models and no files.

Most of UMbreLLa's keys are ours, with the meaning they have there. What remains is here: other spellings of
one value, what follows from a key there and is a key of its own here, and keys that mean nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping

MOST_NODES = 1024
"""The largest tree that a configuration may ask for, the root included."""

_DTYPES = {
    **dict.fromkeys(("float32", "float", "torch.float32", "torch.float"), "fp32"),
    **dict.fromkeys(("float16", "half", "torch.float16", "torch.half"), "fp16"),
    **dict.fromkeys(("bfloat16", "torch.bfloat16"), "bf16"),
}

_WITHOUT_EFFECT = {
    "exit_layer": "the whole draft model is used; name a smaller model in draft_model instead",
    "max_turns": "it is umbrella-chat's: give it there, as --max-turns",
    "safe_buffer": "room for the tree is added to max_length, all of which can be used; set that instead",
    "stop_distance": "an answer has generation_length tokens at most, to the token; set that instead",
}
"""UMbreLLa's keys that mean nothing here: why, and what to use."""


def translated(data: Mapping[str, object]) -> tuple[dict[str, object], tuple[str, ...]]:
    """`data` in our spelling, and a warning for each key that has no effect, which names it.

    Values of the wrong type pass as they are: whoever reads the result refuses them.
    """
    ours = {key: value for key, value in data.items() if key not in _WITHOUT_EFFECT}
    warnings = [f"{key} has no effect: {_WITHOUT_EFFECT[key]}" for key in data if key in _WITHOUT_EFFECT]
    dtype = ours.get("dtype")
    if isinstance(dtype, str):
        ours["dtype"] = _DTYPES.get(dtype, dtype)
    if ours.get("offload") is False and type(ours.get("num_cache_layers")) is int:
        del ours["num_cache_layers"]
        warnings.append("num_cache_layers has no effect where offload is false: all layers are on the device")
    width, depth = ours.get("width"), ours.get("depth")
    if "tree_size" not in ours and type(width) is int and type(depth) is int:
        ours["tree_size"] = min(max(width * depth, 0) + 1, MOST_NODES)
    return ours, tuple(f"{warning}." for warning in warnings)
