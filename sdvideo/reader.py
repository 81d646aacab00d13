"""An .sdv file as a video: its frames by number and in order, its latents, its tracks, and what is lost of them."""

from __future__ import annotations

import operator
import os
import tempfile
import threading
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Protocol, TypeVar, overload

import numpy as np

from .codecs.interface import DENOISE, LATENTS, DecodeOptions, FrameDecoder, LatentDecoder
from .codecs.registry import codec_for_header
from .container import PREDICTED, CodedFrame, Damage, GroupEntry, Reader
from .container.recovery import group_damage
from .errors import DamagedError, FormatError, SettingError, SinkError
from .frames import Frame, Picture, StreamInfo, grey
from .media.muxer import Sink
from .media.tracks import SUFFIXES, mend, readable
from .runtime.malloc import trim_heap
from .runtime.prefetch import ahead, in_turn
from .settings import DENOISE_STEPS, DEVICES, check_choice, whole

Parsed = TypeVar("Parsed")
_BUFFER = 64_000_000  # bytes for pictures of the group after the one that is shown
_WORTHWHILE = 16  # pictures of that buffer, for a group to be decoded beside the one that is shown
_KEPT = 256  # latents of the last call that the next one may share


class _Parser(Protocol):
    """What the two kinds of frame decoders, for pictures and for latents, have in common."""

    def parse(self, coded: CodedFrame) -> Any: ...


Decoder = TypeVar("Decoder", bound=_Parser)


class _Cursor:
    """The place where decoding stands in a video: it goes on from there if it can, else from a key frame."""

    def __init__(self) -> None:
        self._group, self._next = -1, 0
        self._frames: Sequence[CodedFrame] = ()
        self._decoder: Any = None

    def steps(
        self, video: VideoReader, number: int, new_decoder: Callable[[], Decoder]
    ) -> Iterator[tuple[Decoder, CodedFrame, Any]]:
        """For each frame up to this one: its decoder, which is to reconstruct it next, the frame, its symbols."""
        group, place = video._place(number)
        if group != self._group or place < self._next:
            self._frames, self._decoder, self._next = video._read(group), new_decoder(), 0
        while self._next <= place:
            self._group = -1  # until the frame is done: an error leaves the decoder halfway
            coded = self._frames[self._next]
            yield self._decoder, coded, video._parse(self._decoder.parse, coded, group, self._next)
            self._group, self._next = group, self._next + 1


class _LatentCache:
    """What VideoReader.latents keeps from call to call: where decoding stands, and the latents it gave last."""

    def __init__(self, decoder: LatentDecoder):
        self._decoder, self._cursor = decoder, _Cursor()
        self._recent: dict[int, np.ndarray] = {}

    def read(self, video: VideoReader, numbers: range) -> np.ndarray:
        """Frames in rising order -> float32 [frames, channels, h, w]."""
        found = np.empty((len(numbers), *self._decoder.shape), np.float32)
        recent, self._recent = self._recent, {}
        for at, number in enumerate(numbers):
            found[at] = recent[number] if number in recent else self._decode(video, number)
            if at >= len(numbers) - _KEPT:
                self._recent[number] = found[at]
        return found

    def _decode(self, video: VideoReader, number: int) -> np.ndarray:
        for decoder, coded, symbols in self._cursor.steps(video, number, self._decoder.frame_decoder):
            latent = decoder.latent(coded, symbols)
        return latent


