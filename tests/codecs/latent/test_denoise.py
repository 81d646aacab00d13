"""Cleaning latents with the last steps of a diffusion model: tiny pipelines with random weights, from folders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from conftest import Recipe, synthesise, write_clip

import sdvideo
from sdvideo.codecs.latent import tiling
from sdvideo.codecs.latent.denoise import SCHEDULERS, load_denoiser
from sdvideo.codecs.latent.latent_space import Reference
from sdvideo.codecs.latent.model_loading import load_model
from sdvideo.errors import ModelError, SettingError

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers", "ignore::DeprecationWarning:numpy"),
]

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
# These draw noise in every step.
RANDOM = ("DDPMScheduler", "EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler")
UNET = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 8,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}


def save_unet(folder: Path, silent: bool = False, **options) -> None:
    """Save a U-Net with random weights. silent: one that predicts zero everywhere."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(2)
    unet = UNet2DConditionModel(**UNET | options)
    if silent:
        torch.nn.init.zeros_(unet.conv_out.weight)
        torch.nn.init.zeros_(unet.conv_out.bias)
    unet.save_pretrained(folder / "unet")


def save_scheduler(folder: Path, kind: str = "DDIMScheduler", **options) -> None:
    import diffusers

    getattr(diffusers, kind)(**SCHEDULE | options).save_pretrained(folder / "scheduler")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    """A folder like Stable Diffusion's, without a text encoder."""
    from diffusers import AutoencoderKL

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
    save_unet(folder)
    save_scheduler(folder)
    return folder


@pytest.fixture
def copy(pipeline, tmp_path) -> Path:
    return shutil.copytree(pipeline, tmp_path / "copy")


@pytest.fixture(scope="module")
def model(pipeline):
    return load_model(str(pipeline), device="cpu")


def encode(folder: Path, pictures: list, model: str) -> Path:
    clip = folder / "clip.mp4"
    write_clip(clip, pictures, Recipe(ticks=tuple(range(0, 512 * len(pictures), 512))))
    sdvideo.encode(clip, folder / "clip.sdv", model=model, keyint=4, quality=40, device="cpu")
    return folder / "clip.sdv"


@pytest.fixture(scope="module")
def coded(pipeline, tmp_path_factory) -> Path:
    """Six frames with motion in two groups."""
    return encode(tmp_path_factory.mktemp("coded"), synthesise(72, 56, 6), str(pipeline))


def decoded(path: Path, model: Path | None, **options) -> tuple[np.ndarray, list]:
    """The luma of all frames, int [frames, H, W], and the symbols they come from."""
    with sdvideo.open(path, model=model and str(model), device="cpu", **options) as video:
        found = [(frame.picture.y, video.symbols()) for frame in video]
    return np.stack([y for y, _ in found]).astype(int), [symbols for _, symbols in found]


@pytest.fixture(scope="module")
def plain(coded, pipeline) -> np.ndarray:
    return decoded(coded, pipeline)[0]


# --- effect on a video --------------------------------------------------------------------------------------


def test_pictures_change_and_symbols_do_not(coded, pipeline, plain):
    before = decoded(coded, pipeline)[1]
    pictures, symbols = decoded(coded, pipeline, denoise=3)
    assert np.abs(pictures - plain).mean() > 0.5
    assert len(symbols) == len(before)
    for here, there in zip(symbols, before):
        for name in ("motion", "coded", "latent"):
            assert np.array_equal(getattr(here, name), getattr(there, name)), name
    assert np.array_equal(decoded(coded, pipeline, denoise=3)[0], pictures)
    assert not np.array_equal(decoded(coded, pipeline, denoise=1)[0], pictures)


def test_no_steps_change_nothing(coded, pipeline, plain):
    assert np.array_equal(decoded(coded, pipeline, denoise=0, denoiser="nowhere")[0], plain)


def test_random_access_gives_the_frames_of_playback(coded, pipeline):
    pictures, _ = decoded(coded, pipeline, denoise=2)
    with sdvideo.open(coded, model=str(pipeline), device="cpu", denoise=2) as video:
        for number in (5, 2, 4):
            assert np.array_equal(video[number].picture.y, pictures[number])


@pytest.mark.parametrize("kind", ["DDIMScheduler", "DDPMScheduler"])
def test_still_frames_stay_still(copy, tmp_path, kind):
    """Even if the scheduler draws noise, because it is the same in every frame."""
    save_scheduler(copy, kind)
    path = encode(tmp_path, synthesise(72, 56, 1) * 4, str(copy))
    pictures, _ = decoded(path, copy, denoise=3)
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures[1:])


