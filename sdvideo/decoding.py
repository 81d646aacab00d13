"""The way from an .sdv file to pictures and to a video.

base none:  container -> entropy -> dequantise -> synthesise(p, delta) -> mux
                           ^ predict: motion, warp of the decoded reference
base av1:   container -> AV1 -> restore -> mux
                                   ^ warp of the restored picture before
"""

from __future__ import annotations

import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np

from .ahead import ahead
from .base import BaseDecoder, unpack_step
from .container import KEY, CodedFrame, Damage, Reader
from .container import verify as verify_chunks
from .errors import DamagedError, FormatError, SettingError
from .header import MAX_AREA, Header
from .models import add_denoiser, load_model, load_restorer
from .mux import open_copy, open_sink
from .output import check_output, whole_file
from .picture import Frame, Picture, StreamInfo
from .scaling import scaled_size
from .settings import DEFAULT_MODEL, DENOISE_STEPS

if TYPE_CHECKING:  # torch takes seconds
    from .enlarge import SmallFrameDecoder
    from .latent_space import LatentSpace
    from .latents import LatentModel
    from .loop import FrameDecoder
    from .restore import Restorer, Traced
    from .symbols import FrameSymbols


class BaseFrameDecoder:
    """The same two steps for a file with an AV1 base, whose integers are the base's pictures."""

    def __init__(self, restorer: Restorer, height: int, width: int):
        from .restore import Canvas  # with torch, which takes seconds

        self._decoder, self._canvas = BaseDecoder(width, height), Canvas(restorer, width, height)

    def parse(self, coded: CodedFrame) -> Traced:
        """The base picture of the next frame, made ready. Raises DamagedError where its data does not decode to one."""
        return self._canvas.trace(self._decoder.decode(coded), coded.kind == KEY)

    def reconstruct(self, coded: CodedFrame, traced: Traced) -> Frame:
        """The picture of the next frame, given its base."""
        crf, _ = unpack_step(coded.step)
        return Frame(coded.pts, coded.duration, self._canvas.paint(traced, crf))


AnyDecoder: TypeAlias = "FrameDecoder | BaseFrameDecoder | SmallFrameDecoder"
Parsed = TypeVar("Parsed")
_KEPT = 256  # frames of the last call for latents, which the next one may share


class _Cursor:
    """Where decoding stands in a video: it goes on from there, or from a key frame where that is no way."""

    def __init__(self):
        self._group, self._frames, self._next = -1, (), 0

    def steps(
        self, video: VideoReader, number: int, new_decoder: Callable[[], AnyDecoder]
    ) -> Iterator[tuple[AnyDecoder, CodedFrame, FrameSymbols | Traced]]:
        """For each frame up to this one: its decoder, which is to reconstruct it next, the frame, its integers."""
        group, place = video._place(number)
        if group != self._group or place < self._next:
            self._frames, self._decoder, self._next = video._read(group), new_decoder(), 0
        while self._next <= place:
            self._group = -1  # until the frame is done: an error leaves the decoder halfway
            coded = self._frames[self._next]
            yield self._decoder, coded, video._parse(self._decoder.parse, coded, group, self._next)
            self._group, self._next = group, self._next + 1


