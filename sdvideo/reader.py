"""An .sdv file as a video: its frames by number and in order, its latents, its tracks, and what is lost of them."""

from __future__ import annotations

import operator
import os
import tempfile
import threading
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np

from sdvideo.codecs.interface import DENOISE, LATENTS, LOOK, DecodeOptions, FrameDecoder, LatentDecoder
from sdvideo.codecs.registry import codec_for_header
from sdvideo.container.recovery import group_damage
from sdvideo.media.track_files import extract_tracks, recover_tracks
from sdvideo.runtime.forked import leave_inherited_threads, never_free
from sdvideo.runtime.malloc import trim_heap
from sdvideo.runtime.prefetch import prefetch, prefetch_in_turn

from .container import PREDICTED, CodedFrame, Damage, GroupEntry, Header, Reader
from .errors import DamagedError, FormatError, SettingError
from .frames import Frame, Picture, StreamInfo, grey
from .settings import DENOISE_STEPS, DEVICES, check_choice, look_of, whole

if TYPE_CHECKING:
    from sdvideo.codecs.interface import ExportSink

Result = TypeVar("Result")
_BUFFER = 64_000_000  # bytes for pictures of the group after the one that is shown
_MIN_BUFFERED = 16  # pictures that must fit into it, for a group to be decoded beside the one that is shown
_LATENTS_KEPT = 256  # of the last call, which the next one may share


class _Cursor:
    """The place where decoding stands in a video: it goes on from there if it can, else from a key frame."""

    def __init__(self) -> None:
        self._group, self._next = -1, 0
        self._frames: Sequence[CodedFrame] = ()
        self._decoder: Any = None

    def steps(
        self, video: VideoReader, number: int, new_decoder: Callable[[], Any]
    ) -> Iterator[tuple[Any, CodedFrame, Any]]:
        """For each frame up to this one: its decoder, the frame and its symbols.

        The caller must reconstruct each frame before it asks for the next one.
        """
        group, place = video._place(number)
        if group != self._group or place < self._next:
            self._frames, self._decoder, self._next = video._read(group), new_decoder(), 0
        while self._next <= place:
            self._group = -1  # until the frame is done: an error leaves the decoder halfway
            coded = self._frames[self._next]
            yield self._decoder, coded, video._parse(self._decoder.parse, coded, group, self._next)
            self._group, self._next = group, self._next + 1


class _LatentCache:
    """What VideoReader.latents keeps from call to call: where decoding stands, and the latents it returned last."""

    def __init__(self, decoder: LatentDecoder):
        self._decoder, self._cursor = decoder, _Cursor()
        self._recent: dict[int, np.ndarray] = {}

    def read(self, video: VideoReader, numbers: range) -> np.ndarray:
        """Frames in rising order -> float32 [frames, channels, h, w]."""
        found = np.empty((len(numbers), *self._decoder.shape), np.float32)
        recent, self._recent = self._recent, {}
        for at, number in enumerate(numbers):
            latent = recent[number] if number in recent else self._decode(video, number)
            found[at] = latent
            if at >= len(numbers) - _LATENTS_KEPT:
                self._recent[number] = latent
        return found

    def _decode(self, video: VideoReader, number: int) -> np.ndarray:
        latent: np.ndarray
        for decoder, coded, symbols in self._cursor.steps(video, number, self._decoder.frame_decoder):
            latent = decoder.latent(coded, symbols)
        return latent


