"""Encodes a video into an .sdv file.

source -> frames -> codec (codecs/) -> groups -> container
   +----- sound, subtitles, chapters ------------^
"""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from sdvideo.codecs.registry import codec_for_settings
from sdvideo.container.header import Header
from sdvideo.container.resumable import ResumableFile
from sdvideo.media.formats import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from sdvideo.media.losses import refuse_losses
from sdvideo.media.source import open_source
from sdvideo.runtime.output_files import check_output, placed, whole_file
from sdvideo.runtime.prefetch import prefetch

from .errors import SettingError
from .frames import StreamInfo
from .settings import EncodeSettings, ProgressCallback, bit_budget
from .version import __version__

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from sdvideo.codecs.interface import HeaderFields

    from .settings import EncodeOptions

log = logging.getLogger("sdvideo")

_MISSED_BY = 0.1  # of the bits that were asked for: more than that gets a warning


@dataclass(frozen=True, slots=True)
class EncodeResult:
    """What an encoding made. path: the file. frames, groups: how many. bytes: of the file. seconds: it took."""

    path: Path
    frames: int
    groups: int
    bytes: int
    seconds: float


def encode(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    strict: bool = False,
    progress: ProgressCallback = lambda done, total, size, rate: None,
    executor: Executor | None = None,
    **settings: Unpack[EncodeOptions],
) -> EncodeResult:
    """Encode a video into an .sdv file.

    source: a path, or "-" for standard input. destination: by default, and in a folder, the source's name with .sdv.
    settings: the fields of EncodeSettings. resume: go on from what an interrupted call left beside the destination.
    strict: refuse a source of which something would be lost or mended, where else a warning says so.
    progress: see settings.py; called after every frame, with an AV1 base now and then. executor: runs the work on
    groups, such as a ProcessPoolExecutor; threads and SVT-AV1 processes of this machine if None. The file is the same.
    Raises the errors of errors.py.
    """
    begin = time.monotonic()
    chosen = EncodeSettings(**settings)  # type: ignore[arg-type]  # it makes a str of a path
    codec = codec_for_settings(chosen)
    path = _destination(destination, source, overwrite)
    careful = refuse_losses(os.fspath(source)) if strict else nullcontext()
    with careful, open_source(source) as video, whole_file(path, keep_interrupted=True) as part:
        total = video.count_frames()
        encoder = codec.encoder(video.info, chosen, total)
        header = _header(video.info, video.track_forms, codec.name, encoder.fields, chosen)
        with ResumableFile(part, header, resume) as file:
            if video.seekable:
                file.write_tracks(video.track_files())
            bits = bit_budget(chosen, video.info, total, file.size - file.video_size)
            with prefetch(islice(video.frames(), max(0, file.frames - encoder.lookback), None)) as frames:
                for group in encoder.groups(frames, file, bits, total, progress, executor):
                    file.write_group(group)
            if not video.seekable:
                file.write_tracks(video.track_files())
            file.finish()
        _warn_if_missed(path, bits, file.video_size, part.stat().st_size)
    return EncodeResult(path, file.frames, file.groups, path.stat().st_size, time.monotonic() - begin)


def _destination(destination: str | os.PathLike[str] | None, source: str | os.PathLike[str], overwrite: bool) -> Path:
    if destination is not None and os.fspath(destination) == "-":
        raise SettingError("an .sdv goes into a file, not to standard output; name it")
    path = placed(destination, source, ".sdv")
    check_output(path, source, overwrite)
    if path.suffix.lower() in VIDEO_SUFFIXES | PICTURE_SUFFIXES:
        raise SettingError(f"the output of encode is an .sdv file; {path} has the suffix of another format")
    return path


def _header(
    info: StreamInfo, blobs: tuple[str, ...], base: str, fields_of_codec: HeaderFields, settings: EncodeSettings
) -> Header:
    # On a short clip every byte counts, so only settings that differ from the default are kept, and none that stand
    # elsewhere in the header or do not change the file.
    defaults = {field.name: field.default for field in fields(settings)}
    elsewhere = {"device", "base", "model", "workers", "look"}
    kept = {k: v for k, v in asdict(settings).items() if k not in elsewhere and v != defaults[k]}
    return Header(
        info=info,
        model=fields_of_codec.model,
        base=base,
        coder=fields_of_codec.coder,
        latent=fields_of_codec.latent,
        settings=kept,
        blobs=blobs,
        writer=f"sdvideo {__version__}",
        scale=fields_of_codec.scale,
        restorer=fields_of_codec.restorer,
        look=fields_of_codec.look,
        painter=fields_of_codec.painter,
    )


def _warn_if_missed(path: Path, bits: float | None, video: int, whole: int) -> None:
    """bits: that the video could take, see bit_budget. video, whole: bytes of the video and of the file."""
    if bits is not None and bits <= 0:
        log.warning("%s: sound and other tracks take %d bytes, more than the size asked for", path, whole - video)
    elif bits is not None and abs(8 * video - bits) > _MISSED_BY * bits:
        log.warning("%s: the video takes %d bytes instead of %d", path, video, bits // 8)
