"""Frozen image autoencoders of diffusers as latent models.

Any 4-D one fits (AutoencoderKL of Stable Diffusion and FLUX, AutoencoderTiny, AutoencoderDC, ...), from a
folder or from the Hugging Face Hub. Its class is the one config.json names; its weights are safetensors,
never pickles; how many channels, how many pixels per latent and what range it has is found by trying.

The scale of latents and their prediction are those of `latent_space.py`: no network takes part in them.
Networks run only before quantising and for the picture. A scaling_factor that a config gives is believed where
latents of a test picture bear it out. Many classes give none, some apply it themselves, others have by default
what belongs to another model: there the test picture's deviation and mean take its place. Scale and shift are
written into the file, and the file's are those that a decoder uses.

Refinement. What an encoder makes of a picture is not the latent that paints it best. With preset best, a few
steps down the gradient of the squared error of the painted picture lead to a better one. The way is short, a
quarter of a deviation at most; it begins at the encoder's latent for every frame anew, and what lies off the
prediction costs about what its bits are worth, so that refining does not wake what is at rest.

The picture. Autoencoders see the whole of a latent at once: a change somewhere changes samples everywhere, a
little. So only what lies near a change since the last painted picture is painted anew, the rest stays as it
is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from sdvideo.container import ModelId
from sdvideo.errors import FormatError, ModelError
from sdvideo.frames import Colour, Picture
from sdvideo.media.colour import from_rgb, to_rgb
from sdvideo.motion.block_matching import BLOCK
from sdvideo.runtime.device import choose_device
from sdvideo.settings import DEFAULT_MODEL

from .hub import files_of, find, fingerprint, first_line, load_network, refuse_video
from .latent_space import FINE, LEVELS, LatentSpace, Reference, grid

_TILED = 2**20  # pixels above which a picture is worked on in tiles
_TILE, _OVERLAP = 512, 64  # pixels
_REACH = 3  # latents around a changed one that are painted anew, and one more to fade
_PROBE = (128, 192)  # pixels
_LEAST_DEVIATION = 1e-6
_BELIEVED = 4  # times the probe's deviation: how far off a config's scale is still that of other pictures
_REFINEMENTS = 4  # steps down the gradient
_STRIDE = LEVELS / 10  # of the first of them at most, in every latent sample; those after it are ever shorter
_PULL = 0.2  # squared grey levels a sample of the picture may be worse by, for a latent to be a step nearer, per step
_MOST_SCALE = 1e9

log = logging.getLogger("sdvideo")


# --- the model ----------------------------------------------------------------------------------------------


class Source(NamedTuple):
    """A picture to be coded.

    luma: uint8 [H, W], multiples of 16; latent: float32 [h, w, channels], in steps of size 1. pixels: what it is to
    look like, float32 [1, 3, h * block, w * block], -1..1.
    """

    luma: np.ndarray
    latent: np.ndarray
    pixels: torch.Tensor


class AutoencoderModel(LatentSpace):
    """A frozen autoencoder as a latent model (see latents.py). Not for use by several threads at once.

    colour: what the code values of pictures mean. refine: whether analyse looks for a better latent than the encoder's.
    denoiser: what cleans raw latents before they are painted (see denoise.py), if anything. Set them before the first
    picture.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        model_id: ModelId,
        device: str = "cpu",
        latent: dict[str, Any] | None = None,
    ):
        """network: encodes and decodes as in diffusers. latent: what a file says of its latents, None: find out.

        Raises ModelError if it is no image autoencoder, FormatError if the file's latents are not its own.
        """
        config = network.config
        full = device == "cpu" or getattr(config, "force_upcast", False)
        self._dtype = torch.float32 if full else torch.float16
        self._device = device
        self._network = network.eval().requires_grad_(False)
        self._convert(memory_format=torch.channels_last)
        channels, block, found = self._probe()
        super().__init__(channels, block)
        self._scale, self._shift = found if latent is None else _stored(latent)
        self.id = model_id
        self.description = {
            "channels": self.coder.channels,
            "block": self.block,
            "class": type(network).__name__,
            "scale": self._scale,
            "shift": self._shift,
        }
        self.colour = Colour()
        self.refine = False
        self.denoiser: Callable[[torch.Tensor], torch.Tensor] | None = None

    @property
    def config(self) -> Any:
        """What its config says of the network."""
        return self._network.config

    def source(self, picture: Picture) -> Source:
        rows, columns = grid(picture.height, picture.width, self.block)
        rgb = _pad(to_rgb(picture, self.colour), rows * self.block, columns * self.block)
        pixels = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 127.5 - 1
        latent = self._everywhere(self._encode, pixels, self.block, 1)
        latent = (latent - self._shift) * self._scale
        luma_rows, luma_columns = grid(picture.height, picture.width, BLOCK)
        luma = _pad(picture.y, luma_rows * BLOCK, luma_columns * BLOCK)
        return Source(luma, _to_array(latent), pixels)

    def luma(self, source: Source | Reference) -> np.ndarray | None:
        return source.luma if isinstance(source, Source) else None

    def analyse(self, source: Source, prediction: Reference, step: float) -> np.ndarray:
        expected = prediction.values.astype(np.float32) / FINE
        latent = self._refined(source, expected, step) if self.refine else source.latent
        return latent - expected

    def _refined(self, source: Source, expected: np.ndarray, step: float) -> np.ndarray:
        """The latent that analyse is to reach, float32 [h, w, channels]; expected: the prediction, likewise."""
        pull = _PULL * step if expected.any() else 0.0
        latents = torch.from_numpy(np.concatenate([source.latent, expected], 2)).permute(2, 0, 1)[None]
        all_of_it = torch.cat([latents, pixel_unshuffle(source.pixels, self.block)], 1)
        return _to_array(self._everywhere(partial(self._descend, pull=pull), all_of_it, 1, 1, _TILE**2))

    @torch.enable_grad()
    def _descend(self, all_of_it: torch.Tensor, pull: float) -> torch.Tensor:
        """Encoder's latent, prediction and pixels, [1, c, h, w] -> better latent, float32 [1, channels, h, w]."""
        channels = self.coder.channels
        start, expected, pixels = all_of_it.to(self._device).tensor_split([channels, 2 * channels], 1)
        pixels = pixel_shuffle(pixels, self.block)
        pull *= pixels.numel() / start.numel() / 127.5**2
        latent = start.clone().requires_grad_()
        descent = torch.optim.Adam([latent])
        for left in range(_REFINEMENTS, 0, -1):
            descent.param_groups[0]["lr"] = _STRIDE * left / _REFINEMENTS
            raw = latent / self._scale + self._shift
            seen = self._network.decode(raw.to(self._dtype)).sample.float()
            # Sums, for means have gradients too small for 16 bits.
            cost = (seen - pixels).square().sum() + pull * (latent - expected).abs().sum()
            (latent.grad,) = torch.autograd.grad(cost, latent)
            descent.step()
        better = latent.detach()
        return torch.where(better.isfinite(), better, start).cpu()

    def picture(self, reference: Reference, height: int, width: int) -> Picture:
        if reference.seen is None:
            reference.seen, reference.earlier = self._repaint(reference, height, width), None
        return reference.seen

    def _repaint(self, reference: Reference, height: int, width: int) -> Picture:
        """What changed since the earlier picture painted anew, all of it if there is none."""
        if reference.earlier is None:
            return self._paint(reference.values, height, width)
        earlier, seen = reference.earlier
        changed = (reference.values != earlier).any(-1)
        if not changed.any():
            return seen
        new = self._paint(reference.values, height, width)
        return _mix(seen, new, _surroundings(changed, self.block))

    def _paint(self, values: np.ndarray, height: int, width: int) -> Picture:
        latent = torch.from_numpy(values).permute(2, 0, 1)[None].float()
        latent = latent / (FINE * self._scale) + self._shift
        if self.denoiser is not None:
            latent = self._everywhere(self.denoiser, latent, 1, 1)
        pixels = self._everywhere(self._decode, latent, 1, self.block)
        pixels = pixels[0, :, :height, :width].add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        return from_rgb(pixels.permute(1, 2, 0).contiguous().numpy(), self.colour)

    def _probe(self) -> tuple[int, int, tuple[float, float]]:
        """Channels, pixels per latent, and (scale, shift), found by coding a test picture."""
        kind = type(self._network).__name__
        chance = _state_of_chance(self._device)
        try:
            latent = self._encode(_probe_picture(*_PROBE))
            seen = self._decode(latent).shape
            channels, rows, columns = latent.shape[1:]
        except ModelError:
            raise
        except Exception as error:  # whatever a network for something else may raise
            raise ModelError(f"{kind} is not an image autoencoder: {first_line(error)}") from error
        block = _PROBE[0] // rows
        if seen != (1, 3, *_PROBE) or (rows * block, columns * block) != _PROBE:
            raise ModelError(f"{kind} does not give a picture back at the size it had: it cannot be used")
        if not torch.equal(_state_of_chance(self._device), chance):
            raise ModelError(f"{kind} draws random numbers, so it never paints the same twice: it cannot be used")
        deviation = float(latent[0].var((1, 2)).mean().sqrt())
        if deviation < _LEAST_DEVIATION:
            raise ModelError(f"{kind} gives the same latent wherever it looks: it cannot be used")
        return channels, block, _scale_of(self._network.config, deviation, float(latent.mean()))

    def _everywhere(
        self, work: Callable, x: torch.Tensor, scale: int, scale_out: int, most: int | None = None
    ) -> torch.Tensor:
        """Do work on x, [1, c, h * scale, w * scale]: at once, or in overlapping tiles where that is a lot.

        most: pixels that are not too many at once.

        Returns [1, c', h * scale_out, w * scale_out], blended linearly where tiles overlap.
        """
        rows, columns = x.shape[2] // scale, x.shape[3] // scale
        if rows * columns * self.block**2 <= (most or _TILED):
            return work(x)
        total, weights = None, torch.zeros(rows * scale_out, columns * scale_out)
        for top, bottom in _tiles(rows, self.block):
            for left, right in _tiles(columns, self.block):
                done = work(x[..., top * scale : bottom * scale, left * scale : right * scale])
                fade = _overlap(self.block) * scale_out
                weight = _ramp(done.shape[2], fade)[:, None] * _ramp(done.shape[3], fade)
                if total is None:
                    total = torch.zeros(1, done.shape[1], *weights.shape)
                there = slice(top * scale_out, bottom * scale_out), slice(left * scale_out, right * scale_out)
                total[(..., *there)] += done * weight
                weights[there] += weight
        return total / weights

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels -1..1, [1, 3, H, W] -> raw latent, float32 on the CPU."""
        return self._run(lambda x: _latent_of(self._network.encode(x)), pixels)

    def _decode(self, latent: torch.Tensor) -> torch.Tensor:
        """The inverse of _encode."""
        return self._run(lambda x: self._network.decode(x).sample, latent)

    @torch.inference_mode()
    def _run(self, work: Callable, x: torch.Tensor) -> torch.Tensor:
        y = work(x.to(self._device, self._dtype, memory_format=torch.channels_last)).float().cpu()
        if torch.isfinite(y).all():
            return y
        if self._dtype == torch.float32:
            raise ModelError(f"{type(self._network).__name__} computes numbers that are not finite")
        log.warning("the autoencoder overflows in 16 bits: going on in 32")
        self._dtype = torch.float32
        self._convert()
        return self._run(work, x)

    def _convert(self, **options) -> None:
        # Not diffusers' own to(), which warns of what it would keep in float32 even if that is nothing.
        torch.nn.Module.to(self._network, self._device, self._dtype, **options)


def _scale_of(config: Any, deviation: float, mean: float) -> tuple[float, float]:
    """(scale, shift), given how the latents of the probe are: the config's, unless they are far from it."""
    factor, offset = getattr(config, "scaling_factor", None) or 1.0, getattr(config, "shift_factor", None) or 0.0
    if all(isinstance(value, (int, float)) for value in (factor, offset)):
        near = 1 / _BELIEVED <= factor * deviation <= _BELIEVED and abs(mean - offset) <= _BELIEVED * deviation
        if near:
            return LEVELS * float(factor), float(offset)
    # Three digits: what another machine computes in the last place makes no other file.
    return float(f"{LEVELS / deviation:.3g}"), float(f"{mean:.3g}")


