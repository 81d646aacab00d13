"""Opens a video file or pipe, and chooses the streams that are kept: one video, and sound and subtitles beside it.

What is left out, and what the file says of its video that cannot be kept, is named.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition

from sdvideo.errors import SourceError

from .losses import lost
from .probing.foreign import foreign_kind, unread_kind
from .probing.programs import program_of
from .probing.track_header import VideoHeader, read_video_header
from .tracks import SideStream, reason, side_streams

STANDARD_INPUT = "standard input"
_STILLS = Disposition.attached_pic | Disposition.timed_thumbnails
_PART = Disposition.dependent  # no video of its own, such as a tile of a picture
_LATE_INDEX = " (or an MP4 with its index at the end, which cannot be read from a pipe)"


@dataclass(frozen=True, slots=True)
class Streams:
    """The streams of an open file that are kept. header: what the file says of the video beside its stream."""

    video: av.VideoStream
    sides: list[SideStream]
    header: VideoHeader


def open_container(name: str, seekable: bool) -> InputContainer:
    """Open a file by FFmpeg. name: a path, or STANDARD_INPUT. Raises SourceError, which says what it is instead."""
    try:
        if name == STANDARD_INPUT:
            container = av.open(sys.stdin.buffer, "r", metadata_errors="replace")
        else:
            # Python's open() first: its errors distinguish a missing file, a folder and a forbidden file.
            open(name, "rb").close() if seekable else os.stat(name)
            if seekable and (other := foreign_kind(Path(name))):
                raise SourceError(f"{name}: {other}")
            container = av.open(f"file:{name}", "r", metadata_errors="replace")
    except (av.FFmpegError, OSError) as exc:
        unread = isinstance(exc, av.InvalidDataError | av.ArgumentError)
        kind = unread_kind(Path(name)) if seekable else f"not a video{_LATE_INDEX}"
        raise SourceError(f"{name}: {kind if unread else reason(exc)}") from exc
    if container.format.name == "tty":  # FFmpeg renders any .txt file as a terminal
        container.close()
        raise SourceError(f"{name}: not a video but text")
    return container


def choose_streams(container: InputContainer, name: str, seekable: bool) -> Streams:
    """Raises SourceError if there is no video, none that can be decoded, or an encrypted one."""
    video = _choose_video(container, name)
    header = _read_header(container, video, name) if seekable else VideoHeader()
    sides = side_streams(container)
    if seekable and container.format.name == "mpegts":
        sides = _of_its_program(sides, video, name)
    return Streams(video, sides, header)


def no_picture(name: str, seekable: bool) -> SourceError:
    """The error for a file of which nothing can be decoded."""
    return SourceError(f"{name}: has no decodable picture{'' if seekable else _LATE_INDEX}")


def _choose_video(container: InputContainer, name: str) -> av.VideoStream:
    videos = [stream for stream in container.streams.video if not stream.disposition & (_STILLS | _PART)]
    if not videos:
        raise SourceError(f"{name}: has no video stream")
    video = next((v for v in videos if v.disposition & Disposition.default), videos[0])
    if video.codec_context is None:
        raise SourceError(f"{name}: no decoder for its video stream")
    if len(videos) > 1:
        lost("%d further video streams are left out: an .sdv holds one", len(videos) - 1)
    if others := _unsupported(container):
        lost("left out, an .sdv cannot hold them: %s; keep the original for them", ", ".join(others))
    # With a thread for each frame, an error at the end would take the pictures behind it along.
    video.thread_type = "SLICE"
    video.codec_context.thread_count = 2
    return video


def _of_its_program(sides: list[SideStream], video: av.VideoStream, name: str) -> list[SideStream]:
    """Those streams of a transport stream that are in the program of the video."""
    with open(name, "rb") as file:
        own = program_of(file, video.id)
    kept = [stream for stream in sides if not own or stream.id in own]
    if len(kept) < len(sides):
        lost("%d audio and subtitle tracks of other programs are left out", len(sides) - len(kept))
    return kept


def _read_header(container: InputContainer, video: av.VideoStream, name: str) -> VideoHeader:
    """What PyAV does not show of the video. Raises SourceError if it is encrypted."""
    position = [stream.index for stream in container.streams.video].index(video.index)
    with open(name, "rb") as file:
        header = read_video_header(file, container.format.name, video.id, position)
    if header.encrypted:
        raise SourceError(f"{name}: its pictures are encrypted")
    if header.dolby_vision is not None:
        lost("Dolby Vision of profile %d: its colours are wrong without a decoder for it", header.dolby_vision)
    if header.views:
        lost("it is left out that the video is meant for %s: players will show it flat", " and ".join(header.views))
    return header


def _unsupported(container: InputContainer) -> list[str]:
    """In words: streams that are no pictures, sound or subtitles, and not kept as chapters or metadata."""
    streams = container.streams
    chaptered = bool(container.chapters())
    covers = ["cover art" for stream in streams.video if stream.disposition & _STILLS]
    parts = ["video stream that is part of another" for stream in streams.video if stream.disposition & _PART]
    files = [f"attached file {stream.metadata.get('filename', '')}".strip() for stream in streams.attachments]
    data = [
        f"data stream {stream.name or 'of an unknown kind'}"
        for stream in streams.data
        if "timecode" not in stream.metadata and not (chaptered and stream.name == "bin_data")
    ]
    return covers + parts + files + data