class _Latents:
    """What VideoReader.latents keeps from call to call: where it stands, and the frames it gave last."""

    def __init__(self, path: str, header: Header):
        """Raises SettingError if the file holds none, FormatError if this version cannot read them."""
        from .latent_space import LatentSpace  # with what follows it imports torch, which takes seconds
        from .loop import FrameDecoder
        from .quantisers import quantiser_for

        if header.base != "none" or header.model.name == DEFAULT_MODEL:
            raise SettingError(
                f"{path} has base {header.base}, model {header.model.name} and no latents that stand by themselves: "
                "encode with base none and an image autoencoder of diffusers as the model"
            )
        width, height = scaled_size(header.info.width, header.info.height, header.scale)
        space = LatentSpace(header.latent["channels"], header.latent["block"])
        _check_fit(space, header)
        self.shape = space.shape(height, width)
        if math.prod(self.shape) > MAX_AREA:
            raise FormatError(f"{path}: a latent of {' x '.join(map(str, self.shape))} has more than {MAX_AREA} values")
        self._new_decoder = partial(FrameDecoder, space, height, width, quantiser_for(header.coder, space))
        self._cursor = _Cursor()
        self._recent: dict[int, np.ndarray] = {}

    def of(self, video: VideoReader, numbers: range) -> np.ndarray:
        """Frames in rising order -> float32 [frames, channels, h, w]."""
        from .latent_space import in_deviations

        found = np.empty((len(numbers), *self.shape), np.float32)
        recent, self._recent = self._recent, {}
        for at, number in enumerate(numbers):
            values = recent[number] if number in recent else self._values(video, number)
            found[at] = in_deviations(values)
            if at >= len(numbers) - _KEPT:
                self._recent[number] = values
        return found

    def _values(self, video: VideoReader, number: int) -> np.ndarray:
        for decoder, coded, symbols in self._cursor.steps(video, number, self._new_decoder):
            reference = decoder.advance(coded, symbols)
        return reference.values