class VideoReader:
    """A video in an .sdv file: its length, its frames by number, its frames in order.

        with sdvideo.open("clip.sdv") as video:
            print(len(video), video.info)
            first, last = video[0], video[-1]
            for frame in video: ...

    A frame by number decodes its group from the group's key frame on, and no other group; frames asked for in rising
    order are decoded once. A slice is a list of frames. Threads that share one wait for each other. model: where the
    model is that the file was made with, a folder or a Hub id, if it neither comes with this package nor is in the
    cache of the Hub. denoise: how many steps of a diffusion model clean each latent before it is painted, 0 to 66;
    denoiser: the pipeline that is from, if not the one the model is part of (see denoise.py).

    tolerant: read a damaged file. Its frames are as many as they were, at their times; where one is lost, the last good
    picture before it is shown, the first good one where there is none before, grey where there is none at all. A file
    that was cut short ends with its last whole group.
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
        if not 0 <= whole("denoise", denoise) <= DENOISE_STEPS:
            raise SettingError(f"denoise is {denoise}; it can be 0 to {DENOISE_STEPS}")
        check_choice("device", device, DEVICES)
        self._reader, self._tolerant = Reader(path, tolerant=tolerant), tolerant
        try:
            self._codec = self._named(codec_for_header, self._reader.header)
            if denoise and DENOISE not in self.features:
                raise SettingError(f"{path} cannot be denoised: it was not made with a diffusers autoencoder")
            options = DecodeOptions(model, device, denoise, denoiser)
            self._decoder = self._codec.decoder(self._reader.header, options)
        except BaseException:
            self._reader.close()
            raise
        self._lock = threading.Lock()  # iterating reads groups in a thread of its own
        self._one_by_one = threading.Lock()  # frames by number, for any thread that asks for them
        self._iterators: weakref.WeakSet[Iterator[Frame]] = weakref.WeakSet()
        self._symbols: object = None
        self._cursor = _Cursor()
        self._latents: _LatentCache | None = None
        self._groups: Sequence[GroupEntry] = self._reader.groups
        if self._reader.lost:
            self._groups = sorted([*self._reader.groups, *self._reader.lost], key=_first)
        self._lost = {entry.first: number for number, entry in enumerate(self._reader.lost)}
        self.unheard: list[str] = []  # what track_files had to leave out, in words
        self._broken: dict[int, int] = {}  # of groups that do not decode: the place of the frame that does not

    @property
    def info(self) -> StreamInfo:
        """What the file says of the video."""
        return self._reader.header.info

    @property
    def base(self) -> str:
        """What its pictures start from: "none" or "av1"."""
        return self._reader.header.base

    @property
    def features(self) -> frozenset[str]:
        """What the file can do beside being decoded: "latents", "export" and "denoise" are known."""
        return self._codec.features(self._reader.header)

    @property
    def complete(self) -> bool:
        """Does the file have its end, or was it cut short?"""
        return self._reader.complete

    @property
    def damage(self) -> tuple[Damage, ...]:
        """What opening found to be wrong; with tolerant, every checksum was looked at."""
        return self._reader.damage

    @property
    def concealed(self) -> list[range]:
        """The numbers of the frames that are lost, as far as that is known: in groups decoded so far, all."""
        lost = [(entry.first, entry.first + entry.frames) for entry in self._reader.lost]
        for group, place in list(self._broken.items()):  # threads that decode add to it
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
        with self._one_by_one:
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
        groups, room = range(len(self._groups)), _BUFFER // (self.info.width * self.info.height * 3)
        if self._decoder.concurrent and room >= _WORTHWHILE:
            decoders = cycle([self._decoder.frame_decoder(), self._decoder.frame_decoder()])
            decoded = in_turn(map(self._decoded, ([group] for group in groups), decoders), room)
        else:
            decoded = self._decoded(groups, self._decoder.frame_decoder())
        frames = self._frames(decoded)
        self._iterators.add(frames)
        return frames

    def _frames(self, decoded: Iterator[tuple[CodedFrame, object, Picture | None]]) -> Iterator[Frame]:
        shown = None
        for coded, symbols, picture in decoded:
            self._symbols = symbols
            shown = picture or shown or self._picture_for(0, 0)
            yield Frame(coded.pts, coded.duration, shown)

    def _decoded(
        self, groups: Iterable[int], decoder: FrameDecoder[Any]
    ) -> Iterator[tuple[CodedFrame, object, Picture | None]]:
        """Every frame of groups in a row with its integers and its picture, which lost ones have not."""
        with ahead(self._parsed(groups, decoder)) as parsed:
            for coded, symbols in parsed:
                if symbols is None:
                    yield coded, None, None
                else:
                    yield coded, decoder.integers(symbols), decoder.reconstruct(coded, symbols).picture

    def latents(self, start: int | None = None, stop: int | None = None) -> np.ndarray:
        """The latents of frames start up to but not including stop, by the rules of slices: by default all.

        Returns float32 [frames, channels, ceil(height / block), ceil(width / block)], of the sides of the pictures as
        they were coded, in the scale diffusion models are trained on, (raw - shift_factor) * scaling_factor: about unit
        deviation, bit for bit the same on every machine.
        No picture is decoded, no network runs, the autoencoder is not even looked for. Calls in rising order go on from
        the last one and share its frames, others start from a group's key frame.
        Raises SettingError for files that hold no such latents: with an AV1 base, or of the embedded model.
        """
        if LATENTS not in self.features:
            header = self._reader.header
            raise SettingError(
                f"{self._reader.path} has base {header.base}, model {header.model.name} and no latents that stand by "
                "themselves: encode with base none and an image autoencoder of diffusers as the model"
            )
        with self._one_by_one:
            if self._latents is None:
                self._latents = _LatentCache(self._named(self._codec.latents, self._reader.header))
            return self._latents.read(self, range(*slice(start, stop).indices(len(self))))

    def _named(self, ask: Callable[[Any], Parsed], header: Any) -> Parsed:
        """Put the file's name in front of what a codec says of its header."""
        try:
            return ask(header)
        except FormatError as error:
            raise type(error)(f"{self._reader.path}: {error}") from error

    def symbols(self) -> object:
        """The decoded integers of the frame that came last: FrameSymbols, or the Picture of an AV1 base."""
        return self._symbols

    def coded_frames(self) -> Iterator[CodedFrame]:
        """All frames as they are in the file."""
        for number in range(len(self._reader.groups)):
            with self._lock:
                group = self._reader.read_group(number)
            yield from group.frames

    def check(self) -> Iterator[Damage]:
        """Decode the integers of every frame, and make no pictures of them. Gives the groups that do not decode."""
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
        """Every frame of groups in a row with its integers; with tolerant, lost ones are ones without integers."""
        for group in groups:
            trim_heap()  # what the group before took: over an hour 16 MiB would pile up
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
        """A frame by its number. Raises DamagedError where it, or one before it in its group, does not decode."""
        for decoder, coded, symbols in self._cursor.steps(self, number, self._decoder.frame_decoder):
            self._symbols = decoder.integers(symbols)
            frame = decoder.reconstruct(coded, symbols)
        return frame

    def _picture_for(self, group: int, place: int) -> Picture:
        """What is shown instead of a lost frame: the good picture that is next before it, else next after it."""
        for earlier in range(group, -1, -1):
            if not self._is_lost(earlier) and (picture := self._last_of(earlier, place if earlier == group else None)):
                return picture
        for later in range(group + 1, len(self._groups)):
            if not self._is_lost(later) and (picture := self._last_of(later, 1)):
                return picture
        return grey(self.info.width, self.info.height)

    def _last_of(self, group: int, stop: int | None) -> Picture | None:
        """The last good picture among the first `stop` of a group."""
        picture, decoder = None, self._decoder.frame_decoder()
        with suppress(DamagedError):
            for coded in self._read(group)[:stop]:
                picture = decoder.reconstruct(coded, decoder.parse(coded)).picture
        return picture

    def _parse(self, parse: Callable[[CodedFrame], Parsed], coded: CodedFrame, group: int, place: int) -> Parsed:
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
        """The group of a frame, and which of its frames it is."""
        group = bisect_right(self._groups, number, key=_first) - 1
        return group, number - self._groups[group].first

    def open_export(self, path: Path, first: CodedFrame, track_files: list[Path], format: str) -> Sink:
        """A sink for coded_frames, see Codec.open_export; for files with the feature "export"."""
        return self._codec.open_export(path, self.info, first, track_files, format)

    def close(self) -> None:
        """Release the file, and end what still iterates over it."""
        for frames in list(self._iterators):
            with suppress(ValueError):  # another thread asks it for a frame just now
                frames.close()
        self._reader.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def track_files(self) -> Iterator[list[Path]]:
        """The copied audio and subtitle streams as temporary files, in the order of the header's blobs.

        With tolerant, files of what is left of them; a file of which nothing can be read is not among them.
        """
        with tempfile.TemporaryDirectory(prefix="sdvideo-") as folder:
            paths = []
            for blob, form in enumerate(self._reader.header.blobs):
                path = Path(folder) / f"tracks{blob}.{SUFFIXES[form]}"
                if self._tolerant:
                    paths += self._mended(blob, path)
                    continue
                try:
                    with path.open("wb") as file:
                        for piece in self._reader.track_data(blob):
                            file.write(piece)
                except OSError as error:
                    raise SinkError(f"{folder}: {error.strerror or error}") from error
                paths.append(path)
            yield paths

    def _mended(self, blob: int, path: Path) -> list[Path]:
        """Put what is left of a track file at its place in `path`; if that is not all, make a whole file of it."""
        end, holes, intact = 0, [], True
        with path.open("wb") as file:
            for piece, whole in self._reader.track_parts(blob):
                if piece.position > end:
                    holes.append(range(end, piece.position))
                file.seek(piece.position)
                file.write(piece.data)
                end, intact = piece.end, intact and whole
        if intact and not holes and readable(path):
            return [path]
        files, left_out = mend(path, holes, path.parent / f"mended{blob}")
        if not files:
            self.unheard.append(f"track file {blob} cannot be read and is left out")
        else:
            self.unheard.append(f"track file {blob} is damaged, {left_out} of its packets are left out")
        return files


def _first(entry: GroupEntry) -> int:
    return entry.first
