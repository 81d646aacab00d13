"""The last steps of a diffusion model on a dequantised latent, just before it is painted.

Bühlmann's way with still pictures (2022): the error of a coarse quantiser looks to the U-Net of Stable Diffusion like
the noise of its own last steps, so it can take it away. As far as public code that follows his shows, he divides the
schedule by 15, 66 steps, has the last 3 taken (a strength of 0.04), without a text, starts from the scaled latent as
it is, and adds no noise. So here: the schedule has 66 steps, N of them are taken, the prompt is the empty one.

That no noise is added is what keeps videos steady: equal latents become equal pictures, and what is carried along the
motion stays as it was. Tried on four clips with a bilateral filter in the U-Net's place and N = 3: MCF was up to 0.1 dB
above that without cleaning; with noise added, as for a start from a picture, 0.1 to 0.6 dB below where it followed the
motion, 0.4 to 1.1 where all frames had the same, 1.3 to 3.1 where each had its own. Only schedulers that draw noise
in every step get any, the same in every frame.

What is ours: the latent is first scaled down by what the schedule says is left of a signal at that step (his keeps its
size, and comes out 1.5 % stronger after 3 steps); PNDM evaluates its second step twice, as it does where a schedule
begins; any scheduler of SCHEDULERS; the conditions of SDXL; zeros in place of the prompt where there is no text encoder
for it. In the file nothing changes, nor in the coding loop: references stay as they were dequantised, and as without
this only what lies near a change is painted anew.
"""

from __future__ import annotations

import inspect
import logging
from typing import Any

import torch

from sdvideo.errors import ModelError
from sdvideo.runtime.device import choose_device
from sdvideo.settings import DENOISE_STEPS

from .autoencoder import AutoencoderModel
from .hub import Folder, Hub, files_of, find, first_line, load_network, quiet, read_json

# Of diffusers' schedulers for latents, those that give a clean latent back from whichever step they begin at.
SCHEDULERS = (
    "DDIMScheduler",
    "PNDMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "UniPCMultistepScheduler",
)
PREDICTIONS = ("epsilon", "v_prediction")

_UNET = "UNet2DConditionModel"
_WORDS = 77  # of a prompt, for CLIP's text encoder
_PROBE = 8  # latents
_TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")

log = logging.getLogger("sdvideo")


class Denoiser:
    """The last steps of a diffusion model, for the latents of one autoencoder. Not for several threads at once."""

    def __init__(
        self,
        unet: torch.nn.Module,
        scheduler: Any,
        prompt: torch.Tensor,
        autoencoder: AutoencoderModel,
        steps: int,
        device: str = "cpu",
    ):
        """unet, scheduler: diffusers'. prompt: float32 [1, 77, width]. steps: 1 to DENOISE_STEPS.

        Raises ModelError if they do not fit together.
        """
        self._unet = unet.eval().requires_grad_(False)
        self._scheduler, self._prompt, self._steps, self._device = scheduler, prompt, steps, device
        self._scale, self._shift = _units(autoencoder.config)
        self._block = autoencoder.block
        self._draws = "generator" in inspect.signature(scheduler.step).parameters
        self._convert(torch.float32 if device == "cpu" else torch.float16)
        channels = autoencoder.coder.channels
        here = unet.config.in_channels, unet.config.out_channels
        if here != (channels, channels):
            raise ModelError(
                f"the U-Net takes {here[0]} channels and gives {here[1]}; the latents of this file have {channels}"
            )
        try:
            self(torch.zeros(1, channels, _PROBE, _PROBE))
        except ModelError:
            raise
        except Exception as error:  # whatever a network or a scheduler for something else may raise
            raise ModelError(f"U-Net and scheduler cannot clean a latent: {first_line(error)}") from error

    @torch.inference_mode()
    def __call__(self, latent: torch.Tensor) -> torch.Tensor:
        """Clean a latent as the autoencoder has it, float32 [1, channels, h, w] on the CPU."""
        clean = self._walk((latent - self._shift) * self._scale)
        if torch.isfinite(clean).all():
            return clean / self._scale + self._shift
        if self._dtype == torch.float32:
            raise ModelError("the U-Net computes numbers that are not finite")
        log.warning("the U-Net overflows in 16 bits: going on in 32")
        self._convert(torch.float32)
        return self(latent)

    def _walk(self, latent: torch.Tensor) -> torch.Tensor:
        """From the latent to where the schedule ends. The scheduler works on the CPU: all devices draw alike."""
        scheduler, times = self._scheduler, self._times()
        draw = {"generator": torch.Generator().manual_seed(0)} if self._draws else {}
        added = self._added(latent)
        state = scheduler.add_noise(latent, torch.zeros_like(latent), times[:1])
        for time in times:
            seen = scheduler.scale_model_input(state, time).to(self._device, self._dtype)
            found = self._unet(seen, time.to(self._device), self._prompt, added_cond_kwargs=added).sample
            state = scheduler.step(found.float().cpu(), time, state, **draw).prev_sample
        return state

    def _times(self) -> torch.Tensor:
        """The times of the last steps, each once for every evaluation of the U-Net; the scheduler is reset to them."""
        scheduler = self._scheduler
        scheduler.set_timesteps(DENOISE_STEPS)
        if type(scheduler).__name__ == "PNDMScheduler":
            times = scheduler.timesteps.unique_consecutive()[-self._steps :]
            return torch.cat([times[:2], times[1:]])
        start = (DENOISE_STEPS - self._steps) * scheduler.order
        if hasattr(scheduler, "set_begin_index"):  # where times repeat, they do not tell at which step one is
            scheduler.set_begin_index(start)
        return scheduler.timesteps[start:]

    def _added(self, latent: torch.Tensor) -> dict[str, torch.Tensor] | None:
        """What SDXL wants to know besides: a prompt as a whole, none, and size and crop of the picture."""
        config = self._unet.config
        if config.addition_embed_type != "text_time":
            return None
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        size = [side * self._block for side in latent.shape[2:]]
        added = {"text_embeds": torch.zeros(1, width), "time_ids": torch.tensor([[*size, 0, 0, *size]])}
        return {name: value.to(self._device, self._dtype) for name, value in added.items()}

    def _convert(self, dtype: torch.dtype) -> None:
        # Not diffusers' own to(), which warns of what it would keep in float32 even if that is nothing.
        self._dtype = dtype
        torch.nn.Module.to(self._unet, self._device, dtype)
        self._prompt = self._prompt.to(self._device, dtype)


