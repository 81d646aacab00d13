"""Loads a latent model by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdvideo import weights
from sdvideo.container import ModelId
from sdvideo.errors import ModelError
from sdvideo.frames import Colour
from sdvideo.settings import DEFAULT_MODEL

if TYPE_CHECKING:  # torch takes seconds to import
    from .model import LatentModel

TINY = "tiny"  # the autoencoder of Stable Diffusion's shape that comes with the package, see weights/TINY.md


def load_model(
    name: str | None = None,
    *,
    device: str = "auto",
    colour: Colour | None = None,
    expected: ModelId | None = None,
    latent: dict[str, Any] | None = None,
    refine: bool = False,
) -> LatentModel:
    """Load a latent model.

    name: "embedded", "tiny", the folder of a diffusers autoencoder, or a Hub id, owner/name or owner/name@revision. If
    None, the name is that of `expected`, or "embedded". Then the model is looked up only in this package and in the
    cache of the Hub: a file must not cause a download, nor open a folder. device: "auto", "cpu" or "cuda". colour: how
    code values of the pictures map to colours. expected: the model that a file was made with. latent: as in its header.
    refine: whether the encoder looks for better latents than the autoencoder's own, which takes long.

    Raises ModelError if the model is not there, cannot be used, or has another hash than the expected one: a wrong
    model never decodes to a wrong picture.
    """
    download = name is not None
    name = name or (expected.name if expected else DEFAULT_MODEL)
    revision = expected.revision if expected and name == expected.name else None
    model: LatentModel
    if name == DEFAULT_MODEL:
        from .embedded import load_embedded

        model = load_embedded(device=device)
    else:
        from .autoencoder import load_autoencoder

        if name == TINY:
            autoencoder = load_autoencoder(str(weights.TINY), device=device, latent=latent)
        else:
            autoencoder = load_autoencoder(name, device=device, revision=revision, download=download, latent=latent)
        autoencoder.refine = refine
        model = autoencoder
    if colour is not None:
        model.colour = colour
    if expected is not None:
        expected.require_same(model.id, "; if the right one is elsewhere, say where (--model)")
    return model


def add_denoiser(model: LatentModel, steps: int, name: str | None, *, device: str = "auto", expected: ModelId) -> None:
    """Have a diffusion model clean the latents of an autoencoder before they are decoded (see `denoise.py`).

    steps: how many of its last steps, 1 to 66. name: of a Stable-Diffusion pipeline. If None, it is the pipeline that
    the file's own autoencoder (`expected`) belongs to, in the cache of the Hub. Raises ModelError if there is none that
    fits.
    """
    from .autoencoder import AutoencoderModel
    from .denoise import load_denoiser

    if not isinstance(model, AutoencoderModel):
        raise ModelError(f"latents of the model {model.id.name} cannot be denoised: it is not a diffusers autoencoder")
    if (name or expected.name) == TINY:
        raise ModelError(f"the model {TINY} belongs to no diffusion pipeline: give one for its latents (--denoiser)")
    revision = expected.revision if name in (None, expected.name) else None
    model.denoiser = load_denoiser(
        name or expected.name, steps, model, device=device, revision=revision, download=name is not None
    )
