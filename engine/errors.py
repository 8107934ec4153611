"""The error tree. Every message says what happened and what to do about it.

::

    UmbrellaError
    ├── ConfigError          a configuration that cannot be used: names the key and what is allowed
    ├── CheckpointError      a checkpoint that cannot be used: names the file and the tensor
    │   └── NoAdapter        there is no LoRA adapter where one is said to be
    ├── RequestError         a request that cannot be served: names the field
    │   ├── UnknownModel     it names a model or an adapter that there is not
    │   └── ContextExceeded  its prompt is longer than the context
    ├── DeviceError          memory, a device or a copy gave out while running: says what was done about it
    ├── TrainingError        a corpus or a run that cannot be trained on: says what it lacks
    └── EngineUnavailable    no engine answers, or it cannot answer now
        ├── EngineBusy       it takes no more requests now, but will again soon
        ├── EngineGone       nothing answers, what did has stopped in the middle, or our token is an old one
        └── ProtocolMismatch the engine that answers speaks another version

Torch-free: the front end catches these too. A cancel is not an error and is not here.
"""

from __future__ import annotations


class UmbrellaError(Exception):
    """The root: catch this to catch everything that is ours."""


class ConfigError(UmbrellaError):
    """A configuration key, value or file that cannot be used."""


class CheckpointError(UmbrellaError):
    """A checkpoint that is missing, damaged or of an unsupported kind."""


class NoAdapter(CheckpointError):
    """There is no LoRA adapter where one is said to be."""


class RequestError(UmbrellaError):
    """A request that cannot be served as it is. HTTP 422, or 400 where the body is no JSON object.

    `field` is the dotted path of the field at fault, or '' where it is the body as a whole.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class UnknownModel(RequestError):
    """A request names a model or an adapter that there is not. HTTP 404."""


class ContextExceeded(RequestError):
    """A prompt, together with what is to be generated, is longer than the context."""


class DeviceError(UmbrellaError):
    """Memory, a device or a copy between two gave out while running. HTTP 503.

    `lost`: whether the device is gone for this process, so that only a new one can go on.
    """

    def __init__(self, message: str, *, lost: bool = False) -> None:
        super().__init__(message)
        self.lost = lost


def is_loss(error: BaseException) -> bool:
    """Whether `error` says that the device is gone, so that nothing more can be run in this process."""
    return isinstance(error, DeviceError) and error.lost


class TrainingError(UmbrellaError):
    """A corpus, a plan or a checkpoint that cannot be trained with, or a run that had to stop."""


class EngineUnavailable(UmbrellaError):
    """No engine answers, or the one that does cannot take this request now."""


class EngineBusy(EngineUnavailable):
    """As many requests wait as may, or the engine is about to be replaced: ask again in a moment."""


class EngineGone(EngineUnavailable):
    """Nothing answers where an engine was, it broke off in the middle, or there is another one now that has
    another token: it can be looked for anew.
    """


class ProtocolMismatch(EngineUnavailable):
    """The engine that answers speaks another version of the protocol."""
