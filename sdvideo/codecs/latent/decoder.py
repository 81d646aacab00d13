"""Decodes base "none": container -> entropy decoding -> dequantize -> synthesise -> upscale.

Synthesis adds the decoded delta to a prediction: the previous reference, warped along the motion vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from sdvideo.codecs.interface import DecodeOptions
from sdvideo.codecs.latent.coding.frame_syntax import FrameSymbols
from sdvideo.container.group import CodedFrame
from sdvideo.container.header import MAX_AREA, Header
from sdvideo.errors import FormatError
from sdvideo.media.scaling import scaled_size
from sdvideo.restoration.loading import load_restorer
from sdvideo.restoration.restorer import Restorer
from sdvideo.settings import DEFAULT_MODEL

from .frame_codec import FrameDecoder
from .latent_space import LatentSpace, grid_size, to_diffusion_scale
from .model import LatentModel
from .model_loading import add_denoiser, load_model
from .quantizers import Quantizer, quantizer_for
from .upscaling import SmallFrameDecoder


class Decoder:
    """A VideoDecoder, see `codecs/interface.py`."""

    concurrent = False  # one group already keeps all cores busy, and a model may need all the memory there is

    def __init__(self, header: Header, options: DecodeOptions):
        self._header, self._options = header, options

    @cached_property
    def _model(self) -> LatentModel:
        header, options = self._header, self._options
        if header.model.name != DEFAULT_MODEL:
            _latent_space(header)  # before anybody looks for a model in vain
        model = load_model(
            options.model,
            device=options.device,
            colour=header.info.colour,
            expected=header.model,
            latent=header.latent,
        )
        for name, found in (("channels", model.coder.channels), ("block", model.block)):
            if (stored := _latent(header)[name]) != found:
                raise FormatError(f"the header says {name} {stored}, but its model has {found}")
        if options.denoise:
            pipeline = options.denoiser or options.model
            add_denoiser(model, options.denoise, pipeline, device=options.device, expected=header.model)
        return model

    @cached_property
    def _restorer(self) -> Restorer:
        assert self._header.restorer is not None
        return load_restorer(device=self._options.device, expected=[self._header.restorer])

    def frame_decoder(self) -> FrameDecoder | SmallFrameDecoder:
        info, scale = self._header.info, self._header.scale
        quantizer = quantizer_for(self._header.coder, self._model)
        width, height = scaled_size(info.width, info.height, scale)
        decoder = FrameDecoder(self._model, height, width, quantizer)
        return decoder if scale == 1 else SmallFrameDecoder(decoder, self._restorer, info.height, info.width)

    def parser(self) -> Callable[[CodedFrame], FrameSymbols]:
        # Only the embedded model's context network takes part in parsing.
        embedded = self._header.model.name == DEFAULT_MODEL
        return self.frame_decoder().parse if embedded else Latents(self._header).frame_decoder().parse


class Latents:
    """A LatentDecoder, see `codecs/interface.py`. Raises FormatError if this version cannot read the file's latents."""

    def __init__(self, header: Header):
        self._header = header
        width, height = scaled_size(header.info.width, header.info.height, header.scale)
        latent = _latent(header)
        rows, columns = grid_size(height, width, latent["block"])
        self.shape = latent["channels"], rows, columns
        if math.prod(self.shape) > MAX_AREA:
            raise FormatError(f"a latent of {' x '.join(map(str, self.shape))} has more than {MAX_AREA} values")

    def frame_decoder(self) -> LatentFrameDecoder:
        space, quantizer = _latent_space(self._header)
        info = self._header.info
        width, height = scaled_size(info.width, info.height, self._header.scale)
        return LatentFrameDecoder(space, height, width, quantizer)


class LatentFrameDecoder(FrameDecoder):
    """Decodes latents in integers, with no autoencoder."""

    def latent(self, coded: CodedFrame, symbols: FrameSymbols) -> np.ndarray:
        return to_diffusion_scale(self.advance(coded, symbols).values)


def _latent(header: Header) -> dict[str, Any]:
    assert header.latent is not None  # see LatentCodec.check_header
    return header.latent


def _latent_space(header: Header) -> tuple[LatentSpace, Quantizer]:
    """What the integers of a file need. Raises FormatError if this version has no such quantizer."""
    space = LatentSpace(_latent(header)["channels"], _latent(header)["block"])
    return space, quantizer_for(header.coder, space)