class VideoReader:
    """A video in an .sdv file: its length, its frames by number, its frames in order.

        with sdvideo.open("clip.sdv") as video:
            print(len(video), video.info)
            first, last = video[0], video[-1]
            for frame in video: ...

    A frame by number decodes its group from the group's key frame on, and no other group. Frames asked for in rising
    order are decoded once. A slice is a list of frames. Threads may share a reader; they wait for each other. In a
    forked process, and where it is unpickled, it opens the file again.

    model: the model that the file was made with, a folder or a Hub id; not needed if it comes with this package or is
    in the cache of the Hub. device: "auto", "cpu" or "cuda". denoise: diffusion steps that clean each latent before its
    picture is made, 0 to 66; denoiser: the pipeline they are from, if not the one that the model is part of (see
    `codecs/latent/denoise.py`). look: how base av1 is painted, "faithful", "natural" or between, 0 to 1; if not given,
    as the file says.

    tolerant: read a damaged file. It has as many frames as it had, at their times. A lost frame shows the last intact
    picture before it, else the first one after it, else grey. A file that was cut short ends with its last whole group.

    Raises SourceError if the file cannot be read, FormatError if it is not an .sdv file that this version understands,
    DamagedError if it is damaged, SettingError for options that do not fit the file; ModelError when the first frame is
    decoded and the model is not there.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        model: str | None = None,
        device: str = "auto",
        denoise: int = 0,
        denoiser: str | None = None,
        look: float | str | None = None,
        tolerant: bool = False,
    ):
        if not 0 <= whole("denoise", denoise) <= DENOISE_STEPS:
            raise SettingError(f"denoise is {denoise}; it can be 0 to {DENOISE_STEPS}")
        check_choice("device", device, DEVICES)
        self._path, self._tolerant = os.fspath(path), tolerant
        self._options = DecodeOptions(model, device, denoise, denoiser, None if look is None else look_of(look))
        self.lost_tracks: list[str] = []  # in words: what track_files had to leave out
        self._closed = False
        self._open()

    def _open(self) -> None:
        """Open the file, and begin with nothing decoded."""
        self._process = os.getpid()
        self._reader = Reader(self._path, tolerant=self._tolerant)
        try:
            self._codec = self._with_path(codec_for_header, self._reader.header)
            if self._options.denoise and DENOISE not in self.features:
                raise SettingError(f"{self._path} cannot be denoised: it was not made with a diffusers autoencoder")
            if self._options.look is not None and LOOK not in self.features:
                raise SettingError(f"{self._path} has one look only: a look can be chosen with base av1")
            self._decoder = self._codec.decoder(self._reader.header, self._options)
        except BaseException:
            self._reader.close()
            raise
        self._lock = threading.Lock()  # around the file: iterating reads groups in a background thread
        self._by_number = threading.Lock()  # around decoding by number
        self._iterators: weakref.WeakSet[Generator[Frame, None, None]] = weakref.WeakSet()
        self._symbols: object = None
        self._cursor = _Cursor()
        self._latents: _LatentCache | None = None
        self._groups: Sequence[GroupEntry] = self._reader.groups
        if self._reader.lost:
            self._groups = sorted([*self._reader.groups, *self._reader.lost], key=_first)
        self._lost = {entry.first: number for number, entry in enumerate(self._reader.lost)}
        self._broken: dict[int, int] = {}  # groups that do not decode: the place of the first lost frame

    def _after_fork(self) -> None:
        """Open the file again in a process that was forked from the one that opened it.

        The two share the position in the file, and threads that hold locks or decode are not there in the new one.
        """
        if self._process != os.getpid():
            leave_inherited_threads()
            never_free((self._decoder, self._cursor, self._latents, list(self._iterators)))
            self._open()
            if self._closed:
                self._reader.close()

    def __reduce__(self) -> tuple[Callable[..., VideoReader], tuple[str, DecodeOptions, bool]]:
        return _reopen, (os.path.abspath(self._path), self._options, self._tolerant)

    @property
    def info(self) -> StreamInfo:
        """What the file says about the video."""
        return self._reader.header.info

    @property
    def header(self) -> Header:
        """The header of the file, as `container/header.py` specifies it."""
        return self._reader.header

    @property
    def video_bytes(self) -> int:
        """Bytes of all groups in the file: of the video without its tracks, the header and the index."""
        return sum(entry.end - entry.offset for entry in self._reader.groups)

    @property
    def base(self) -> str:
        """The name of its codec: "av1" or "none"."""
        return self._reader.header.base

    @property
    def features(self) -> frozenset[str]:
        """What the file offers beside its frames: any of "latents", "export" and "denoise"."""
        return self._codec.features(self._reader.header)

    @property
    def complete(self) -> bool:
        """Whether the end of the file is there; False if it was cut short."""
        return self._reader.complete

    @property
    def damage(self) -> tuple[Damage, ...]:
        """What is wrong with the file, as far as opening it shows; with tolerant, every checksum was compared."""
        return self._reader.damage

    @property
    def concealed(self) -> list[range]:
        """The numbers of lost frames: all in groups without a valid chunk, and those found while decoding so far."""
        lost = [(entry.first, entry.first + entry.frames) for entry in self._reader.lost]
        for group, place in list(self._broken.items()):  # a copy: threads that decode add to it
            entry = self._groups[group]
            lost.append((entry.first + place, entry.first + entry.frames))
        return [range(*ends) for ends in sorted(lost)]

    def __len__(self) -> int:
        return self._groups[-1].first + self._groups[-1].frames if self._groups else 0

    @overload
    def __getitem__(self, index: int) -> Frame: ...

    @overload
    def __getitem__(self, index: slice) -> list[Frame]: ...

    def __getitem__(self, index: int | slice) -> Frame | list[Frame]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        index = operator.index(index)
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        self._after_fork()
        with self._by_number:
            return self._frame(number)

    def _frame(self, number: int) -> Frame:
        group, place = self._place(number)
        if not self._tolerant:
            return self._decode(number)
        if not self._is_lost(group):
            with suppress(DamagedError):
                return self._decode(number)
        return Frame(*next(islice(self._times(group), place, None)), self._picture_for(group, place))

    def __iter__(self) -> Iterator[Frame]:
        # Frames depend on earlier ones and groups do not, so where the codec allows it two groups are decoded at once,
        # which keeps all cores busy. Not for large pictures: few of the next group would fit into the buffer, and
        # restoring them takes as much memory again.
        self._after_fork()
        groups, room = range(len(self._groups)), _BUFFER // (self.info.width * self.info.height * 3)
        if self._decoder.concurrent and room >= _MIN_BUFFERED:
            decoders = cycle([self._decoder.frame_decoder(), self._decoder.frame_decoder()])
            decoded = prefetch_in_turn(map(self._decoded, ([group] for group in groups), decoders), room)
        else:
            decoded = self._decoded(groups, self._decoder.frame_decoder())
        frames = self._frames(decoded)
        self._iterators.add(frames)
        return frames

    def _frames(self, decoded: Iterator[tuple[CodedFrame, object, Picture | None]]) -> Generator[Frame, None, None]:
        shown: Picture | None = None
        for coded, symbols, picture in decoded:
            self._symbols = symbols
            shown = picture or shown or self._picture_for(0, 0)
            yield Frame(coded.pts, coded.duration, shown)

    def _decoded(
        self, groups: Iterable[int], decoder: FrameDecoder[Any]
    ) -> Iterator[tuple[CodedFrame, object, Picture | None]]:
        """Every frame of consecutive groups with its integers and its picture; None for lost frames."""
        with prefetch(self._parsed(groups, decoder)) as parsed:
            for coded, symbols in parsed:
                if symbols is None:
                    yield coded, None, None
                else:
                    yield coded, decoder.integers(symbols), decoder.reconstruct(coded, symbols).picture

    def latents(self, start: int | None = None, stop: int | None = None) -> np.ndarray:
        """The latents of frames `start` up to but not including `stop`, counted as in slices; by default all.

        Returns float32 [frames, channels, ceil(height / block), ceil(width / block)], where height and width are those
        of the coded pictures, in the scale that diffusion models are trained on, (raw - shift_factor) * scaling_factor:
        about unit standard deviation, bit for bit the same on every machine. No picture is decoded and no network runs;
        the autoencoder need not be there. Calls in rising order go on from the last one and share its frames, others
        start from a group's key frame. Raises SettingError if the file lacks the feature "latents".
        """
        if LATENTS not in self.features:
            header = self._reader.header
            raise SettingError(
                f"{self._reader.path} has base {header.base}, model {header.model.name} and no latents that stand by "
                "themselves: encode with base none and an image autoencoder of diffusers as the model"
            )
        self._after_fork()
        with self._by_number:
            if self._latents is None:
                self._latents = _LatentCache(self._with_path(self._codec.latents, self._reader.header))
            return self._latents.read(self, range(*slice(start, stop).indices(len(self))))

    def _with_path(self, ask: Callable[[Header], Result], header: Header) -> Result:
        """Put the file's name in front of what a codec says about its header."""
        try:
            return ask(header)
        except FormatError as error:
            raise type(error)(f"{self._reader.path}: {error}") from error

    def symbols(self) -> object:
        """The decoded integers of the frame that was decoded last: FrameSymbols, or the Picture of an AV1 base."""
        return self._symbols

    def coded_frames(self) -> Iterator[CodedFrame]:
        """All frames as they are stored."""
        self._after_fork()
        for number in range(len(self._reader.groups)):
            with self._lock:
                group = self._reader.read_group(number)
            yield from group.frames

    def check(self) -> Iterator[Damage]:
        """Decode the integers of every frame, but no pictures. Yields the groups that do not decode."""
        self._after_fork()
        parse = self._decoder.parser()
        for group, entry in enumerate(self._groups):
            if self._is_lost(group):
                continue
            try:
                for place, coded in enumerate(self._read(group)):
                    self._parse(parse, coded, group, place)
            except DamagedError as error:
                yield group_damage("decode", str(error.__cause__ or error), group, entry, self.info.time_base)

    def _parsed(self, groups: Iterable[int], decoder: FrameDecoder[Any]) -> Iterator[tuple[CodedFrame, Any]]:
        """Every frame of consecutive groups with its symbols; with tolerant, None for lost frames."""
        for group in groups:
            trim_heap()  # without this, an hour of video leaves 16 MiB behind
            done, frames = 0, self._groups[group].frames
            try:
                for done, coded in enumerate(self._read(group)):
                    yield coded, self._parse(decoder.parse, coded, group, done)
                done = frames
            except DamagedError:
                if not self._tolerant:
                    raise
                if not self._is_lost(group):
                    self._broken[group] = done
            if done < frames:
                for pts, duration in islice(self._times(group), done, None):
                    yield CodedFrame(pts, duration, PREDICTED, 0, b""), None

    def _decode(self, number: int) -> Frame:
        """A frame by its number. Raises DamagedError if it, or an earlier one in its group, does not decode."""
        frame: Frame
        for decoder, coded, symbols in self._cursor.steps(self, number, self._decoder.frame_decoder):
            self._symbols = decoder.integers(symbols)
            frame = decoder.reconstruct(coded, symbols)
        return frame

    def _picture_for(self, group: int, place: int) -> Picture:
        """The picture that replaces a lost frame: the nearest intact one before it, else after it, else grey."""
        for earlier in range(group, -1, -1):
            if not self._is_lost(earlier) and (picture := self._last_of(earlier, place if earlier == group else None)):
                return picture
        for later in range(group + 1, len(self._groups)):
            if not self._is_lost(later) and (picture := self._last_of(later, 1)):
                return picture
        return grey(self.info.width, self.info.height)

    def _last_of(self, group: int, stop: int | None) -> Picture | None:
        """The last intact picture among the first `stop` of a group."""
        decoder = self._decoder.frame_decoder()
        picture: Picture | None = None
        with suppress(DamagedError):
            for coded in self._read(group)[:stop]:
                picture = decoder.reconstruct(coded, decoder.parse(coded)).picture
        return picture

    def _parse(self, parse: Callable[[CodedFrame], Result], coded: CodedFrame, group: int, place: int) -> Result:
        """parse(coded), with the frame named in its error."""
        try:
            return parse(coded)
        except DamagedError as error:
            number = self._groups[group].first + place
            raise DamagedError(f"{self._reader.path}: group {group}, frame {number}: {error}") from error

    def _is_lost(self, group: int) -> bool:
        return self._groups[group].first in self._lost

    def _times(self, group: int) -> Iterable[tuple[int, int]]:
        """pts and duration of each frame of a group."""
        with self._lock:
            if self._is_lost(group):
                return self._reader.lost_times(self._lost[self._groups[group].first])
        return [(coded.pts, coded.duration) for coded in self._read(group)]

    def _read(self, group: int) -> tuple[CodedFrame, ...]:
        if self._is_lost(group):
            raise DamagedError(f"{self._reader.path}: group {group} is lost")
        number = bisect_left(self._reader.groups, self._groups[group].first, key=_first)
        with self._lock:
            return self._reader.read_group(number).frames

    def _place(self, number: int) -> tuple[int, int]:
        """The group of a frame, and its place in it."""
        group = bisect_right(self._groups, number, key=_first) - 1
        return group, number - self._groups[group].first

    def open_export(self, path: Path, first: CodedFrame, track_files: list[Path], format: str) -> ExportSink:
        """A sink for coded_frames, see Codec.open_export; for files with the feature "export"."""
        return self._codec.open_export(path, self.info, first, track_files, format)

    def close(self) -> None:
        """Close the file, and end iterators over it."""
        for frames in list(self._iterators):
            with suppress(ValueError):  # another thread is asking it for a frame
                frames.close()
        self._closed = True
        self._reader.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def track_files(self) -> Iterator[list[Path]]:
        """The copied audio and subtitle streams as temporary files, in the order of the header's blobs.

        With tolerant, what is left of them; a file of which nothing can be read is left out. See lost_tracks.
        """
        self._after_fork()
        with tempfile.TemporaryDirectory(prefix="sdvideo-") as name:
            folder = Path(name)
            if self._tolerant:
                files, lost = recover_tracks(self._reader, folder)
                self.lost_tracks += lost
            else:
                files = extract_tracks(self._reader, folder)
            yield files


def _reopen(path: str, options: DecodeOptions, tolerant: bool) -> VideoReader:
    """The reader that another process pickled, at its beginning."""
    return VideoReader(path, tolerant=tolerant, **asdict(options))


def _first(entry: GroupEntry) -> int:
    return entry.first
