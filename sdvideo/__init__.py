"""sdvideo: a video codec that codes learned latents as deltas along the motion, and measures its own stability.

import sdvideo
sdvideo.encode("clip.mp4", "clip.sdv", quality=60)
with sdvideo.open("clip.sdv") as video:
    for frame in video:
        print(frame.pts, frame.picture.y.shape)
sdvideo.decode("clip.sdv", "again.mp4")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .version import __version__

if TYPE_CHECKING:  # what type checkers and editors see; at run time see __getattr__
    from sdvideo.reporting.report import report

    from .decoder import DecodeResult, decode, preview, verify
    from .encoder import EncodeResult, encode
    from .errors import (
        DamagedError,
        FormatError,
        ModelError,
        OutputExists,
        SdvError,
        SettingError,
        SinkError,
        SourceError,
    )
    from .frames import Frame, Picture, StreamInfo
    from .latent_dataset import LatentDataset
    from .reader import VideoReader
    from .reader import VideoReader as open
    from .settings import EncodeSettings

# The module of each public name. It is imported when the name is first used: torch takes seconds to import, and --help
# needs none of it.
_MODULES = {
    "DamagedError": "errors",
    "DecodeResult": "decoder",
    "EncodeResult": "encoder",
    "EncodeSettings": "settings",
    "Frame": "frames",
    "FormatError": "errors",
    "LatentDataset": "latent_dataset",
    "ModelError": "errors",
    "OutputExists": "errors",
    "Picture": "frames",
    "SdvError": "errors",
    "SettingError": "errors",
    "SinkError": "errors",
    "SourceError": "errors",
    "StreamInfo": "frames",
    "VideoReader": "reader",
    "decode": "decoder",
    "encode": "encoder",
    "open": "reader",
    "preview": "decoder",
    "report": "reporting.report",
    "verify": "decoder",
}

# Written out, because type checkers do not run code.
__all__ = [
    "DamagedError",
    "DecodeResult",
    "EncodeResult",
    "EncodeSettings",
    "FormatError",
    "Frame",
    "LatentDataset",
    "ModelError",
    "OutputExists",
    "Picture",
    "SdvError",
    "SettingError",
    "SinkError",
    "SourceError",
    "StreamInfo",
    "VideoReader",
    "__version__",
    "decode",
    "encode",
    "open",
    "preview",
    "report",
    "verify",
]


if not TYPE_CHECKING:  # a checker that saw this would accept every name

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        module = import_module(f".{_MODULES[name]}", __name__)
        value = getattr(module, "VideoReader" if name == "open" else name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