def test_a_unet_that_predicts_no_noise_changes_nothing(coded, pipeline, plain, copy):
    save_unet(copy, silent=True)
    for kind in ("DDIMScheduler", "PNDMScheduler"):
        save_scheduler(copy, kind)
        pictures, _ = decoded(coded, pipeline, denoise=3, denoiser=str(copy))
        assert np.abs(pictures - plain).max() <= 2


def test_the_command(coded, pipeline, tmp_path):
    def run(*arguments, code):
        command = [sys.executable, "-m", "sdvideo", "decode", str(coded), "-y", "-o", str(tmp_path / "out.mkv")]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
        assert done.returncode == code, done.stderr
        return done.stderr

    assert "--model DIR" in run("--denoise", "3", "--denoiser", str(pipeline), code=1)
    model = ["--model", str(pipeline / "vae")]
    assert "--denoiser" in run(*model, "--denoise", "3", code=1)
    run(*model, "--denoise", "3", "--denoiser", str(pipeline), "--lossless", "--device", "cpu", code=0)
    with av.open(str(tmp_path / "out.mkv")) as video:
        seen = [frame.to_ndarray()[: frame.height] for frame in video.decode(video=0)]
    assert np.array_equal(np.stack(seen), decoded(coded, pipeline, denoise=3)[0])
    assert "0 to 66" in run("--denoise", "67", code=2)
    assert "--denoise" in run("--denoiser", str(pipeline), code=2)
    assert "exclude" in run("--denoise", "3", "--preview", code=2)


def test_the_packages_model_needs_a_denoiser_named(pipeline, tmp_path):
    path = encode(tmp_path, synthesise(72, 56, 2), "tiny")
    for model in (None, Path("tiny")):
        with pytest.raises(ModelError, match="--denoiser"):
            decoded(path, model, denoise=3)
    plain, pictures = decoded(path, None)[0], decoded(path, None, denoise=3, denoiser=str(pipeline))[0]
    assert not np.array_equal(pictures, plain)


def test_only_files_of_diffusers_autoencoders_are_denoised(clips, tmp_path):
    for base in ("av1", "none"):
        sdvideo.encode(clips["still"].path, tmp_path / "a.sdv", base=base, overwrite=True, device="cpu")
        with pytest.raises(SettingError, match="diffusers autoencoder"):
            sdvideo.open(tmp_path / "a.sdv", denoise=3)
    with pytest.raises(SettingError, match="0 to 66"):
        sdvideo.decode(tmp_path / "a.sdv", tmp_path / "a.mkv", denoise=-1)


# --- effect on a latent -------------------------------------------------------------------------------------


def latent(height: int = 7, width: int = 9, channels: int = 4) -> torch.Tensor:
    """A random latent in the scale of the tiny autoencoder."""
    return torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(3)) / 2.5 + 0.1


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_every_scheduler_ends_with_a_clean_latent(kind, copy, model):
    """If the U-Net predicts no noise, only the little that a scheduler draws is left. Later calls give the same."""
    save_unet(copy, silent=True)
    save_scheduler(copy, kind)
    for steps in (1, 2, 3, 66):
        denoiser = load_denoiser(str(copy), steps, model, device="cpu")
        clean = denoiser(latent())
        if steps < 66 or kind not in RANDOM:
            assert (clean - latent()).abs().max() < (0.3 if kind in RANDOM else 0.01)
        denoiser(torch.ones(1, 4, 5, 5))
        assert torch.equal(denoiser(latent()), clean)


@pytest.mark.parametrize("kind", ["DDIMScheduler", "PNDMScheduler"])
def test_predicted_noise_is_subtracted(kind, copy, model):
    """The U-Net predicts 1 everywhere. It is subtracted as many times as the schedule says noise is left."""
    from safetensors.torch import load_file, save_file

    save_unet(copy, silent=True)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(weights) | {"conv_out.bias": torch.ones(4)}, weights, metadata={"format": "pt"})
    save_scheduler(copy, kind, steps_offset=1, set_alpha_to_one=False)
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    for steps, time in ((1, 1), (3, 31)):
        noise = (1 / alphas[time] - 1).sqrt() - (1 / alphas[0] - 1).sqrt()  # only that of time 0 is left
        found = latent() - load_denoiser(str(copy), steps, model, device="cpu")(latent())
        assert torch.allclose(found, (noise / 2.5).expand_as(found), atol=0.002)


