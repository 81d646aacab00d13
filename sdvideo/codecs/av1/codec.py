"""The codec "av1", as the registry finds it. What it is made of is imported when it is used."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from sdvideo.codecs.interface import EXPORT, LOOK, Codec, DecodeOptions
from sdvideo.container.group import CodedFrame
from sdvideo.container.header import Header
from sdvideo.errors import FormatError, SettingError
from sdvideo.frames import StreamInfo
from sdvideo.settings import DEFAULT_MODEL, EncodeSettings

if TYPE_CHECKING:
    from .decoder import Decoder
    from .encoder import Encoder
    from .remux import RemuxSink


class Av1Codec(Codec):
    """A small AV1 picture of every frame, restored at full size by a network."""

    name = "av1"
    summary = "a small AV1 picture of every frame, restored at full size by a network"

    def takes_model(self, model: str) -> bool:
        return model == DEFAULT_MODEL

    def check_settings(self, settings: EncodeSettings) -> None:
        if settings.model != DEFAULT_MODEL:
            raise SettingError(f"base av1 uses no latent model, so model {settings.model} needs base none")
        if settings.quantizer != "uniform":
            raise SettingError(f"quantizer {settings.quantizer} is for latents of diffusers models: give one as model")

    def encoder(self, info: StreamInfo, settings: EncodeSettings, total: int | None) -> Encoder:
        from .encoder import Encoder

        return Encoder(info, settings)

    def check_header(self, header: Header) -> None:
        if header.coder != "av1":
            raise FormatError(f'header: coder is "{header.coder}", must be "av1" with base av1')
        if header.scale != 1:
            raise FormatError(f"header: scale is {header.scale}, must be 1 with base av1: each group has its own")

    def features(self, header: Header) -> frozenset[str]:
        return frozenset({EXPORT, LOOK})

    def decoder(self, header: Header, options: DecodeOptions) -> Decoder:
        from .decoder import Decoder

        return Decoder(header, options)

    def open_export(
        self, path: str | PathLike, info: StreamInfo, first: CodedFrame, track_files: list[Path], format: str
    ) -> RemuxSink:
        from .remux import open_remux

        return open_remux(path, info, first, track_files=track_files, format=format)


CODEC = Av1Codec()
