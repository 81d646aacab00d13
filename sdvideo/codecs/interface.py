"""What a codec is: the interface between the codecs and everything that does not care which one it is.

                        settings, StreamInfo                       Header
                                |                                     |
    frames -> GroupEncoder.groups -> Group -> container -> CodedFrame -> FrameDecoder.parse -> reconstruct -> Frame

A codec is a folder in `sdvideo/codecs/` with an object of a subclass of `Codec`, and a row in `registry.py`. Importing
it must import neither torch nor PyAV: the command line asks codecs about settings before anything is coded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from sdvideo.container.group import CodedFrame, Group
from sdvideo.container.header import Header, ModelId
from sdvideo.frames import Frame, StreamInfo
from sdvideo.settings import EncodeSettings, ProgressCallback

Symbols = TypeVar("Symbols")

# What only some files can do, see Codec.features.
LATENTS, EXPORT, DENOISE, LOOK = "latents", "export", "denoise", "look"


class Codec(ABC):
    """A way to code groups of pictures. name: the header's "base", and the value of --base."""

    name: str
    summary: str  # in a few words, for --help

    def takes_model(self, model: str) -> bool:
        """Whether this is the codec to choose for a model, if the user names none. model: as in EncodeSettings."""
        return False

    @abstractmethod
    def check_settings(self, settings: EncodeSettings) -> None:
        """Raises SettingError if the settings do not fit together with this codec."""

    @abstractmethod
    def encoder(self, info: StreamInfo, settings: EncodeSettings, total: int | None) -> GroupEncoder:
        """An encoder for one video. total: number of its frames, None if not known."""

    @abstractmethod
    def check_header(self, header: Header) -> None:
        """Raises FormatError if this version cannot decode files with this header."""

    def features(self, header: Header) -> frozenset[str]:
        """Which of LATENTS, EXPORT, DENOISE and LOOK files with this header offer."""
        return frozenset()

    @abstractmethod
    def decoder(self, header: Header, options: DecodeOptions) -> VideoDecoder:
        """A decoder for files with this header. Loads nothing before it is asked for frames."""

    def latents(self, header: Header) -> LatentDecoder:
        """A decoder of latents, for files with the feature LATENTS."""
        raise NotImplementedError

    def open_export(
        self, path: str | PathLike[str], info: StreamInfo, first: CodedFrame, track_files: list[Path], format: str
    ) -> ExportSink:
        """A sink that copies coded frames, for files with the feature EXPORT.

        path: the video to write, in this format ("mp4", "mkv" or "mov"). first: the first frame that will be written.
        track_files: see VideoReader.track_files.
        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class HeaderFields:
    """What a codec writes into the header of a file, see `container/header.py`."""

    model: ModelId
    coder: str
    latent: dict[str, Any] | None = None
    scale: Fraction = Fraction(1)
    restorer: ModelId | None = None
    look: float = 0.0
    painter: ModelId | None = None


class EncodedSoFar(Protocol):
    """The file being written, as a GroupEncoder sees it.

    frames: how many are in it. earlier: those that an interrupted encoding left. video_size: bytes of all groups.
    """

    frames: int
    earlier: list[CodedFrame]
    video_size: int


class GroupEncoder(Protocol):
    """Codes one video. lookback: how many frames before the first one that it codes it has to see, 0 or 1."""

    lookback: int
    fields: HeaderFields

    def groups(
        self,
        frames: Iterable[Frame],
        file: EncodedSoFar,
        bits: float | None,
        total: int | None,
        progress: ProgressCallback,
        executor: Executor | None,
    ) -> Iterator[Group]:
        """Code frames, group after group.

        frames: those that follow the ones in the file, after `lookback` of the earlier ones if there are any. bits: to
        be spent on the whole video, None at constant quality. total: frames of the whole video, None if not known.
        progress: called while a group is coded, where that is known. executor: runs the jobs of this video, each a
        picklable function call; threads of this process if None.
        """
        ...


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """How to decode, apart from what the file says.

    model: where the model is, a folder or a Hub id, None for the one that the file names. device: "auto", "cpu" or
    "cuda". denoise: diffusion steps that clean each latent, 0 to 66; denoiser: the pipeline they are from, None for
    the one that the model is part of. look: 0 (faithful) to 1 (natural), None for that of the file.
    """

    model: str | None = None
    device: str = "auto"
    denoise: int = 0
    denoiser: str | None = None
    look: float | None = None


class VideoDecoder(Protocol):
    """Makes decoders for the groups of one file; what they share, such as networks, is loaded once.

    concurrent: whether two groups may be decoded at the same time, each by a FrameDecoder of its own.
    """

    concurrent: bool

    def frame_decoder(self) -> FrameDecoder[Any]:
        """A decoder that stands before the first frame of a group. Raises ModelError if the model is not there."""
        ...

    def parser(self) -> Callable[[CodedFrame], object]:
        """The `parse` of a FrameDecoder alone, for checking a file; it needs a model only if parsing does."""
        ...


class FrameDecoder(Protocol, Generic[Symbols]):
    """Decodes frame after frame, from a key frame on, in two steps that may run in two threads.

    `parse` needs no decoded picture and `reconstruct` no bits, so one may run some frames ahead of the other.
    """

    def parse(self, coded: CodedFrame) -> Symbols:
        """The integers of the next frame. Raises DamagedError if its data does not decode."""
        ...

    def reconstruct(self, coded: CodedFrame, symbols: Symbols) -> Frame:
        """The picture of the next frame, given its integers."""
        ...

    def integers(self, symbols: Symbols) -> object:
        """The part of the symbols that is the same on every machine, for VideoReader.symbols()."""
        ...


class ExportSink(Protocol):
    """Writes coded frames into a file of another format; a context manager."""

    def write(self, frame: CodedFrame, /) -> None:
        """Write the next frame. Raises SinkError."""
        ...

    def close(self) -> None:
        """Finish the file. Raises SinkError."""
        ...

    def __enter__(self) -> ExportSink: ...

    def __exit__(self, kind: object, *_: object) -> None: ...


class LatentDecoder(Protocol):
    """Decodes latents, without the autoencoder they are from. shape: channels, rows, columns of each."""

    shape: tuple[int, int, int]

    def frame_decoder(self) -> LatentFrameDecoder: ...


class LatentFrameDecoder(Protocol):
    """A FrameDecoder for latents."""

    def parse(self, coded: CodedFrame) -> Any: ...

    def latent(self, coded: CodedFrame, symbols: Any) -> np.ndarray:
        """The latent of the next frame, float32 [channels, rows, columns], in the scale diffusion models see."""
        ...