def test_repeated_times_are_taken_once_each(copy, model):
    """Karras' noise levels end with the times 1, 1, 0, 0. Each step is still taken once."""
    save_scheduler(copy, "DPMSolverMultistepScheduler", use_karras_sigmas=True)
    cleaned = [load_denoiser(str(copy), steps, model, device="cpu")(latent()) for steps in (1, 2, 3, 4)]
    changes = [float((clean - latent()).abs().mean()) for clean in cleaned]
    assert changes == sorted(changes) and len(set(changes)) == 4


@pytest.mark.parametrize("kind", ["DDIMScheduler", "PNDMScheduler"])
def test_velocity_prediction_is_supported(kind, copy, model):
    """For a latent without noise, velocity 0 means as much noise as the start has signal, and epsilon 0 means none."""
    save_unet(copy, silent=True)
    save_scheduler(copy, kind, prediction_type="v_prediction", steps_offset=1)
    clean = load_denoiser(str(copy), 1, model, device="cpu")(latent())
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    assert torch.allclose((clean - 0.1) / (latent() - 0.1), alphas[1].expand(1, 4, 7, 9), atol=0.002)


def test_large_pictures_are_cleaned_in_tiles(model, copy, monkeypatch):
    save_unet(copy, silent=True)
    denoiser = load_denoiser(str(copy), 3, model, device="cpu")
    values = np.random.default_rng(0).integers(-1000, 1000, (13, 40, 4)).astype(np.int32)
    sizes = []

    def clean(latent):
        sizes.append(tuple(latent.shape[2:]))
        return denoiser(latent)

    for most in (2**20, 1):
        monkeypatch.setattr(tiling, "MAX_PIXELS", most)
        monkeypatch.setattr(tiling, "TILE", 128)
        tiling.tile_ranges.cache_clear()
        monkeypatch.setattr(model, "denoiser", None)
        plain = model.picture(Reference(values), 100, 317)
        monkeypatch.setattr(model, "denoiser", clean)
        cleaned = model.picture(Reference(values), 100, 317)
        assert np.abs(cleaned.y.astype(int) - plain.y).max() <= 2
    tiling.tile_ranges.cache_clear()
    assert sizes == [(13, 40), *[(13, 16)] * 4]


def test_float16_overflow_falls_back_to_float32(copy, model, caplog):
    from safetensors.torch import load_file, save_file

    def cleaned(sixteen: bool) -> torch.Tensor:
        denoiser = load_denoiser(str(copy), 3, model, device="cpu")
        if sixteen:
            denoiser._runner.convert(torch.float16)
        return denoiser(latent())

    assert (cleaned(sixteen=True) - cleaned(sixteen=False)).abs().max() < 0.01
    assert "continuing in float32" not in caplog.text
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    save_file(weights | {"conv_norm_out.weight": torch.full((8,), 6e4)}, path, metadata={"format": "pt"})
    exact = cleaned(sixteen=False)
    assert (cleaned(sixteen=True) - exact).abs().max() < 0.01 * exact.abs().max()
    assert "continuing in float32" in caplog.text
    save_file(weights | {"conv_out.bias": torch.full((4,), torch.inf)}, path, metadata={"format": "pt"})
    refused(copy, model, "not finite")


# --- inputs of the U-Net ------------------------------------------------------------------------------------


def test_unets_without_text_and_those_of_sdxl(copy, model):
    kinds = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    save_unet(copy, **kinds, mid_block_type="UNetMidBlock2D")
    assert load_denoiser(str(copy), 3, model, device="cpu")(latent()).shape == (1, 4, 7, 9)
    sdxl = {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 64}
    save_unet(copy, addition_embed_type="text_time", **sdxl)
    small, large = (load_denoiser(str(copy), 3, model, device="cpu")(latent(size, size)) for size in (7, 8))
    assert small.shape[2:] == (7, 7) and large.shape[2:] == (8, 8)


