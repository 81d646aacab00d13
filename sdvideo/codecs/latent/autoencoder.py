"""Frozen image autoencoders of diffusers as latent models.

Any 4-D autoencoder can be used (AutoencoderKL of Stable Diffusion and FLUX, AutoencoderTiny, AutoencoderDC, ...), from
a folder or from the Hugging Face Hub. Its config.json names its class. Its weights are safetensors, never pickles. A
test picture (`probe.py`) shows how many channels its latents have, how many pixels per position, and which scale.

Scale and prediction of the latents are in `latent_space.py` and need no network. Networks run only before quantization
and for the decoded picture. Scale and shift are written into the file, and a decoder uses those of the file.

Refinement. The latent that the encoder network returns is not the one that decodes to the best picture. With preset
best, a few gradient steps on the squared error of the decoded picture improve it. The path is short, at most a quarter
of a deviation. It starts at the encoder network's latent in every frame, and distance from the prediction costs about
what its bits are worth, so that refinement does not disturb what is at rest.

Pictures. An autoencoder sees the whole of a latent at once, so a change anywhere changes samples everywhere, a little.
Therefore only samples near a change since the last decoded picture are taken from the new picture. All others stay as
they are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from sdvideo.container import ModelId
from sdvideo.errors import FormatError, ModelError
from sdvideo.frames import Colour, Picture, extend_edges
from sdvideo.media.colour import from_rgb, to_rgb
from sdvideo.motion.block_matching import BLOCK
from sdvideo.runtime.device import choose_device
from sdvideo.settings import DEFAULT_MODEL

from .hub import find_network, fingerprint, load_network, open_repository, refuse_video_autoencoder
from .latent_space import STEPS_PER_DEVIATION, UNITS_PER_STEP, LatentSpace, Reference, grid_size
from .precision import NetworkRunner
from .probe import measure
from .tiling import TILE, apply_tiled

_REACH = 3  # positions around a changed one that are decoded anew; one more fades into the old picture
_REFINEMENTS = 4  # gradient steps
# How far the first gradient step may move each value of the latent, in quantizer steps of size 1. The following ones
# move it less, in proportion to how many are left.
_STRIDE = STEPS_PER_DEVIATION / 10
# How much worse each sample of the picture may become, in squared grey levels, for each value of its latent to come
# nearer to the prediction by 1; times the quantizer step.
_PULL = 0.2
_MAX_SCALE = 1e9

Work = Callable[[torch.Tensor], torch.Tensor]


# --- the model ----------------------------------------------------------------------------------------------


class PreparedSource(NamedTuple):
    """A picture to be coded, and its latent.

    luma: uint8 [H, W], sides padded to multiples of 16. latent: float32 [h, w, channels], in steps of size 1. pixels:
    the RGB of the picture, float32 [1, 3, h * block, w * block], -1..1.
    """

    luma: np.ndarray
    latent: np.ndarray
    pixels: torch.Tensor


class AutoencoderModel(LatentSpace):
    """A frozen autoencoder as a LatentModel (see `model.py`). Not for use by several threads at once.

    Set these before the first picture. colour: how code values of the pictures map to colours. refine: whether
    `analyse` looks for a better latent than the encoder network's. denoiser: cleans raw latents before they are decoded
    (see `denoise.py`).
    """

    def __init__(
        self,
        network: torch.nn.Module,
        model_id: ModelId,
        device: str = "cpu",
        latent: dict[str, Any] | None = None,
    ):
        """network: encodes and decodes as diffusers' autoencoders do. latent: as in a file header, None if not known.

        Raises ModelError if the network is not an image autoencoder, FormatError if scale and shift in `latent` are
        not acceptable.
        """
        kind, config = type(network).__name__, network.config
        full = device == "cpu" or getattr(config, "force_upcast", False)
        dtype = torch.float32 if full else torch.float16
        self._runner = NetworkRunner(network, kind, device, dtype, torch.channels_last)
        self._network: Any = network
        measured = measure(network, self._encode, self._decode, device)
        super().__init__(measured.channels, measured.block)
        self._scale, self._shift = (measured.scale, measured.shift) if latent is None else _stored_scale(latent)
        self.id = model_id
        self.description: dict[str, Any] = {
            "channels": self.coder.channels,
            "block": self.block,
            "class": kind,
            "scale": self._scale,
            "shift": self._shift,
        }
        self.colour = Colour()
        self.refine = False
        self.denoiser: Work | None = None

    @property
    def config(self) -> Any:
        """diffusers' config of the network."""
        return self._network.config

    def source(self, picture: Picture) -> PreparedSource:
        rows, columns = grid_size(picture.height, picture.width, self.block)
        rgb = extend_edges(to_rgb(picture, self.colour), rows * self.block, columns * self.block)
        pixels = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 127.5 - 1
        latent = apply_tiled(self._encode, pixels, self.block, scale_in=self.block)
        latent = (latent - self._shift) * self._scale
        luma_rows, luma_columns = grid_size(picture.height, picture.width, BLOCK)
        luma = extend_edges(picture.y, luma_rows * BLOCK, luma_columns * BLOCK)
        return PreparedSource(luma, _to_array(latent), pixels)

    def luma(self, source: PreparedSource | Reference) -> np.ndarray | None:
        return source.luma if isinstance(source, PreparedSource) else None

    def analyse(self, source: PreparedSource, prediction: Reference, step: float) -> np.ndarray:
        predicted = prediction.values.astype(np.float32) / UNITS_PER_STEP
        latent = self._refined(source, predicted, step) if self.refine else source.latent
        return latent - predicted

    def _refined(self, source: PreparedSource, predicted: np.ndarray, step: float) -> np.ndarray:
        """A latent that decodes to a better picture than source.latent; predicted and result as source.latent."""
        pull = _PULL * step if predicted.any() else 0.0
        latents = torch.from_numpy(np.concatenate([source.latent, predicted], 2)).permute(2, 0, 1)[None]
        stacked = torch.cat([latents, pixel_unshuffle(source.pixels, self.block)], 1)
        return _to_array(apply_tiled(partial(self._descend, pull=pull), stacked, self.block, max_pixels=TILE**2))

    @torch.enable_grad()
    def _descend(self, stacked: torch.Tensor, pull: float) -> torch.Tensor:
        """Latent, predicted latent and pixels, [1, c, h, w] -> better latent, float32 [1, channels, h, w]."""
        channels, runner = self.coder.channels, self._runner
        start, predicted, pixels = stacked.to(runner.device).tensor_split([channels, 2 * channels], 1)
        pixels = pixel_shuffle(pixels, self.block)
        pull *= pixels.numel() / start.numel() / 127.5**2
        latent = start.clone().requires_grad_()
        descent = torch.optim.Adam([latent])
        for left in range(_REFINEMENTS, 0, -1):
            descent.param_groups[0]["lr"] = _STRIDE * left / _REFINEMENTS
            raw = latent / self._scale + self._shift
            decoded = self._network.decode(raw.to(runner.dtype)).sample.float()
            # Sums, because means have gradients that are too small for float16.
            cost = (decoded - pixels).square().sum() + pull * (latent - predicted).abs().sum()
            (latent.grad,) = torch.autograd.grad(cost, latent)
            descent.step()
        better = latent.detach()
        return torch.where(better.isfinite(), better, start).cpu()

    def picture(self, reference: Reference, height: int, width: int) -> Picture:
        if reference.picture is None:
            reference.picture, reference.ancestor = self._decode_changes(reference, height, width), None
        return reference.picture

    def _decode_changes(self, reference: Reference, height: int, width: int) -> Picture:
        """The ancestor's picture, with the changed parts decoded anew; without an ancestor, all of the picture."""
        if reference.ancestor is None:
            return self._decode_values(reference.values, height, width)
        old_values, old = reference.ancestor
        changed = (reference.values != old_values).any(-1)
        if not changed.any():
            return old
        new = self._decode_values(reference.values, height, width)
        return _blend(old, new, _weight_of_new(changed, self.block))

    def _decode_values(self, values: np.ndarray, height: int, width: int) -> Picture:
        """The picture of a reference's values, all of it."""
        latent = torch.from_numpy(values).permute(2, 0, 1)[None].float()
        latent = latent / (UNITS_PER_STEP * self._scale) + self._shift
        if self.denoiser is not None:
            latent = apply_tiled(self.denoiser, latent, self.block)
        pixels = apply_tiled(self._decode, latent, self.block, scale_out=self.block)
        pixels = pixels[0, :, :height, :width].add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        return from_rgb(pixels.permute(1, 2, 0).contiguous().numpy(), self.colour)

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels -1..1, [1, 3, H, W] -> raw latent, float32 on the CPU."""
        return self._run(lambda x: _latent_of(self._network.encode(x)), pixels)

    def _decode(self, latent: torch.Tensor) -> torch.Tensor:
        """The inverse of _encode."""
        return self._run(lambda x: self._network.decode(x).sample, latent)

    def _run(self, work: Callable[[torch.Tensor], Any], x: torch.Tensor) -> torch.Tensor:
        runner = self._runner
        return runner.run(lambda: work(x.to(runner.device, runner.dtype, memory_format=torch.channels_last)))


def _stored_scale(latent: dict[str, Any]) -> tuple[float, float]:
    """Scale and shift in the header of a file. Raises FormatError if they are not acceptable."""
    for name, least in (("scale", 1 / _MAX_SCALE), ("shift", -_MAX_SCALE)):
        value = latent.get(name)
        if not isinstance(value, (int, float)) or not least <= value <= _MAX_SCALE:
            raise FormatError(f"header: latent.{name} is {value!r:.40}, must be a number {least:g} to {_MAX_SCALE:g}")
    return float(latent["scale"]), float(latent["shift"])


def _latent_of(output: Any) -> Any:
    """The latent in what an autoencoder's encode() returns; the most likely one of a distribution."""
    if hasattr(output, "latent_dist"):
        return output.latent_dist.mode()
    return output.latents if hasattr(output, "latents") else output.latent


