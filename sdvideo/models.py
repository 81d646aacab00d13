"""From the name of a latent model to the model."""

from __future__ import annotations

from .container import ModelId
from .errors import ModelError
from .latents import LatentModel
from .picture import Colour
from .settings import DEFAULT_MODEL


def load_model(
    name: str | None = None,
    *,
    device: str = "auto",
    colour: Colour | None = None,
    expected: ModelId | None = None,
) -> LatentModel:
    """Find a latent model by name: "embedded" (None), a folder of a diffusers autoencoder, or a Hub id.

    colour: of the pictures it will see. expected: what a file was made with. Without a name of the caller's own that
    model is looked for on this machine only: a file must not make anybody download anything. Another hash is a
    ModelError, never a wrong picture.
    """
    download = name is not None
    name = name or (expected.name if expected else DEFAULT_MODEL)
    if name == DEFAULT_MODEL:
        from .embedded import load_embedded as load
    else:
        from .autoencoder import load_autoencoder as load
    revision = expected.revision if expected else None
    model = load(name, device=device, revision=revision, download=download)
    if colour is not None:
        model.colour = colour
    if expected is not None and model.id.sha256 != expected.sha256:
        raise ModelError(
            f"the file was made with model {expected.name} of sha256 {expected.sha256[:12]}...; "
            f"the one here has {model.id.sha256[:12]}..."
        )
    return model