class VideoReader:
    """A video in an .sdv file: its length, its frames by number, its frames in order.

        with sdvideo.open("clip.sdv") as video:
            print(len(video), video.info)
            first, last = video[0], video[-1]
            for frame in video: ...

    A frame by number decodes its group from the group's key frame on, and no other group; frames asked for in rising
    order are decoded once. Not for use by several threads at once. model: where to find the model the file names, if
    not under that name on this machine; denoise: how many steps of a diffusion model clean each latent before it is
    painted, 0 to 66; denoiser: the pipeline that is from, if not the one the model is part of (see denoise.py);
    tolerant: leave damaged groups out instead of stopping at them.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        model: str | None = None,
        device: str = "auto",
        denoise: int = 0,
        denoiser: str | None = None,
        tolerant: bool = False,
    ):
        if not 0 <= denoise <= DENOISE_STEPS:
            raise SettingError(f"denoise is {denoise}; it can be 0 to {DENOISE_STEPS}")
        self._reader = Reader(path, tolerant=tolerant)
        if denoise and (self.base == "av1" or self._reader.header.model.name == DEFAULT_MODEL):
            self._reader.close()
            raise SettingError(f"{path} cannot be denoised: it was not made with a diffusers autoencoder")
        self._name, self._device = model, device
        self._denoise, self._denoiser = denoise, denoiser
        self._model: LatentModel | Restorer | None = None
        self._restorer: Restorer | None = None  # of small pictures
        self._lock = threading.Lock()  # iterating reads groups in a thread of its own
        self._symbols: FrameSymbols | Traced | None = None
        self._cursor = _Cursor()
        self._latents: _Latents | None = None
        self._starts = np.array([entry.first for entry in self._reader.groups], np.int64)

    @property
    def info(self) -> StreamInfo:
        """What the file says of the video."""
        return self._reader.header.info

    @property
    def base(self) -> str:
        """What its pictures start from: "none" or "av1"."""
        return self._reader.header.base

    @property
    def complete(self) -> bool:
        """Does the file have its end, or was it cut short?"""
        return self._reader.complete

    def __len__(self) -> int:
        return self._reader.frame_count

    def __getitem__(self, index: int) -> Frame:
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        for decoder, coded, symbols in self._cursor.steps(self, number, self._new_decoder):
            self._symbols = symbols
            frame = decoder.reconstruct(coded, symbols)
        return frame

    def __iter__(self) -> Iterator[Frame]:
        decoder = self._new_decoder()
        with ahead(self._parsed_frames(decoder)) as parsed:
            for coded, self._symbols in parsed:
                yield decoder.reconstruct(coded, self._symbols)

    def latents(self, start: int | None = None, stop: int | None = None) -> np.ndarray:
        """The latents of frames start up to but not including stop, by the rules of slices: by default all.

        Returns float32 [frames, channels, ceil(height / block), ceil(width / block)], of the sides of the pictures as
        they were coded, in the scale diffusion models are trained on, (raw - shift_factor) * scaling_factor: about unit
        deviation, bit for bit the same on every machine.
        No picture is decoded, no network runs, the autoencoder is not even looked for. Calls in rising order go on from
        the last one and share its frames, others start from a group's key frame.
        Raises SettingError for files that hold no such latents: with an AV1 base, or of the embedded model.
        """
        if self._latents is None:
            self._latents = _Latents(self._reader.path, self._reader.header)
        return self._latents.of(self, range(*slice(start, stop).indices(len(self))))

    def symbols(self) -> FrameSymbols | Picture | None:
        """The decoded integers of the frame that came last: latent and motion, or the picture of the AV1 base."""
        return self._symbols.base if self.base == "av1" and self._symbols else self._symbols

    def coded_frames(self) -> Iterator[CodedFrame]:
        """All frames as they are in the file."""
        for group in range(len(self._reader.groups)):
            yield from self._read(group)

    def check(self) -> None:
        """Decode the integers of every frame, and make no pictures of them. Raises DamagedError where one does not."""
        if self.base == "av1":
            parse = BaseDecoder(self.info.width, self.info.height).decode
        else:
            parse = self._new_decoder().parse
        for group in range(len(self._reader.groups)):
            for place, coded in enumerate(self._read(group)):
                self._parse(parse, coded, group, place)

    def _parsed_frames(self, decoder: AnyDecoder) -> Iterator[tuple[CodedFrame, FrameSymbols | Traced]]:
        for group in range(len(self._reader.groups)):
            for place, coded in enumerate(self._read(group)):
                yield coded, self._parse(decoder.parse, coded, group, place)

    def _parse(self, parse: Callable[[CodedFrame], Parsed], coded: CodedFrame, group: int, place: int) -> Parsed:
        try:
            return parse(coded)
        except DamagedError as error:
            number = self._reader.groups[group].first + place
            raise DamagedError(f"{self._reader.path}: group {group}, frame {number}: {error}") from error

    def _read(self, group: int) -> tuple[CodedFrame, ...]:
        with self._lock:
            return self._reader.read_group(group).frames

    def _place(self, number: int) -> tuple[int, int]:
        """The group of a frame, and which of its frames it is."""
        group = int(np.searchsorted(self._starts, number, side="right")) - 1
        return group, number - int(self._starts[group])

    def _new_decoder(self) -> AnyDecoder:
        header = self._reader.header
        size = self.info.height, self.info.width
        if self.base == "av1":
            if self._model is None:
                self._model = load_restorer(device=self._device, expected=header.model)
            return BaseFrameDecoder(self._model, *size)
        if self._model is None:
            model = load_model(
                self._name,
                device=self._device,
                colour=header.info.colour,
                expected=header.model,
                latent=header.latent,
            )
            _check_fit(model, header)
            if self._denoise:
                name = self._denoiser or self._name
                add_denoiser(model, self._denoise, name, device=self._device, expected=header.model)
            self._model = model
        from .loop import FrameDecoder
        from .quantisers import quantiser_for

        quantiser = quantiser_for(header.coder, self._model)
        if header.scale == 1:
            return FrameDecoder(self._model, *size, quantiser)
        from .enlarge import SmallFrameDecoder

        if self._restorer is None:
            self._restorer = load_restorer(device=self._device, expected=header.restorer)
        width, height = scaled_size(self.info.width, self.info.height, header.scale)
        return SmallFrameDecoder(FrameDecoder(self._model, height, width, quantiser), self._restorer, *size)

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def track_files(self) -> Iterator[list[Path]]:
        """The copied audio and subtitle streams as temporary files, in the order of the header's blobs."""
        with tempfile.TemporaryDirectory(prefix="sdvideo-") as folder:
            paths = []
            for blob, form in enumerate(self._reader.header.blobs):
                path = Path(folder) / f"tracks{blob}.{form}"
                with path.open("wb") as file:
                    for piece in self._reader.track_data(blob):
                        file.write(piece)
                paths.append(path)
            yield paths


def _check_fit(model: LatentModel | LatentSpace, header: Header) -> None:
    for name, here in (("channels", model.coder.channels), ("block", model.block)):
        if header.latent[name] != here:
            raise FormatError(f"the header says {name} {header.latent[name]}, but its model has {here}")