def _to_array(latent: torch.Tensor) -> np.ndarray:
    """[1, channels, h, w] -> [h, w, channels]."""
    array: np.ndarray = latent[0].permute(1, 2, 0).contiguous().numpy()
    return array


# --- blending a changed picture into the old one ------------------------------------------------------------


def _weight_of_new(changed: np.ndarray, block: int) -> np.ndarray:
    """How much each pixel is taken from the new picture, uint8 [h * block, w * block]; changed: bool [h, w]."""
    near = cv2.dilate(changed.astype(np.uint8) * 255, np.ones((2 * _REACH + 1, 2 * _REACH + 1), np.uint8))
    pixels = near.repeat(block, 0).repeat(block, 1)
    blurred: np.ndarray = cv2.blur(pixels, (2 * block + 1, 2 * block + 1), borderType=cv2.BORDER_REPLICATE)
    return blurred


def _blend(old: Picture, new: Picture, weight: np.ndarray) -> Picture:
    """weight: of the new picture for each luma sample, 0..255, uint8; where it is 0, the old samples stay."""
    height, width = old.y.shape
    luma = weight[:height, :width].astype(np.int32)
    chroma = luma[::2, ::2]

    def blend(old: np.ndarray, new: np.ndarray, weight: np.ndarray) -> np.ndarray:
        blended: np.ndarray = old + ((new.astype(np.int32) - old) * weight + 127) // 255
        return blended.astype(np.uint8)

    return Picture(blend(old.y, new.y, luma), blend(old.u, new.u, chroma), blend(old.v, new.v, chroma))


