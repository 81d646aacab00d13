"""Measures an autoencoder with a test picture: channels, pixels per latent position, scale and shift of its latents.

A scaling_factor that a config gives is trusted if the latents of the test picture agree with it. Many classes give
none, some apply it themselves, and others default to that of another model. In these cases the deviation and the mean
of the test picture's latent take its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from sdvideo.errors import ModelError

from .hub import first_line
from .latent_space import STEPS_PER_DEVIATION

_SIZE = (128, 192)  # of the test picture: rows and columns
_MIN_DEVIATION = 1e-6
_TRUSTED = 4  # a config's scale is trusted within this factor of the test picture's: pictures differ by as much


class Measured(NamedTuple):
    """channels: of the latent. block: pixels per latent position along each side.

    scale, shift: (raw latent - shift) * scale is in quantizer steps of size 1.
    """

    channels: int
    block: int
    scale: float
    shift: float


def measure(
    network: Any,
    encode: Callable[[torch.Tensor], torch.Tensor],
    decode: Callable[[torch.Tensor], torch.Tensor],
    device: str,
) -> Measured:
    """Encode and decode a test picture.

    network: of diffusers. encode, decode: with that network, pixels [1, 3, H, W], -1..1, to raw latent
    [1, channels, h, w] and back. Raises ModelError if it cannot be used as an image autoencoder.
    """
    kind = type(network).__name__
    random_state = _random_state(device)
    try:
        latent = encode(_test_picture(*_SIZE))
        shape = decode(latent).shape
        channels, rows, columns = latent.shape[1:]
    except ModelError:
        raise
    except Exception as error:  # a network made for something else may raise anything
        raise ModelError(f"{kind} is not an image autoencoder: {first_line(error)}") from error
    block = _SIZE[0] // rows
    if shape != (1, 3, *_SIZE) or (rows * block, columns * block) != _SIZE:
        raise ModelError(f"{kind} does not return a picture of the size it was given: it cannot be used")
    if not torch.equal(_random_state(device), random_state):
        raise ModelError(
            f"{kind} draws random numbers, so it never decodes to the same picture twice: it cannot be used"
        )
    deviation = float(latent[0].var((1, 2)).mean().sqrt())
    if deviation < _MIN_DEVIATION:
        raise ModelError(f"{kind} encodes every position to the same latent: it cannot be used")
    return Measured(channels, block, *_scale_and_shift(network.config, deviation, float(latent.mean())))


def scale_in_config(config: Any) -> tuple[float, float] | None:
    """scaling_factor and shift_factor of an autoencoder's config, 1 and 0 if it has none; None if they are no numbers.

    Diffusion models see (raw latent - shift_factor) * scaling_factor.
    """
    factors = getattr(config, "scaling_factor", None) or 1.0, getattr(config, "shift_factor", None) or 0.0
    return factors if all(isinstance(value, (int, float)) for value in factors) else None


def _scale_and_shift(config: Any, deviation: float, mean: float) -> tuple[float, float]:
    """Those of the config, unless deviation and mean of the test picture's latent are far from them."""
    if found := scale_in_config(config):
        scale, shift = found
        if 1 / _TRUSTED <= scale * deviation <= _TRUSTED and abs(mean - shift) <= _TRUSTED * deviation:
            return STEPS_PER_DEVIATION * float(scale), float(shift)
    # Three digits, so that machines that differ in the last bits write the same file.
    return float(f"{STEPS_PER_DEVIATION / deviation:.3g}"), float(f"{mean:.3g}")


def _test_picture(height: int, width: int) -> torch.Tensor:
    """Coloured noise of all scales with hard edges in it, always the same: float32 [1, 3, height, width], -1..1."""
    random = np.random.default_rng(0)
    picture = np.zeros((height, width, 3), np.float32)
    for octave in range(6):
        grain = random.uniform(-1, 1, (2 << octave, 3 << octave, 3)).astype(np.float32)
        cloud = cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC)
        picture += 0.75**octave * (0.7 * cloud.mean(2, keepdims=True) * 1.7 + 0.3 * cloud)
    picture[height // 4 : height // 2, width // 3 : width // 2] *= -1
    picture[height // 2 :, width * 3 // 4 :] *= 0.3
    return torch.from_numpy(picture).permute(2, 0, 1)[None].clamp(-1, 1).contiguous()


def _random_state(device: str) -> torch.Tensor:
    return torch.get_rng_state() if device == "cpu" else torch.cuda.get_rng_state()
