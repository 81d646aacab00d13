"""The codec "none", as the registry finds it. What it is made of is imported when it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdvideo.codecs.interface import DENOISE, LATENTS, Codec, DecodeOptions
from sdvideo.container.header import Header
from sdvideo.errors import FormatError, SettingError
from sdvideo.frames import StreamInfo
from sdvideo.settings import DEFAULT_MODEL, EncodeSettings

if TYPE_CHECKING:  # torch takes seconds
    from .decoder import Decoder, Latents
    from .encoder import Encoder


class LatentCodec(Codec):
    """Latents of an autoencoder, as deltas to a motion-compensated prediction."""

    name = "none"
    summary = "latents of an autoencoder, as deltas to a motion-compensated prediction"

    def takes_model(self, model: str) -> bool:
        return True

    def check_settings(self, settings: EncodeSettings) -> None:
        if settings.quantizer != "uniform" and settings.model == DEFAULT_MODEL:
            raise SettingError(f"quantizer {settings.quantizer} is for latents of diffusers models: give one as model")
        if settings.look:
            raise SettingError("base none has one look only: look natural needs base av1")

    def encoder(self, info: StreamInfo, settings: EncodeSettings, total: int | None) -> Encoder:
        from .encoder import Encoder

        return Encoder(info, settings, total)

    def check_header(self, header: Header) -> None:
        if header.latent is None:
            raise FormatError("header: latent is missing, must be an object")
        if header.scale != 1 and header.restorer is None:
            raise FormatError("header: restorer is missing, must be an object")

    def features(self, header: Header) -> frozenset[str]:
        # Latents of the embedded model are deltas in the picture domain; they mean nothing by themselves.
        return frozenset() if header.model.name == DEFAULT_MODEL else frozenset({LATENTS, DENOISE})

    def decoder(self, header: Header, options: DecodeOptions) -> Decoder:
        from .decoder import Decoder

        return Decoder(header, options)

    def latents(self, header: Header) -> Latents:
        from .decoder import Latents

        return Latents(header)


CODEC = LatentCodec()