# --- loading ------------------------------------------------------------------------------------------------


def load_autoencoder(
    name: str,
    *,
    device: str = "auto",
    revision: str | None = None,
    download: bool = True,
    latent: dict[str, Any] | None = None,
) -> AutoencoderModel:
    """Load an autoencoder from a folder or the Hub, by itself or as the `vae` of a whole pipeline.

    name, revision, download: see `hub.open_repository`. device: "auto", "cpu" or "cuda". latent: as in the header of a
    file, whose scale and shift are then used. Raises ModelError, in one line, if there is no image autoencoder that can
    be used.
    """
    device = choose_device(device)
    repository = open_repository(name, revision, download)
    if repository.name_in_file == DEFAULT_MODEL:
        raise ModelError(f"the folder {name} has the name that files give the embedded model: rename it")
    files = find_network(repository, repository.subfolders())
    network_class = _class_of(files.config, name)
    refuse_video_autoencoder(files)
    network = load_network(network_class, files)
    model_id = ModelId(repository.name_in_file, repository.commit, fingerprint(files))
    return AutoencoderModel(network, model_id, device, latent)


def _class_of(config: dict[str, Any], name: str) -> type[Any]:
    """The class of diffusers that a config names. Raises ModelError if it is no class of an autoencoder."""
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
