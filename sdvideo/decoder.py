"""Decodes an .sdv file into a video or a picture, exports its AV1 base, and verifies it.

container -> codec (codecs/) -> frames -> sink
    +----- sound, subtitles, chapters -----^
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from sdvideo.codecs.interface import EXPORT
from sdvideo.media.output import open_sink
from sdvideo.runtime.output_files import check_output, is_folder, placed, whole_file
from sdvideo.runtime.prefetch import prefetch

from .container import Damage
from .errors import DamagedError, FormatError, ModelError, SettingError
from .frames import Frame
from .reader import VideoReader
from .settings import ProgressCallback, whole

log = logging.getLogger("sdvideo")

_HINT = "(decode what is left with --tolerant)"
_PICTURE_SUFFIX = ".decoded.png"
_MAX_NAMED = 8  # ranges of concealed frames that a warning lists


@dataclass(frozen=True, slots=True)
class DecodeResult:
    """What a decoding made.

    path: the file, None for a pipe. frames: how many. seconds: it took. concealed: how many of the frames were lost and
    show another picture.
    """

    path: Path | None
    frames: int
    seconds: float
    concealed: int = 0


def decode(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    crf: int | None = None,
    lossless: bool = False,
    tolerant: bool = False,
    model: str | None = None,
    device: str = "auto",
    denoise: int = 0,
    denoiser: str | None = None,
    look: float | str | None = None,
    progress: ProgressCallback = lambda done, total, size, rate: None,
) -> DecodeResult:
    """Decode an .sdv file into a video, or a file of one frame into a picture.

    destination: .mp4, .mkv, .mov or .y4m, for one frame also .png, .jpg or .webp; "-" is standard output (fragmented
    MP4); by default, and in a folder, the source's name with .decoded.mp4, or .decoded.png for one frame without sound.
    model, device, denoise, denoiser, look: see VideoReader. crf, lossless: of the H.264 that the pictures are stored
    as; a WebP can be lossless, too. overwrite: replace an existing file. progress: see settings.py; called after every
    frame. Raises the errors of errors.py; if the source was cut short or is damaged, no output file appears.

    tolerant: conceal what is lost of such a source as VideoReader does, keep what is left of the sound, and log one
    warning that says what was lost. Then only a damaged header, or no frame at all, is an error.
    """
    begin = time.monotonic()
    crf = _checked_crf(crf, lossless)
    with ExitStack() as stack:
        video = stack.enter_context(
            VideoReader(
                source, model=model, device=device, denoise=denoise, denoiser=denoiser, look=look, tolerant=tolerant
            )
        )
        if not tolerant:
            _require_complete(video, source)
        if not len(video):
            raise DamagedError(f"{source}: holds no frame")
        if destination is not None and os.fspath(destination) == "-":
            path = target = None
        else:
            path = placed(destination, source, _default_suffix(video))
            if _default_suffix(video) == _PICTURE_SUFFIX and (destination is None or is_folder(destination)):
                if crf is not None:  # it is meant for the videos of a batch
                    log.info("%s: crf is left out, which a picture does not have", source)
                crf = None
            check_output(path, source, overwrite)
            target = stack.enter_context(whole_file(path))
        files = stack.enter_context(video.track_files())
        sink = stack.enter_context(
            open_sink(
                "-" if target is None else target,
                video.info,
                track_files=files,
                crf=crf,
                lossless=lossless,
                format=None if path is None else path.suffix.lstrip(".").lower(),
                frames=len(video),
            )
        )
        frames = stack.enter_context(prefetch(video))
        for done, frame in enumerate(frames if tolerant else _with_hint(frames), 1):
            sink.write(frame)
            progress(done, len(video), 0, video.info.rate)
        sink.close()
        if video.damage or video.concealed or video.lost_tracks:
            log.warning("%s", _describe_losses(video, source))
        concealed = sum(map(len, video.concealed))
    return DecodeResult(path, len(video), time.monotonic() - begin, concealed)


def _checked_crf(crf: int | None, lossless: bool) -> int | None:
    if crf is None:
        return None
    if not 0 <= whole("crf", crf) <= 51:
        raise SettingError(f"crf is {crf}; it can be 0 to 51")
    if lossless:
        raise SettingError("crf and lossless exclude each other: give one")
    return whole("crf", crf)


def _require_complete(video: VideoReader, source: str | os.PathLike[str]) -> None:
    if not video.complete:
        what = video.damage[0].what if video.damage else f"cut short after frame {len(video)}"
        raise DamagedError(f"{source}: {what} {_HINT}")


def _with_hint(frames: Iterable[Frame]) -> Iterator[Frame]:
    try:
        yield from frames
    except DamagedError as error:
        raise DamagedError(f"{error} {_HINT}") from error


def _describe_losses(video: VideoReader, source: str | os.PathLike[str]) -> str:
    """What was lost of a damaged file, and what is shown instead, in one line."""
    lost = video.concealed
    named = [f"{frames[0]} to {frames[-1]}" for frames in lost[:_MAX_NAMED]] + ["..."] * (len(lost) > _MAX_NAMED)
    count = sum(map(len, lost))
    parts = [f"the nearest intact picture replaces frames {', '.join(named)} ({count} in all)"] if lost else []
    if any(damage.kind == "cut" for damage in video.damage):
        parts.append(f"the file is cut short after frame {len(video) - 1}")
    return f"{source} is damaged: {'; '.join([*parts, *video.lost_tracks]) or 'no picture and no sound is lost'}"


def preview(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    progress: ProgressCallback = lambda done, total, size, rate: None,
) -> DecodeResult:
    """Copy the AV1 base of an .sdv file into a video that any AV1 player shows, with the sound; nothing is decoded.

    destination: .mp4, .mkv or .mov; by default, and in a folder, the source's name with .preview.mp4. Raises the
    errors of errors.py, a SettingError for a file without an AV1 base.
    """
    begin = time.monotonic()
    with ExitStack() as stack:
        video = stack.enter_context(VideoReader(source))
        if EXPORT not in video.features:
            raise SettingError(f"{source} has no AV1 base to show; decode it")
        _require_complete(video, source)
        path = placed(destination, source, ".preview.mp4")
        check_output(path, source, overwrite)
        part = stack.enter_context(whole_file(path))
        files = stack.enter_context(video.track_files())
        frames = video.coded_frames()
        first = next(frames, None)
        if first is None:
            raise DamagedError(f"{source}: holds no frame")
        format = path.suffix.lstrip(".").lower()
        sink = stack.enter_context(video.open_export(part, first, files, format))
        for done, frame in enumerate(chain([first], frames), 1):
            sink.write(frame)
            progress(done, len(video), 0, video.info.rate)
        sink.close()
    return DecodeResult(path, len(video), time.monotonic() - begin)


def verify(path: str | os.PathLike[str], *, device: str = "auto") -> list[Damage]:
    """Check a whole file: every checksum, then the integers of every frame. Returns what is wrong, [] if nothing.

    Raises FormatError, and ModelError if the embedded model is missing, if integers cannot be read and nothing else is
    wrong.
    """
    with VideoReader(path, device=device, tolerant=True) as video:
        damage = list(video.damage)
        try:
            damage += video.check()
        except (FormatError, ModelError):
            if not damage:
                raise
    return sorted(damage, key=lambda one: one.offset)


def _default_suffix(video: VideoReader) -> str:
    return _PICTURE_SUFFIX if len(video) == 1 and not video.info.tracks else ".decoded.mp4"