def _units(config: Any) -> tuple[float, float]:
    """Scale and shift of an autoencoder's config: diffusion models see (latent - shift) * scale."""
    values = (getattr(config, "scaling_factor", None) or 1.0, getattr(config, "shift_factor", None) or 0.0)
    if not all(isinstance(value, (int, float)) for value in values):
        raise ModelError("the config of the autoencoder has a scaling_factor or a shift_factor that is no number")
    return values


# --- finding and loading ------------------------------------------------------------------------------------


def load_denoiser(
    name: str,
    steps: int,
    autoencoder: AutoencoderModel,
    *,
    device: str = "auto",
    revision: str | None = None,
    download: bool = True,
) -> Denoiser:
    """The diffusion model of a Stable-Diffusion pipeline: its unet/ and scheduler/, and its text encoder's prompt.

    name, device, revision, download: see load_autoencoder. steps: 1 to DENOISE_STEPS. autoencoder: whose latents are
    to be cleaned. Raises ModelError, in one line, for whatever does not lead to a diffusion model that fits.
    """
    device = choose_device(device)
    files = files_of(name, revision, download)
    config = _config(name, "unet/config.json", files)
    if config.get("_class_name") != _UNET:
        raise ModelError(f"the unet/ of {name} is of class {config.get('_class_name')!r}; only {_UNET} is known here")
    scheduler = _load_scheduler(name, files)
    from diffusers import UNet2DConditionModel

    unet = load_network(UNet2DConditionModel, find(files, ("unet/",)))
    return Denoiser(unet, scheduler, _empty_prompt(name, unet.config, files), autoencoder, steps, device)


def _config(name: str, file: str, files: Folder | Hub) -> dict[str, Any]:
    if path := files.file(file):
        return read_json(path)
    if files.unreached is not None:
        raise files.unreached
    raise ModelError(
        f"{name} has no {file}: to denoise, give a Stable-Diffusion pipeline, "
        "a folder or Hub id with unet/ and scheduler/ in it, as the denoiser (--denoiser)"
    )


def _load_scheduler(name: str, files: Folder | Hub) -> Any:
    config = _config(name, "scheduler/scheduler_config.json", files)
    kind, prediction = str(config.get("_class_name")), config.get("prediction_type", "epsilon")
    if kind not in SCHEDULERS:
        raise ModelError(f"the scheduler of {name} is of class {kind!r}; known are {', '.join(SCHEDULERS)}")
    if prediction not in PREDICTIONS:
        raise ModelError(f"{name} predicts {str(prediction)[:40]!r}; known are {', '.join(PREDICTIONS)}")
    import diffusers

    # Latents are not confined to -1..1 as pixels are, and PNDM's Runge-Kutta steps fit the start of a schedule alone.
    try:
        with quiet("diffusers"):
            return getattr(diffusers, kind).from_config(config, clip_sample=False, skip_prk_steps=True)
    except Exception as error:  # whatever a config can make a constructor raise
        raise ModelError(f"the scheduler of {name} cannot be set up: {first_line(error)}") from error


def _empty_prompt(name: str, config: Any, files: Folder | Hub) -> torch.Tensor:
    """What the U-Net is to see of an empty prompt, float32 [1, 77, width]: zeros if no text encoder tells.

    Of SDXL, too: its pipeline has zeros for empty prompts.
    """
    width = config.cross_attention_dim
    width = width[0] if isinstance(width, (list, tuple)) else width
    nothing = torch.zeros(1, _WORDS, width)
    path = files.file("text_encoder/config.json")
    encoder = read_json(path) if path else {}
    if encoder.get("model_type") != "clip_text_model" or encoder.get("hidden_size") != width:
        return nothing
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
    except ImportError:
        log.warning("the U-Net sees zeros, not the empty prompt, for want of transformers: pip install transformers")
        return nothing
    variant = None if files.file("text_encoder/model.safetensors") else "fp16"
    if variant and not files.file("text_encoder/model.fp16.safetensors"):
        raise ModelError(f"{name} has no text_encoder/model.safetensors; pickles are never loaded")
    tokenizer = [files.file(f"tokenizer/{file}") for file in _TOKENIZER][-1]
    if tokenizer is None:
        raise ModelError(f"{name} has no tokenizer/{_TOKENIZER[-1]}")
    try:
        words = CLIPTokenizer.from_pretrained(tokenizer.parent, local_files_only=True)(
            "", padding="max_length", max_length=_WORDS, return_tensors="pt"
        )
        model = CLIPTextModel.from_pretrained(path.parent, use_safetensors=True, local_files_only=True, variant=variant)
        with torch.inference_mode():
            return model.float().eval()(words.input_ids)[0]
    except Exception as error:  # whatever damaged files can raise
        raise ModelError(f"the text encoder of {name} cannot be used: {first_line(error)}") from error