def test_the_prompt_is_the_empty_one(copy, model, caplog, monkeypatch):
    """transformers is mocked. Tested is what it is asked for, and that the U-Net gets its answer."""
    silence = load_denoiser(str(copy), 3, model, device="cpu")(latent())
    encoder = copy / "text_encoder"
    encoder.mkdir()
    (encoder / "config.json").write_text('{"model_type": "clip_text_model", "hidden_size": 8}')
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert torch.equal(load_denoiser(str(copy), 3, model, device="cpu")(latent()), silence)
    assert "pip install transformers" in caplog.text

    def tokenize(text, padding, max_length, return_tensors):
        assert (text, padding, return_tensors) == ("", "max_length", "pt")
        return SimpleNamespace(input_ids=torch.arange(max_length)[None])

    class Encoder(torch.nn.Module):
        def forward(self, words):
            assert words.shape == (1, 77)
            return (words[..., None].expand(1, 77, 8).float(),)

    def load(answer):
        def from_pretrained(folder, local_files_only, **options):
            assert local_files_only and Path(folder).is_dir() and options.get("use_safetensors", True)
            return answer

        return SimpleNamespace(from_pretrained=from_pretrained)

    played = SimpleNamespace(CLIPTokenizer=load(tokenize), CLIPTextModel=load(Encoder()))
    monkeypatch.setitem(sys.modules, "transformers", played)
    refused(copy, model, "text_encoder/model.safetensors", "pickles")
    (encoder / "model.safetensors").touch()
    refused(copy, model, "tokenizer/merges.txt")
    (copy / "tokenizer").mkdir()
    (copy / "tokenizer" / "merges.txt").touch()
    assert not torch.equal(load_denoiser(str(copy), 3, model, device="cpu")(latent()), silence)


# --- loading and refusing -----------------------------------------------------------------------------------


def refused(folder: Path | str, model, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_denoiser(str(folder), 3, model, device="cpu")
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_without_a_diffusion_model_is_refused(copy, model, pipeline):
    refused("./nowhere", model, "there is no folder")
    refused(pipeline / "vae", model, "unet/config.json", "--denoiser", "Stable-Diffusion pipeline")
    shutil.rmtree(copy / "scheduler")
    refused(copy, model, "scheduler/scheduler_config.json", "--denoiser")


def test_the_models_own_pipeline_is_the_default_denoiser(coded, pipeline, copy):
    moved = shutil.move(copy / "unet", copy / "elsewhere")
    with pytest.raises(ModelError, match="--denoiser"), sdvideo.open(coded, model=str(copy), denoise=3) as video:
        video[0]
    shutil.move(moved, copy / "unet")
    with sdvideo.open(coded, model=str(copy), denoise=3, device="cpu") as video:
        assert np.array_equal(video[0].picture.y, decoded(coded, pipeline, denoise=3)[0][0])


def test_pickles_are_refused(copy, model):
    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({}, copy / "unet" / "diffusion_pytorch_model.bin")
    refused(copy, model, "pickle", "safetensors")


def test_unets_for_other_latents_are_refused(copy, model):
    save_unet(copy, in_channels=9)
    refused(copy, model, "9 channels", "4")
    save_unet(copy, out_channels=8)
    refused(copy, model, "8", "4")
    save_unet(copy, class_embed_type="timestep")
    refused(copy, model, "cannot clean a latent")
    edit(copy / "unet" / "config.json", _class_name="UNet2DModel")
    refused(copy, model, "UNet2DModel", "UNet2DConditionModel")


def test_unusable_schedulers_are_refused(copy, model):
    path = copy / "scheduler" / "scheduler_config.json"
    for changes, word in (
        ({"num_train_timesteps": 10}, "cannot clean a latent"),
        ({"beta_schedule": "none such"}, "none such"),
        ({"prediction_type": "sample"}, "sample"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler"),
        ({"_class_name": "StableDiffusionPipeline"}, "StableDiffusionPipeline"),
    ):
        save_scheduler(copy)
        edit(path, **changes)
        refused(copy, model, word)
    path.write_text("{")
    refused(copy, model, "JSON")


def test_a_model_named_by_a_file_is_never_downloaded(pipeline, tmp_path, monkeypatch):
    import huggingface_hub

    commit = "0123456789abcdef0123456789abcdef01234567"
    store = tmp_path / "models--someone--sd"
    snapshot = store / "snapshots" / commit
    shutil.copytree(pipeline, snapshot)
    (store / "refs").mkdir()
    (store / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    asked = []

    def unreachable(name, file, **_):
        asked.append(file)
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    missing = store / ".no_exist" / commit  # files that the Hub is known not to have
    for file in ("config.json", "text_encoder/config.json"):
        (missing / file).parent.mkdir(parents=True, exist_ok=True)
        (missing / file).touch()
    path = encode(tmp_path, synthesise(72, 56, 2), "someone/sd")
    assert not np.array_equal(decoded(path, None, denoise=3)[0], decoded(path, None)[0])
    shutil.rmtree(snapshot / "unet")
    with pytest.raises(ModelError, match="someone/sd"):
        decoded(path, None, denoise=3)
    assert not asked
    with pytest.raises(ModelError, match="hf download someone/sd"):
        decoded(path, None, denoise=3, denoiser="someone/sd")
    assert asked == ["unet/config.json"]