@dataclass(frozen=True, slots=True)
class DecodeResult:
    """What came out. path: the file, None for a pipe; frames: how many; seconds: of work."""

    path: Path | None
    frames: int
    seconds: float


def decode(
    source: str | os.PathLike,
    destination: str | os.PathLike | None = None,
    *,
    overwrite: bool = False,
    crf: int | None = None,
    lossless: bool = False,
    model: str | None = None,
    device: str = "auto",
    denoise: int = 0,
    denoiser: str | None = None,
    progress: Callable[[int, int | None, int], None] = lambda done, total, size: None,
) -> DecodeResult:
    """Decode an .sdv file into a video, or a file of one frame into a picture.

    destination: .mp4, .mkv, .mov or .y4m, for one frame also .png, .jpg or .webp; "-" is standard output (fragmented
    MP4); by default the source's name with .decoded.mp4, or .decoded.png for one frame without sound. model, denoise,
    denoiser: see VideoReader. crf, lossless: of the H.264 the pictures are put into; a WebP can be lossless, too.
    progress: called after every frame with (frames done, frames in all, 0, average frames per second or None). Raises
    the errors of errors.py; a file that was cut short or is damaged leaves nothing under the final name.
    """
    begin = time.monotonic()
    if crf is not None and not 0 <= crf <= 51:
        raise SettingError(f"crf is {crf}; it can be 0 to 51")
    with ExitStack() as stack:
        video = stack.enter_context(VideoReader(source, model=model, device=device, denoise=denoise, denoiser=denoiser))
        if not video.complete:
            raise DamagedError(f"{source}: cut short after frame {len(video)}")
        if destination is not None and os.fspath(destination) == "-":
            path = target = None
        else:
            path = Path(destination) if destination is not None else default_output(source, video)
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
        frames = stack.enter_context(ahead(video))
        for done, frame in enumerate(frames, 1):
            sink.write(frame)
            progress(done, len(video), 0)
        sink.close()
    return DecodeResult(path, len(video), time.monotonic() - begin)


def preview(
    source: str | os.PathLike,
    destination: str | os.PathLike | None = None,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int | None, int], None] = lambda done, total, size: None,
) -> DecodeResult:
    """Copy the AV1 base of an .sdv file into a video that any AV1 player shows, with the sound; nothing is decoded.

    destination: .mp4, .mkv or .mov; by default the source's name with .preview.mp4. Raises the errors of errors.py, a
    SettingError for a file without a base.
    """
    begin = time.monotonic()
    with ExitStack() as stack:
        video = stack.enter_context(VideoReader(source))
        if video.base != "av1":
            raise SettingError(f"{source} has no AV1 base to show; decode it")
        path = Path(destination) if destination is not None else Path(source).with_suffix(".preview.mp4")
        check_output(path, source, overwrite)
        part = stack.enter_context(whole_file(path))
        files = stack.enter_context(video.track_files())
        frames = video.coded_frames()
        first = next(frames, None)
        if first is None:
            raise DamagedError(f"{source}: holds no frame")
        form = path.suffix.lstrip(".").lower()
        sink = stack.enter_context(open_copy(part, video.info, first.data, track_files=files, format=form))
        for done, frame in enumerate(chain([first], frames), 1):
            sink.write(frame)
            progress(done, len(video), 0)
        sink.close()
    return DecodeResult(path, len(video), time.monotonic() - begin)


def verify(path: str | os.PathLike, *, device: str = "auto") -> list[Damage]:
    """Check a whole file: every checksum, then the integers of every frame. Returns what is wrong, [] if nothing."""
    damage = verify_chunks(path)
    if not damage:
        with VideoReader(path, device=device) as video:
            try:
                video.check()
            except DamagedError as error:
                damage.append(Damage(0, str(error)))
    return damage


def default_output(source: str | os.PathLike, video: VideoReader) -> Path:
    still = len(video) == 1 and not video.info.tracks
    return Path(source).with_suffix(".decoded.png" if still else ".decoded.mp4")
