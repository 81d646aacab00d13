"""Cleaning latents by the last steps of a diffusion model: tiny pipelines with random weights, from their folders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import sdvideo
from sdvideo.errors import ModelError, SettingError

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
UNET = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 8,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks this small are slower on several threads, much slower where others want the cores too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def unet(**options):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(2)
    return UNet2DConditionModel(**UNET | options)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    """A folder as Stable Diffusion's, without text encoder."""
    from diffusers import AutoencoderKL, DDIMScheduler

    folder = tmp_path_factory.mktemp("models") / "pipeline"
    torch.manual_seed(1)
    AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=2.5,
        shift_factor=0.1,
    ).save_pretrained(folder / "vae")
    unet().save_pretrained(folder / "unet")
    DDIMScheduler(**SCHEDULE).save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture
def copy(pipeline, tmp_path) -> Path:
    return shutil.copytree(pipeline, tmp_path / "copy")


@pytest.fixture(scope="module")
def coded(clips, pipeline, tmp_path_factory) -> Path:
    """A clip with motion in two groups."""
    path = tmp_path_factory.mktemp("coded") / "cfr.sdv"
    sdvideo.encode(clips["cfr"].path, path, model=str(pipeline), keyint=10, quality=40, device="cpu")
    return path


def pictures(path: Path, **options) -> np.ndarray:
    """The luma of all frames, int [frames, H, W]."""
    with sdvideo.open(path, device="cpu", **options) as video:
        return np.stack([frame.picture.y for frame in video]).astype(int)


@pytest.fixture(scope="module")
def plain(coded) -> np.ndarray:
    return pictures(coded)


def set_scheduler(folder: Path, kind: str, **options) -> None:
    import diffusers

    getattr(diffusers, kind)(**SCHEDULE | options).save_pretrained(folder / "scheduler")


# --- what it does -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "DDPMScheduler"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_latents_are_cleaned_the_same_way_every_time(copy, coded, plain, kind, prediction):
    options = {} if kind != "PNDMScheduler" else {"skip_prk_steps": False}
    if kind == "DDPMScheduler":
        options = {"clip_sample": True}
    schedule = {key: SCHEDULE[key] for key in SCHEDULE}
    import diffusers

    getattr(diffusers, kind)(**schedule, prediction_type=prediction, **options).save_pretrained(copy / "scheduler")
    once = pictures(coded, denoise=3, denoiser=str(copy))
    print(kind, prediction, np.abs(once - plain).mean(), np.abs(once - plain).max(), plain.std())
    assert not np.array_equal(once, plain)
    assert np.array_equal(pictures(coded, denoise=3, denoiser=str(copy)), once)
