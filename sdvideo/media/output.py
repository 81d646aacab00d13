"""Opens an output video or picture: its format follows from the name's suffix."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from sdvideo.errors import SettingError
from sdvideo.frames import Frame, StreamInfo

from .formats import PICTURE_OUTPUTS, Destination, output_format
from .muxer import H264Sink
from .sink import Sink, StillSink, Y4mSink

log = logging.getLogger("sdvideo")

# Against "veryfast" at CRF 16, on four clips: a third of the time (that preset takes up to a fifth of a decode on two
# cores), 2.3 to 3.1 dB closer to the decoded pictures (worst frames 3.7 to 5.9 dB), 1.4 to 3.3 times the bytes;
# lossless 1.1 to 1.2 times.
_PRESET, _CRF = "ultrafast", 8


def open_sink(
    path: Destination,
    info: StreamInfo,
    *,
    track_files: Sequence[Path] = (),
    crf: int | None = None,
    lossless: bool = False,
    format: str | None = None,
    frames: int | None = None,
) -> Sink[Frame]:
    """Open an output video for writing, overwriting what is there.

    Args:
        path: its suffix chooses the format (.mp4 .m4v .mov .mkv .y4m, or .png .jpg .webp for one picture). "-" is
            standard output; it and an open binary file get fragmented MP4, which needs no seeking.
        info: size, time base, colours, chapters, metadata and tracks, as a Source describes them.
        track_files: what Source.track_files() returned.
        crf, lossless: of x264, CRF 8 if not given; lossless keeps every sample (in a .webp: every colour).
        format: the suffix to use instead of the name's, without its dot ("mp4", "mkv", "y4m" ...).
        frames: how many pictures will be written, if that is known.

    Raises:
        SinkError: the format is unknown or the file cannot be created.
        SettingError: the format cannot hold so many pictures, or has no such quality setting.
    """
    kind = output_format(path, format)
    if kind in PICTURE_OUTPUTS.values():
        _check_still(kind, frames, crf, lossless)
        return StillSink(path, info, kind, lossless)
    if info.icc:
        log.warning("a video file cannot hold the ICC profile of the picture: it is left out")
    if kind == "y4m":
        _check_crf(kind, crf)
        return Y4mSink(path, info)
    quality = {"qp": "0"} if lossless else {"crf": str(_CRF if crf is None else crf)}
    return H264Sink(path, info, kind, track_files, options={"preset": _PRESET, **quality})


def _check_crf(kind: str, crf: int | None) -> None:
    if crf is not None:
        raise SettingError(f"crf is a setting of H.264, which a {kind} file does not hold; leave it out")


def _check_still(kind: str, frames: int | None, crf: int | None, lossless: bool) -> None:
    if frames is not None and frames > 1:
        raise SettingError(f"a {kind} holds one picture, and there are {frames:,}: name an .mp4, .mkv, .mov or .y4m")
    _check_crf(kind, crf)
    if lossless and kind == "jpeg":
        raise SettingError("a jpeg cannot be lossless; a .png is, and a .webp can be")
