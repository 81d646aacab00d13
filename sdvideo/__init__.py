"""sdvideo: a video codec that codes learned latents as deltas along the motion, and measures its own stability.

import sdvideo
sdvideo.encode("clip.mp4", "clip.sdv", quality=60)
with sdvideo.open("clip.sdv") as video:
    for frame in video:
        print(frame.pts, frame.picture.y.shape)
sdvideo.decode("clip.sdv", "again.mp4")
"""

from __future__ import annotations

__version__ = "0.1.0"

# Where each public name lives. They are looked up when first used: torch takes seconds to import, --help has none.
_HOMES = {
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
__all__ = sorted(["__version__", *_HOMES])


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    home = import_module(f".{_HOMES[name]}", __name__)
    value = home.VideoReader if name == "open" else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
