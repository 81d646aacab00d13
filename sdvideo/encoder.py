"""The way from a video to an .sdv file.

base none:  demux -> predict -> analyse -> quantise -> entropy -> container
                        ^ motion, warp of the decoded reference
base av1:   demux -> shots -> scale -> seam -> AV1 -> container
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from sdvideo.cli.inputs import PICTURES, VIDEOS
from sdvideo.codecs.av1.bitstream import Base, BaseDecoder, Filter, decodable, decode_draft, unpack_step
from sdvideo.codecs.av1.gop_boundary import Error, joined, last_error
from sdvideo.codecs.av1.rate_control import OneLevel, TargetBits, draft_at, level_of, share_of_error
from sdvideo.codecs.av1.svt_process import Progress as CodedSoFar
from sdvideo.codecs.latent.model_loading import load_model, load_prefilter, restorer_id
from sdvideo.codecs.latent.rate_control import ConstantQuality, OneStep, TargetSize, best_scale, step_index
from sdvideo.media.scaling import scaled, scaled_size
from sdvideo.media.source import Source, open_source
from sdvideo.motion.scene_cuts import shots
from sdvideo.runtime.malloc import give_back
from sdvideo.runtime.output_files import check_output, placed, whole_file
from sdvideo.runtime.prefetch import ahead, side_by_side

from . import __version__
from .container import KEY, CodedFrame, Group, Header, Reader, Writer
from .errors import FormatError, SettingError
from .frames import Frame, Picture, StreamInfo
from .settings import DEFAULT_MODEL, EncodeSettings, Progress

if TYPE_CHECKING:  # torch takes seconds
    from sdvideo.codecs.latent.frame_codec import FrameEncoder

log = logging.getLogger("sdvideo")

_PIECE = 1 << 20
# Frames of a group where nobody chose. Of AV1 a key frame and ten of SVT-AV1's mini-GOPs of 16, if the pictures fit
# into so many bytes: at half that length a video takes some 15 % more bits. With latent deltas it makes no difference.
_BASE_KEYINT, _GROUP_ROOM, _LATENT_KEYINT = 161, 400_000_000, 64
_FAR = 0.1  # from the bits that were asked for, to be told
_ROOM = 600_000_000  # bytes for the pictures of the groups in work


@dataclass(frozen=True, slots=True)
class EncodeResult:
    """What came out. path: the file; frames, groups: how many; bytes: of the file; seconds: of work."""

    path: Path
    frames: int
    groups: int
    bytes: int
    seconds: float


def encode(
    source: str | os.PathLike,
    destination: str | os.PathLike | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress = lambda done, total, size, rate: None,
    **settings,
) -> EncodeResult:
    """Encode a video into an .sdv file.

    source: a path, or "-" for standard input. destination: by default, and in a folder, the source's name with .sdv.
    settings: the fields of EncodeSettings. resume: go on from what an interrupted call left beside the destination.
    progress: see settings.py; called after every frame, with an AV1 base now and then. Raises the errors of errors.py.
    """
    begin = time.monotonic()
    chosen = EncodeSettings(**settings)
    if destination is not None and os.fspath(destination) == "-":
        raise SettingError("an .sdv goes into a file, not to standard output; name it")
    path = placed(destination, source, ".sdv")
    check_output(path, source, overwrite)
    if path.suffix.lower() in VIDEOS | PICTURES:
        raise SettingError(f"what is encoded is an .sdv; {path} would be taken for something else")
    with open_source(source) as video, whole_file(path, keep_interrupted=True) as part:
        total = video.count_frames()
        way = _WAYS[chosen.base](video.info, chosen, total)
        with _Store(part, _header(video, way, chosen), resume) as store:
            if video.seekable:
                store.write_tracks(video.track_files())
            bits = _budget(chosen, video.info, total, store.size - store.video_size)
            with ahead(islice(video.frames(), max(0, store.frames - way.back), None)) as frames:
                for group in way.groups(frames, store, bits, total, progress):
                    store.write_group(group)
            if not video.seekable:
                store.write_tracks(video.track_files())
            store.finish()
        _tell_if_missed(path, bits, store.video_size, part.stat().st_size)
    return EncodeResult(path, store.frames, store.groups, path.stat().st_size, time.monotonic() - begin)


def _tell_if_missed(path: Path, bits: float | None, video: int, whole: int) -> None:
    """bits: that the video could take, see _budget; video, whole: bytes of it and of the file."""
    if bits is not None and bits <= 0:
        log.warning(
            "%s: the sound and what else is not video takes %d bytes, more than was asked for", path, whole - video
        )
    elif bits is not None and abs(8 * video - bits) > _FAR * bits:
        log.warning("%s: the video takes %d bytes instead of %d", path, video, bits // 8)


class _LatentWay:
    """Groups of latent deltas to what motion makes of the frame before."""

    back = 0  # how many of the frames before those it codes it looks at

    def __init__(self, info: StreamInfo, settings: EncodeSettings, total: int | None):
        from sdvideo.codecs.latent.quantizers import (
            quantiser_named,  # with torch, which takes seconds and base av1 does without
        )

        self._info, self._settings, self._keyint = info, settings, settings.keyint or _LATENT_KEYINT
        self._model = load_model(
            settings.model, device=settings.device, colour=info.colour, refine=settings.preset == "best"
        )
        self._quantiser = quantiser_named(settings.quantizer, self._model)
        self.model, self.coder = self._model.id, self._quantiser.coder
        sizes = {"channels": self._model.coder.channels, "block": self._model.block}
        self.latent = {**sizes, **self._model.description}
        self.scale = _scale(settings, info, total)
        self.restorer = None if self.scale == 1 else restorer_id()

    def groups(
        self, frames: Iterable[Frame], store: _Store, bits: float | None, total: int | None, progress: Progress
    ) -> Iterator[Group]:
        """Code the frames that follow those in the store, within bits if given."""
        from sdvideo.codecs.latent.frame_codec import FrameEncoder

        info, settings = self._info, self._settings
        width, height = scaled_size(info.width, info.height, self.scale)
        if settings.quantizer != "uniform":
            rate = OneStep()
        elif bits is None:
            rate = ConstantQuality(step_index(settings.quality, self.scale))
        else:
            rate = TargetSize(bits, total, self._keyint, width * height)
        for frame in store.earlier:
            rate.spent(frame.kind == KEY, frame.step, len(frame.data))
        encoder = FrameEncoder(self._model, height, width, rate, self._keyint, settings.preset, self._quantiser)
        frames = (replace(frame, picture=scaled(frame.picture, width, height)) for frame in frames)
        if settings.quantizer == "palette":
            frames = _foreseen(frames, encoder, self._keyint)
        first, coded, size = store.frames, [], 0
        for frame in frames:
            following = encoder.encode(frame)
            if following.kind == KEY and coded:
                yield Group(first, tuple(coded))
                first, coded, size = store.frames, [], 0
            coded.append(following)
            size += len(following.data)
            progress(first + len(coded), total, store.video_size + size, info.rate)
        if coded:
            yield Group(first, tuple(coded))


def _foreseen(frames: Iterable[Frame], encoder: FrameEncoder, keyint: int) -> Iterator[Frame]:
    """The same frames; the encoder has seen all of a group before its first comes."""
    for shot in shots(frames, keyint):
        encoder.foresee(shot)
        yield from shot


class _BaseWay:
    """Groups of AV1, at a scale that suits each."""

    back = 1
    coder, latent = "av1", None
    scale, restorer = Fraction(1), None  # of the header: each group has a scale of its own

    def __init__(self, info: StreamInfo, settings: EncodeSettings, total: int | None):
        self._info, self._settings = info, settings
        self._keyint = settings.keyint or min(_BASE_KEYINT, max(1, _GROUP_ROOM // _picture_bytes(info)))
        self.model = restorer_id()

    @cached_property
    def _prefilter(self) -> Filter | None:
        return None if self._settings.preset == "fast" else load_prefilter(device=self._settings.device)

    def groups(
        self, frames: Iterable[Frame], store: _Store, bits: float | None, total: int | None, progress: Progress
    ) -> Iterator[Group]:
        """Code the frames that follow those in the store, within bits if given."""
        info, settings = self._info, self._settings
        scale = settings.scale and Fraction(settings.scale)
        if bits is None:
            allocation = OneLevel(level_of(settings.quality), scale)
        else:
            left = bits - sum(8 * len(frame.data) for frame in store.earlier)
            step = store.earlier[-1].step if store.earlier else None
            allocation = TargetBits(left, total - store.frames, info.width * info.height, scale, step)
        frames, last = iter(frames), None
        if store.earlier and (before := next(frames, None)):
            last = self._last(before.picture, self._shown(store.earlier), store.earlier[-1].step)
        workers = _fitting(info, self._keyint) if settings.workers is None else settings.workers
        foreseen = side_by_side(
            lambda shot: allocation.foresee(_pictures(shot)),
            shots(frames, self._keyint),
            workers,
            meanwhile=lambda: self._prefilter,  # torch takes seconds
        )
        for shot, scale in foreseen:
            pictures = _pictures(shot)
            error = last and last_error(*last, pictures[0])

            def tell(done: int, size: int) -> None:
                progress(store.frames + done, total, store.video_size + size, info.rate)

            underway = _onwards(tell, len(shot))
            base = allocation.code(pictures, partial(self._code, shot, error, underway), scale)
            tell(len(shot), base.bits // 8)
            coded = base.coded(shot)
            last = self._last(pictures[-1], base.shown, coded[-1].step)
            give_back()  # what decoding it took: in an hour it lies about among the pictures of others
            yield Group(store.frames, coded)

    def _code(
        self, shot: list[Frame], error: Error | None, progress: CodedSoFar, level: float, scale: Fraction
    ) -> Base:
        """One group, its first picture with its share of the last error, if there is one."""
        pictures = _pictures(shot)
        if error is not None:
            pictures[0] = joined(pictures[0], error, share_of_error(level))

        def looked_at() -> Base:
            draft = draft_at(pictures, level, self._settings.preset, scale, progress, self._prefilter)
            return replace(draft.packed(), shown=_last_of(decode_draft(draft, self._info.width, self._info.height)))

        return decodable(looked_at)

    def _shown(self, coded: Sequence[CodedFrame]) -> Picture:
        """The last base picture of these, decoded from its key frame on."""
        start = max(number for number, frame in enumerate(coded) if frame.kind == KEY)
        return _last_of(map(BaseDecoder(self._info.width, self._info.height).decode, coded[start:]))

    def _last(self, picture: Picture, shown: Picture, step: int) -> tuple[Picture, Picture, Picture]:
        """A last picture as it was, as it was meant, and as it is shown, as far as that is known without a network."""
        size = self._info.width, self._info.height
        meant = picture
        if self._prefilter is not None:
            (readied,) = self._prefilter([scaled(picture, shown.width, shown.height)], *unpack_step(step))
            meant = scaled(readied, *size)
        return picture, meant, scaled(shown, *size)


def _last_of(pictures: Iterable[Picture]) -> Picture:
    return deque(pictures, maxlen=1).pop()  # only one of a group's pictures is kept


def _pictures(shot: list[Frame]) -> list[Picture]:
    return [frame.picture for frame in shot]


def _onwards(progress: CodedSoFar, end: int) -> CodedSoFar:
    """The same for a group that may be coded several times: where it is further than it was, but not yet at its end."""
    furthest = 0

    def tell(frames: int, size: int) -> None:
        nonlocal furthest
        if furthest < frames < end:
            furthest = frames
            progress(frames, size)

    return tell


def _picture_bytes(info: StreamInfo) -> int:
    return info.width * info.height * 3 // 2


def _fitting(info: StreamInfo, keyint: int) -> int:
    """How many groups to prepare while one is coded: with it one for each core, if there is room for all of them."""
    pictures = keyint * _picture_bytes(info)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(max(1, cores - 1), _ROOM // pictures - 1))


_WAYS = {"none": _LatentWay, "av1": _BaseWay}


class _Store:
    """The .sdv file being written: a new one, or what an interrupted encoding left of the same one."""

    def __init__(self, part: Path, header: Header, resume: bool):
        self.earlier: list[CodedFrame] = []
        self.video_size = 0
        self._track_bytes: tuple[int, ...] = ()
        self.groups = 0
        if resume and self._same(part, header):
            self._writer, self.frames, self._track_bytes = Writer.resume(part)
            log.info("going on after %d frames", self.frames)
        else:
            if resume and part.stat().st_size:
                log.warning("what an interrupted call left does not fit this input and these settings: beginning anew")
            self._writer, self.frames = Writer(part.open("wb"), header), 0

    def _same(self, part: Path, header: Header) -> bool:
        try:
            with Reader(part) as reader:
                if reader.header == header:
                    self.groups = len(reader.groups)
                    self.video_size = sum(entry.end - entry.offset for entry in reader.groups)
                    self.earlier = [f for i in range(self.groups) for f in reader.read_group(i).frames]
                    return True
        except FormatError:
            pass  # nothing to go on from
        return False

    @property
    def size(self) -> int:
        return self._writer.file.tell()

    def write_tracks(self, files: list[Path]) -> None:
        for blob, path in enumerate(files):
            with path.open("rb") as file:
                file.seek(self._track_bytes[blob] if blob < len(self._track_bytes) else 0)
                while piece := file.read(_PIECE):
                    self._writer.write_track(blob, piece)

    def write_group(self, group: Group) -> None:
        self.video_size += self._writer.write_group(group)
        self.frames += len(group.frames)
        self.groups += 1

    def finish(self) -> None:
        self._writer.finish()

    def __enter__(self) -> _Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.file.close()


def _header(video: Source, way: _LatentWay | _BaseWay, settings: EncodeSettings) -> Header:
    # On a short clip every byte shows: what has its default value, or stands elsewhere in the header, is left out.
    usual = {name: getattr(settings, name) for name in ("device", "base", "model", "workers")}
    usual = {one.name: usual.get(one.name, one.default) for one in fields(settings)}
    kept = {name: value for name, value in asdict(settings).items() if value != usual[name]}
    return Header(
        info=video.info,
        model=way.model,
        base=settings.base,
        coder=way.coder,
        latent=way.latent,
        settings=kept,
        blobs=video.track_forms,
        writer=f"sdvideo {__version__}",
        scale=way.scale,
        restorer=way.restorer,
    )


def _scale(settings: EncodeSettings, info: StreamInfo, total: int | None) -> Fraction:
    """At which latents are coded: the one given, else for the embedded model the best there is."""
    if settings.scale is not None or settings.model != DEFAULT_MODEL:
        return Fraction(settings.scale or 1)
    bits = None
    if settings.quality is None:
        bits = _budget(settings, info, total, 0) / total / (info.width * info.height)
    return best_scale(settings.quality, bits, (info.width, info.height))


def _budget(settings: EncodeSettings, info: StreamInfo, total: int | None, overhead: int) -> float | None:
    """The bits that the video may take, None at constant quality. overhead: bytes of the file that are not video."""
    if settings.size is None and settings.bitrate is None:
        return None
    if total is None:
        raise SettingError("bitrate and size need an input that can be read twice, not a pipe; give a quality")
    if settings.size is not None:
        return float((settings.size - overhead) * 8)
    if info.rate is None:
        raise SettingError("the input does not say its frame rate, so a bitrate means nothing; give a size")
    return float(settings.bitrate * total / info.rate)
