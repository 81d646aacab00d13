"""From the name of a model to the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdvideo import weights
from sdvideo.container import ModelId
from sdvideo.errors import ModelError
from sdvideo.frames import Colour
from sdvideo.settings import DEFAULT_MODEL

if TYPE_CHECKING:  # torch takes seconds
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
    """Find a latent model by name: "embedded" (None), "tiny", a folder of a diffusers autoencoder, or a Hub id.

    A Hub id may say which revision, as owner/name@revision. colour: of the pictures it will see. expected: what a file
    was made with; latent: what its header says of the latents. refine: let an encoder look for better latents than the
    autoencoder's own, which takes long. Without a name of the caller's own that model is looked for in this package and
    in the cache of the Hub only: a file must not make anybody download anything, nor open a folder. Another hash is a
    ModelError, never a wrong picture.
    """
    download = name is not None
    name = name or (expected.name if expected else DEFAULT_MODEL)
    revision = expected.revision if expected and name == expected.name else None
    if name == DEFAULT_MODEL:
        from .embedded import load_embedded

        model = load_embedded(device=device)
    else:
        from .autoencoder import load_autoencoder

        if name == TINY:
            model = load_autoencoder(str(weights.TINY), device=device, latent=latent)
        else:
            model = load_autoencoder(name, device=device, revision=revision, download=download, latent=latent)
        model.refine = refine
    if colour is not None:
        model.colour = colour
    if expected is not None:
        expected.require_same(model.id, "; if the right one is elsewhere, say where (--model)")
    return model


def add_denoiser(model: LatentModel, steps: int, name: str | None, *, device: str = "auto", expected: ModelId) -> None:
    """Have the latents of an autoencoder cleaned by a diffusion model, the last steps of it, before they are painted.

    name: of a Stable-Diffusion pipeline; without one, that which the file's own autoencoder (expected) is part of, in
    the cache of the Hub.
    """
    from .denoise import load_denoiser

    if (name or expected.name) == TINY:
        raise ModelError(f"{TINY} is part of no pipeline: name one of like latents as the denoiser (--denoiser)")
    revision = expected.revision if name in (None, expected.name) else None
    model.denoiser = load_denoiser(
        name or expected.name, steps, model, device=device, revision=revision, download=name is not None
    )