def _stored(latent: dict[str, Any]) -> tuple[float, float]:
    """The scale and the shift that a header holds. Raises FormatError where it does not."""
    scale, shift = latent.get("scale"), latent.get("shift")
    if not all(isinstance(value, (int, float)) and abs(value) <= _MOST_SCALE for value in (scale, shift)):
        raise FormatError("header: latent.scale or latent.shift is no number of a sensible size")
    if scale < 1 / _MOST_SCALE:
        raise FormatError("header: latent.scale is not above 0")
    return float(scale), float(shift)


def _probe_picture(height: int, width: int) -> torch.Tensor:
    """Coloured clouds of all sizes with hard edges in them, always the same: float32 [1, 3, height, width], -1..1."""
    random = np.random.default_rng(0)
    picture = np.zeros((height, width, 3), np.float32)
    for octave in range(6):
        grain = random.uniform(-1, 1, (2 << octave, 3 << octave, 3)).astype(np.float32)
        cloud = cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC)
        picture += 0.75**octave * (0.7 * cloud.mean(2, keepdims=True) * 1.7 + 0.3 * cloud)
    picture[height // 4 : height // 2, width // 3 : width // 2] *= -1
    picture[height // 2 :, width * 3 // 4 :] *= 0.3
    return torch.from_numpy(picture).permute(2, 0, 1)[None].clamp(-1, 1).contiguous()


def _state_of_chance(device: str) -> torch.Tensor:
    return torch.get_rng_state() if device == "cpu" else torch.cuda.get_rng_state()


def _latent_of(output: Any) -> torch.Tensor:
    """The latent in what encode() of an autoencoder returns; of a distribution the most likely one."""
    if hasattr(output, "latent_dist"):
        return output.latent_dist.mode()
    return output.latents if hasattr(output, "latents") else output.latent


def _to_array(latent: torch.Tensor) -> np.ndarray:
    """[1, channels, h, w] -> [h, w, channels]."""
    return latent[0].permute(1, 2, 0).contiguous().numpy()


# --- sizes and tiles ----------------------------------------------------------------------------------------


def _pad(samples: np.ndarray, height: int, width: int) -> np.ndarray:
    """Repeat the last samples of [H, W, ...] downwards and to the right."""
    missing = [(0, height - samples.shape[0]), (0, width - samples.shape[1])]
    return np.pad(samples, missing + [(0, 0)] * (samples.ndim - 2), mode="edge")


def _overlap(block: int) -> int:
    return -(-_OVERLAP // block)


@lru_cache(maxsize=16)
def _tiles(count: int, block: int) -> tuple[tuple[int, int], ...]:
    """Where tiles begin and end along an axis of `count` latents, all of one size; the last overlaps more."""
    size = min(count, max(_TILE // block, 2 * _overlap(block)))
    starts = range(0, max(1, count - _overlap(block)), max(1, size - _overlap(block)))
    return tuple((start, start + size) for start in (min(start, count - size) for start in starts))


def _ramp(count: int, fade: int) -> torch.Tensor:
    """Weights along a tile: rising over the first `fade` samples, falling over the last.

    Next to its edge, where it lacks what lies beyond, a tile counts only if there is no other: at the picture's border.
    """
    inwards = torch.arange(count) + 0.5
    return ((torch.minimum(inwards, inwards.flip(0)) - fade / 4) / (fade / 2)).clamp(1e-3, 1)


# --- change -------------------------------------------------------------------------------------------------


def _surroundings(changed: np.ndarray, block: int) -> np.ndarray:
    """How much of each pixel to paint anew, uint8 [h * block, w * block]; changed: bool [h, w]."""
    near = cv2.dilate(changed.astype(np.uint8) * 255, np.ones((2 * _REACH + 1, 2 * _REACH + 1), np.uint8))
    pixels = near.repeat(block, 0).repeat(block, 1)
    return cv2.blur(pixels, (2 * block + 1, 2 * block + 1), borderType=cv2.BORDER_REPLICATE)


def _mix(old: Picture, new: Picture, share: np.ndarray) -> Picture:
    """share: of the new picture, 0..255 for each luma sample, uint8; where it is 0 the old samples stay."""
    height, width = old.y.shape
    luma = share[:height, :width].astype(np.int32)
    chroma = luma[::2, ::2]

    def mix(old: np.ndarray, new: np.ndarray, share: np.ndarray) -> np.ndarray:
        return (old + ((new.astype(np.int32) - old) * share + 127) // 255).astype(np.uint8)

    return Picture(mix(old.y, new.y, luma), mix(old.u, new.u, chroma), mix(old.v, new.v, chroma))


# --- loading -----------------------------------------------------------------------------------------------


def load_autoencoder(
    name: str,
    *,
    device: str = "auto",
    revision: str | None = None,
    download: bool = True,
    latent: dict[str, Any] | None = None,
) -> AutoencoderModel:
    """An autoencoder from a folder or the Hub, alone or as the `vae` of a whole pipeline.

    name, revision, download: see pretrained.files_of. device: "auto", "cpu" or "cuda". latent: what a file says of its
    latents, whose scale and shift then hold. Raises ModelError, in one line, for whatever does not lead to an image
    autoencoder.
    """
    device = choose_device(device)
    files = files_of(name, revision, download)
    if files.called == DEFAULT_MODEL:
        raise ModelError(f"the folder {name} is called as files call the model that is built in: rename it")
    found = find(files, files.parts())
    kind = _class_of(found.config, name)
    refuse_video(found)
    network = load_network(kind, found)
    return AutoencoderModel(network, ModelId(files.called, files.commit, fingerprint(found)), device, latent)


def _class_of(config: dict[str, Any], name: str) -> type:
    try:
        import diffusers
    except ImportError as error:
        raise ModelError(f"the model {name} needs diffusers: pip install diffusers") from error
    wanted = str(config["_class_name"])
    kind = getattr(diffusers, wanted, None)
    if not isinstance(kind, type) or not issubclass(kind, diffusers.ModelMixin):
        raise ModelError(f"{name} is of class {wanted!r}, which diffusers {diffusers.__version__} does not know")
    if not (hasattr(kind, "encode") and hasattr(kind, "decode")):
        raise ModelError(f"{name} is of class {wanted}, not an autoencoder")
    return kind
