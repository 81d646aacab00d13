"""The way from a video to an .sdv file.

demux -> predict -> analyse -> quantise -> entropy -> container
            ^ motion, warp of the decoded reference
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np

from . import __version__
from .ahead import ahead
from .container import KEY, PREDICTED, CodedFrame, Group, Header, Reader, Writer
from .demux import Source, open_source
from .errors import FormatError, SettingError
from .latents import LatentModel, blank_symbols
from .models import load_model
from .motion import BLOCK, Estimator, compensate
from .output import check_output, whole_file
from .picture import Frame, Picture, StreamInfo
from .predict import is_cut, unchanged
from .quantise import LAMBDA, Chooser, dequantise, step_size, worth_coding
from .rate import ConstantQuality, RateControl, TargetSize
from .settings import EncodeSettings, step_index
from .symbols import FramePlan, code_frame

_PIECE = 1 << 20
Progress = Callable[[int, "int | None", int, "Fraction | None"], None]


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

    source: a path, or "-" for standard input. destination: by default the source's name with .sdv. settings: the
    fields of EncodeSettings. resume: go on from what an interrupted call left beside the destination. progress: called
    after every frame with (frames done, frames in all or None, bytes of video so far, average frames per second or
    None). Raises the errors of errors.py.
    """
    begin = time.monotonic()
    chosen = EncodeSettings(**settings)
    path = Path(destination) if destination is not None else default_output(source)
    check_output(path, source, overwrite)
    with open_source(source) as video, whole_file(path, keep_interrupted=True) as part:
        model = load_model(chosen.model, device=chosen.device, colour=video.info.colour)
        with _Store(part, _header(video, model, chosen), resume) as store:
            if video.seekable:
                store.write_tracks(video.track_files())
            total = video.count_frames()
            rate = _rate_control(chosen, video.info, total, store.size - store.video_size)
            for frame in store.earlier:
                rate.spent(frame.kind == KEY, frame.step, len(frame.data))
            encoder = FrameEncoder(model, video.info.height, video.info.width, rate, chosen.keyint, chosen.preset)
            with ahead(islice(video.frames(), store.frames, None)) as frames:
                for group in _groups(frames, encoder, store, total, video.info.rate, progress):
                    store.write_group(group)
            if not video.seekable:
                store.write_tracks(video.track_files())
            store.finish()
    return EncodeResult(path, store.frames, store.groups, path.stat().st_size, time.monotonic() - begin)


class FrameEncoder:
    """Codes frame after frame, each against the one before as the decoder will have it."""

    def __init__(
        self,
        model: LatentModel,
        height: int,
        width: int,
        rate: RateControl,
        keyint: int,
        preset: str = "balanced",
    ):
        self._model, self._rate, self._keyint, self._preset = model, rate, keyint, preset
        self._height, self._width = height, width
        self._blank = blank_symbols(model, height, width)
        self._in_group = 0

    def encode(self, frame: Frame) -> CodedFrame:
        """The next frame of the video; a key frame where a group has to begin."""
        model, source = self._model, self._model.source(frame.picture)
        key = self._in_group in (0, self._keyint)
        if not key:
            index = self._rate.index(key=False)
            motion, prediction, key = self._predict(frame.picture, source, step_size(index))
        if key:
            index = self._rate.index(key=True)
            self._begin_group()
            motion, prediction = self._blank.motion, model.blank(self._height, self._width)
        step = step_size(index)

        units = model.analyse(source, prediction, step) / np.float32(step)
        coded = np.ones_like(self.symbols.coded)
        if not key:
            coded = worth_coding(units) & ~unchanged(frame.picture, self._last_picture, model.block)
        end = Chooser()
        symbols = code_frame(end, model.coder, self.symbols, key, index, FramePlan(motion, coded, units))
        data = b"" if symbols.still else end.finish()
        self._reference = model.synthesise(prediction, dequantise(symbols.latent, step), symbols.coded, step)

        self.symbols, self._last_source, self._last_picture = symbols, source, frame.picture
        self._in_group += 1
        self._rate.spent(key, index, len(data))
        return CodedFrame(frame.pts, frame.duration, KEY if key else PREDICTED, index, data)

    def _begin_group(self) -> None:
        self._in_group = 0
        self.symbols = self._blank
        self._estimator = Estimator(*self._blank.motion.shape[1:], self._preset)

    def _predict(self, picture: Picture, source, step: float):
        """Motion, prediction, and whether the prediction is no good at all."""
        seen = self._model.luma(self._reference)
        if seen is None:
            seen = self._model.luma(self._last_source)
        luma = self._model.luma(source)
        motion = self._estimator.estimate(luma, seen, penalty=LAMBDA * step**2)
        motion[:, unchanged(picture, self._last_picture, BLOCK)] = 0
        prediction = self._model.predict(self._reference, motion)
        warped = self._model.luma(prediction)
        return motion, prediction, is_cut(luma, compensate(seen, motion) if warped is None else warped)


def _groups(
    frames: Iterable[Frame],
    encoder: FrameEncoder,
    store: _Store,
    total: int | None,
    rate: Fraction | None,
    progress: Progress,
) -> Iterator[Group]:
    """Code the frames that follow those in the store, group by group."""
    first, coded, size = store.frames, [], 0
    for frame in frames:
        following = encoder.encode(frame)
        if following.kind == KEY and coded:
            yield Group(first, tuple(coded))
            first, coded, size = store.frames, [], 0
        coded.append(following)
        size += len(following.data)
        progress(first + len(coded), total, store.video_size + size, rate)
    if coded:
        yield Group(first, tuple(coded))


class _Store:
    """The .sdv file being written: a new one, or what an interrupted encoding left of the same one."""

    def __init__(self, part: Path, header: Header, resume: bool):
        self.earlier: list[CodedFrame] = []
        self.video_size = 0
        self._track_bytes: tuple[int, ...] = ()
        self.groups = 0
        if resume and part.exists() and self._same(part, header):
            self._writer, self.frames, self._track_bytes = Writer.resume(part)
        else:
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


def default_output(source: str | os.PathLike) -> Path:
    if os.fspath(source) == "-":
        raise SettingError("input from a pipe has no name to call the output by; give one with -o")
    return Path(source).with_suffix(".sdv")


def _header(video: Source, model: LatentModel, settings: EncodeSettings) -> Header:
    kept = {name: value for name, value in asdict(settings).items() if name != "device" and value is not None}
    return Header(
        info=video.info,
        model=model.id,
        base=settings.base,
        coder=model.coder.name,
        latent={"channels": model.coder.channels, "block": model.block, **model.description},
        settings=kept,
        blobs=video.track_forms,
        writer=f"sdvideo {__version__}",
    )


def _rate_control(settings: EncodeSettings, info: StreamInfo, total: int | None, overhead: int) -> RateControl:
    """overhead: bytes of the file that are not video."""
    if settings.quality is not None:
        return ConstantQuality(step_index(settings.quality))
    if total is None:
        raise SettingError("bitrate and size need an input that can be read twice, not a pipe; give a quality")
    if settings.size is not None:
        bits = (settings.size - overhead) * 8
    elif info.rate is None:
        raise SettingError("the input does not say its frame rate, so a bitrate means nothing; give a size")
    else:
        bits = settings.bitrate * total / info.rate
    return TargetSize(float(bits), total, settings.keyint, info.width * info.height)
