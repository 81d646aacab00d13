"""Every kind of diffusers autoencoder as --model: tiny ones are built, saved, and used through the public API."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import Recipe, synthesise, tiny_dc, write_clip

import sdvideo
from sdvideo.codecs.latent.coding.rdoq import step_size
from sdvideo.container import Reader, Writer
from sdvideo.frames import Colour, Picture
from sdvideo.media.colour import from_rgb, to_rgb
from sdvideo.media.source import open_source
from sdvideo.metrics.fidelity import psnr

ROOT = Path(__file__).parents[3]
FRAMES = 3
WIDTH, HEIGHT = 72, 52  # multiples of no block size


pytestmark = pytest.mark.usefixtures("one_thread")


# --- the models ---------------------------------------------------------------------------------------------


def kl(**config):
    """An AutoencoderKL of factor 8 whose distribution is so wide that a sample of it would be noise."""
    from diffusers import AutoencoderKL

    network = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        **{"latent_channels": 4, **config},
    )
    last = network.quant_conv or network.encoder.conv_out
    channels = network.config.latent_channels
    with torch.no_grad():
        last.bias[channels:] += 10
    return network


def sdxl():
    """An AutoencoderKL whose activations are too large for float16, like those of SDXL."""
    network = kl(force_upcast=True, scaling_factor=0.13025)
    with torch.no_grad():
        for layer in (network.encoder.conv_in, network.decoder.conv_in):
            layer.weight *= 2e5
    return network


def taesd(channels: int):
    """An AutoencoderTiny with its initial weights doubled: without that its output hardly depends on its input."""
    from diffusers import AutoencoderTiny

    network = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
        latent_channels=channels,
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 2 if parameter.ndim == 4 else 1
    return network


def asymmetric():
    from diffusers import AsymmetricAutoencoderKL

    return AsymmetricAutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        down_block_out_channels=(8,) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        up_block_out_channels=(12,) * 4,
        layers_per_up_block=2,
        norm_num_groups=4,
    )


def vq():
    from diffusers import VQModel

    return VQModel(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8,) * 3,
        norm_num_groups=4,
        num_vq_embeddings=64,
    )


def flux2():
    """A class whose config has no scaling_factor at all."""
    from diffusers import AutoencoderKLFlux2

    return AutoencoderKLFlux2(block_out_channels=(8,) * 4, layers_per_block=1, latent_channels=32, norm_num_groups=4)


class Kind(NamedTuple):
    """build: makes the network. channels, block: must be found. vae: whether it is saved as the vae/ of a pipeline."""

    build: Callable
    channels: int
    block: int
    vae: bool = False


NO_QUANT_CONV = {"use_quant_conv": False, "use_post_quant_conv": False}
KINDS = {
    "sd1": Kind(lambda: kl(), 4, 8, vae=True),
    "sd2": Kind(lambda: kl(sample_size=768), 4, 8),
    "sdxl": Kind(sdxl, 4, 8, vae=True),
    "sd3": Kind(lambda: kl(latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609, **NO_QUANT_CONV), 16, 8),
    "flux": Kind(lambda: kl(latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159, **NO_QUANT_CONV), 16, 8),
    "flux2": Kind(flux2, 32, 8),
    "taesd": Kind(lambda: taesd(4), 4, 8),
    "taef1": Kind(lambda: taesd(16), 16, 8, vae=True),
    "dc": Kind(tiny_dc, 8, 32),
    "asymmetric": Kind(asymmetric, 4, 8),
    "vq": Kind(vq, 3, 4),
}


class Saved(NamedTuple):
    """folder: for --model. network: what is saved there."""

    folder: Path
    network: torch.nn.Module


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Callable[[str], Saved]:
    """Returns a saved model by the name of its kind. Each is built when it is first asked for."""
    made: dict[str, Saved] = {}

    def get(name: str) -> Saved:
        if name not in made:
            kind = KINDS[name]
            torch.manual_seed(3)
            network, folder = kind.build().eval(), tmp_path_factory.mktemp("models") / name
            network.save_pretrained(folder / "vae" if kind.vae else folder)
            if kind.vae:
                (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
            made[name] = Saved(folder, network)
        return made[name]

    return get


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    tags = {"color_range": 1, "colorspace": 1, "color_primaries": 1, "color_trc": 1}
    write_clip(path, synthesise(WIDTH, HEIGHT, FRAMES), Recipe(ticks=tuple(range(0, FRAMES * 512, 512))), **tags)
    return path


def first_picture(path: Path) -> tuple[Picture, Colour]:
    with open_source(path) as video:
        return next(iter(video.frames())).picture, video.info.colour


def to_pixels(picture: Picture, colour: Colour, block: int) -> torch.Tensor:
    """float32 [1, 3, H, W], -1..1, padded to whole blocks."""
    rgb = to_rgb(picture, colour)
    rgb = np.pad(rgb, ((0, -rgb.shape[0] % block), (0, -rgb.shape[1] % block), (0, 0)), mode="edge")
    return torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 127.5 - 1


def to_picture(pixels: torch.Tensor, colour: Colour, like: Picture) -> Picture:
    rgb = pixels[0, :, : like.height, : like.width].add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return from_rgb(np.ascontiguousarray(rgb.permute(1, 2, 0).numpy()), colour)


def mode_of(output) -> torch.Tensor:
    if hasattr(output, "latent_dist"):
        return output.latent_dist.mode()
    return output.latents if hasattr(output, "latents") else output.latent


@torch.inference_mode()
def through_diffusers(network: torch.nn.Module, path: Path, block: int) -> Picture:
    """The first picture of a clip, encoded and decoded by diffusers alone."""
    picture, colour = first_picture(path)
    latent = mode_of(network.encode(to_pixels(picture, colour, block)))
    return to_picture(network.decode(latent).sample, colour, picture)


def luma_psnr(a: Picture, b: Picture) -> float:
    return psnr(a, b)[1]


def encode(clip: Path, target: Path, model: Path | str, **settings) -> dict:
    """Encode on the CPU. Returns `latent` of the header."""
    sdvideo.encode(clip, target, model=str(model), device="cpu", overwrite=True, **settings)
    with Reader(target) as reader:
        return reader.header.latent


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_codes_a_clip(name, saved, clip, tmp_path):
    """At the finest step a picture decodes to what diffusers makes of the most likely latent, not of a random one."""
    kind, model = KINDS[name], saved(name)
    latent = encode(clip, tmp_path / "a.sdv", model.folder, quality=100)
    assert (latent["channels"], latent["block"]) == (kind.channels, kind.block)
    assert latent["class"] == type(model.network).__name__
    pictures = pictures_of(tmp_path / "a.sdv", model=str(model.folder))
    assert [(picture.width, picture.height) for picture in pictures] == [(WIDTH, HEIGHT)] * FRAMES
    assert luma_psnr(pictures[0], through_diffusers(model.network, clip, kind.block)) > (25 if name == "vq" else 40)
    done = sdvideo.decode(tmp_path / "a.sdv", tmp_path / "a.mkv", lossless=True, model=str(model.folder), device="cpu")
    assert done.frames == FRAMES
    with open_source(tmp_path / "a.mkv") as video:
        for ours, theirs in zip(video.frames(), pictures, strict=True):
            assert np.array_equal(ours.picture.y, theirs.y)


@pytest.mark.parametrize("name", ["sd1", "dc"])
def test_encoding_is_deterministic(name, saved, clip, tmp_path):
    for target in ("a.sdv", "b.sdv"):
        encode(clip, tmp_path / target, saved(name).folder)
    assert (tmp_path / "a.sdv").read_bytes() == (tmp_path / "b.sdv").read_bytes()


def test_a_model_that_overflows_in_float16_runs_in_float32(saved, clip, tmp_path):
    model = saved("sdxl")
    picture, colour = first_picture(clip)
    with torch.inference_mode():
        half = shutil.copytree(model.folder / "vae", tmp_path / "half")
        network = type(model.network).from_pretrained(half, torch_dtype=torch.float16, low_cpu_mem_usage=False)
        latent = mode_of(network.encode(to_pixels(picture, colour, 8).half()))
        assert not torch.isfinite(latent).all()  # so float16 does overflow
    encode(clip, tmp_path / "a.sdv", model.folder, quality=100)
    seen = pictures_of(tmp_path / "a.sdv", model=str(model.folder))[0]
    assert luma_psnr(seen, through_diffusers(model.network, clip, 8)) > 40


# --- scale and shift ----------------------------------------------------------------------------------------


def test_an_implausible_scaling_factor_changes_nothing(saved, clip, tmp_path):
    """Scale and shift are measured then. So the coded frames do not depend on a class's default factor."""
    folder = shutil.copytree(saved("taesd").folder, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"scaling_factor": 0.001, "shift_factor": 7.0}))
    first = encode(clip, tmp_path / "a.sdv", saved("taesd").folder)
    second = encode(clip, tmp_path / "b.sdv", folder)
    assert (first["scale"], first["shift"]) == (second["scale"], second["shift"])
    with Reader(tmp_path / "a.sdv") as ours, Reader(tmp_path / "b.sdv") as theirs:
        assert ours.read_group(0) == theirs.read_group(0)


def test_a_plausible_scaling_factor_is_used(saved, clip, tmp_path):
    """Diffusion models were trained with just this factor, and latents() returns what they were trained on."""
    folder = shutil.copytree(saved("taesd").folder, tmp_path / "other")
    for factor, used in ((7.0, True), (70.0, False), (0.07, False)):
        config = json.loads((folder / "config.json").read_text()) | {"scaling_factor": factor, "shift_factor": 0.01}
        (folder / "config.json").write_text(json.dumps(config))
        latent = encode(clip, tmp_path / "a.sdv", folder)
        assert (latent["scale"] == 64 * factor and latent["shift"] == 0.01) == used, latent


@pytest.mark.parametrize("name", ["sd1", "flux", "taesd", "dc"])
def test_a_deviation_is_about_64_steps(name, saved, clip, tmp_path):
    model, block = saved(name), KINDS[name].block
    scale = encode(clip, tmp_path / "a.sdv", model.folder)["scale"]
    picture, colour = first_picture(clip)
    with torch.inference_mode():
        latent = mode_of(model.network.encode(to_pixels(picture, colour, block)))
    assert 64 / 16 < scale * float(latent[0].std((1, 2)).square().mean().sqrt()) < 64 * 16


def rewritten(source: Path, target: Path, **latent) -> Path:
    """The same file with other values in `latent` of its header."""
    with Reader(source) as reader, target.open("wb") as file:
        kept = {key: value for key, value in (reader.header.latent | latent).items() if value is not None}
        writer = Writer(file, replace(reader.header, latent=kept))
        for number in range(len(reader.groups)):
            writer.write_group(reader.read_group(number))
        writer.finish()
    return target


def test_the_decoder_takes_scale_and_shift_from_the_file(saved, clip, tmp_path):
    model = saved("taesd")
    latent = encode(clip, tmp_path / "a.sdv", model.folder)
    scale, shift = latent["scale"] * 2, latent["shift"] + 0.1
    other = rewritten(tmp_path / "a.sdv", tmp_path / "b.sdv", scale=scale, shift=shift)
    with sdvideo.open(other, model=str(model.folder), device="cpu") as video:
        seen = video[0].picture
        values = video.symbols().latent * step_size(next(video.coded_frames()).step)
    raw = torch.from_numpy(values.astype(np.float32) / scale + shift).permute(2, 0, 1)[None].float()
    picture, colour = first_picture(clip)
    with torch.inference_mode():
        expected = to_picture(model.network.decode(raw).sample, colour, picture)
    unchanged = pictures_of(tmp_path / "a.sdv", model=str(model.folder))[0]
    assert luma_psnr(seen, expected) > max(50, luma_psnr(unchanged, expected) + 6)


@pytest.mark.parametrize("change", [{"scale": None}, {"scale": 0}, {"scale": -3.0}, {"scale": "1"}, {"shift": 1e300}])
def test_a_bad_scale_in_the_header_is_refused(change, saved, clip, tmp_path):
    folder = saved("taesd").folder
    encode(clip, tmp_path / "a.sdv", folder)
    other = rewritten(tmp_path / "a.sdv", tmp_path / "b.sdv", **change)
    with pytest.raises(sdvideo.FormatError, match="header: latent"):
        pictures_of(other, model=str(folder))


# --- large pictures -----------------------------------------------------------------------------------------


def test_tiles_leave_no_visible_borders(saved, tmp_path):
    """In tiles, a picture of odd size decodes to what diffusers makes of it as a whole. 16 channels."""
    source, model = tmp_path / "big.mkv", saved("taef1")
    write_clip(source, synthesise(1027, 1031, 1), Recipe(codec="ffv1", ticks=(0,)))
    encode(source, tmp_path / "a.sdv", model.folder, quality=100)
    (seen,) = pictures_of(tmp_path / "a.sdv", model=str(model.folder))
    whole = through_diffusers(model.network, source, 8)
    assert luma_psnr(seen, whole) > 54
    off = np.abs(seen.y.astype(float) - whole.y)
    for axis in (0, 1):
        assert off.mean(axis).max() < 0.8, axis  # grey levels: no row and no column stands out


# --- refinement ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd1", "flux", "taesd", "dc", "vq"])
def test_preset_best_decodes_closer_to_the_source(name, saved, clip, tmp_path):
    with open_source(clip) as video:
        sources = [frame.picture for frame in video.frames()]
    errors = []
    folder = saved(name).folder
    for preset in ("balanced", "best"):
        encode(clip, tmp_path / "a.sdv", folder, preset=preset)
        pairs = zip(sources, pictures_of(tmp_path / "a.sdv", model=str(folder)), strict=True)
        errors.append(np.mean([np.square(source.y.astype(float) - seen.y).mean() for source, seen in pairs]))
    assert errors[1] < errors[0]


def test_preset_best_is_deterministic(saved, clip, tmp_path):
    for target in ("a.sdv", "b.sdv"):
        encode(clip, tmp_path / target, saved("taesd").folder, preset="best")
    assert (tmp_path / "a.sdv").read_bytes() == (tmp_path / "b.sdv").read_bytes()


def test_preset_best_codes_nothing_for_still_frames(saved, tmp_path):
    source = tmp_path / "still.mp4"
    write_clip(source, synthesise(WIDTH, HEIGHT, 1) * FRAMES, Recipe(ticks=tuple(range(0, FRAMES * 512, 512))))
    folder = saved("taesd").folder
    encode(source, tmp_path / "a.sdv", folder, preset="best")
    first, *others = pictures_of(tmp_path / "a.sdv", model=str(folder))
    assert all(np.array_equal(first.y, other.y) for other in others)
    with sdvideo.open(tmp_path / "a.sdv") as video:
        assert [len(frame.data) for frame in video.coded_frames()][1:] == [0] * (FRAMES - 1)


# --- models that cannot be used -----------------------------------------------------------------------------


def cogvideox():
    from diffusers import AutoencoderKLCogVideoX

    return AutoencoderKLCogVideoX(block_out_channels=(8,) * 4, layers_per_block=1, norm_num_groups=4)


def wan():
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(base_dim=4, z_dim=16, num_res_blocks=1)


def ltx():
    from diffusers import AutoencoderKLLTXVideo

    return AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
    )


def hunyuan_video():
    from diffusers import AutoencoderKLHunyuanVideo

    return AutoencoderKLHunyuanVideo(block_out_channels=(8,) * 4, layers_per_block=1, norm_num_groups=4)


def svd():
    from diffusers import AutoencoderKLTemporalDecoder

    return AutoencoderKLTemporalDecoder(block_out_channels=(32,))


def consistency():
    """Decodes from noise: the same latent becomes another picture each time."""
    from diffusers import ConsistencyDecoderVAE

    return ConsistencyDecoderVAE(
        encoder_block_out_channels=(8,) * 4,
        encoder_layers_per_block=1,
        encoder_norm_num_groups=4,
        encoder_out_channels=4,
        decoder_block_out_channels=(8,) * 4,
        decoder_layers_per_block=1,
        decoder_norm_num_groups=4,
    )


def constant():
    network = taesd(4)
    with torch.no_grad():
        network.encoder.layers[-1].weight.zero_()
    return network


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (cogvideox, "AutoencoderKLCogVideoX, made for clips"),
        (wan, "AutoencoderKLWan, made for clips"),
        (ltx, "AutoencoderKLLTXVideo, made for clips"),
        (hunyuan_video, "AutoencoderKLHunyuanVideo, made for clips"),
        (svd, "AutoencoderKLTemporalDecoder, made for clips"),
        (consistency, "ConsistencyDecoderVAE draws random numbers"),
        (constant, "AutoencoderTiny encodes every position to the same latent"),
    ],
)
def test_unusable_models_are_refused_in_one_line(build, words, clip, tmp_path):
    build().save_pretrained(tmp_path / "model")
    with pytest.raises(sdvideo.ModelError, match=words) as caught:
        encode(clip, tmp_path / "a.sdv", tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.sdv").exists()


# --- the Hub, out of reach ----------------------------------------------------------------------------------

FIRST, SECOND = "1" * 40, "2" * 40
COMMAND = [sys.executable, "-m", "sdvideo"]


@pytest.fixture
def hub(saved, tmp_path, monkeypatch) -> Path:
    """A cache as huggingface_hub writes it, with two commits of a model: the first is tagged v1, the second is main."""
    import huggingface_hub

    cache = tmp_path / "cache"
    store = cache / "models--someone--vae"
    (store / "refs").mkdir(parents=True)
    for commit, reference, name in ((FIRST, "v1", "taesd"), (SECOND, "main", "taef1")):
        shutil.copytree(saved(name).folder, store / "snapshots" / commit)
        (store / "refs" / reference).write_text(commit)
    for name, value in (("HF_HUB_CACHE", str(cache)), ("HF_HUB_OFFLINE", True)):
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    return cache


def shell(cache: Path, *arguments: object, code: int = 0) -> str:
    """Run a command without network. Returns its standard error, which must be one line if the command fails."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))),
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, env=environment, timeout=300)
    message = done.stderr.decode()
    assert done.returncode == code, message
    assert code == 0 or message.count("\n") == 1, message
    return message


def refusal(call: Callable, *arguments, **options) -> str:
    """The message of the ModelError that a call must raise, one line."""
    with pytest.raises(sdvideo.ModelError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pictures_of(path: Path, **options) -> list[Picture]:
    with sdvideo.open(path, device="cpu", **options) as video:
        return [frame.picture for frame in video]


def model_of(path: Path) -> tuple[str, str]:
    with Reader(path) as reader:
        return reader.header.model.name, reader.header.model.revision


def test_commands_with_a_pinned_model(hub, clip, tmp_path):
    target = tmp_path / "a.sdv"
    shell(hub, "encode", clip, "-o", target, "--model", "someone/vae@v1")
    assert model_of(target) == ("someone/vae", FIRST)
    shell(hub, "decode", target, "-o", tmp_path / "a.mp4")
    shutil.rmtree(hub / "models--someone--vae" / "snapshots" / FIRST)
    message = shell(hub, "decode", target, "-o", tmp_path / "b.mp4", code=1)
    assert f"`hf download someone/vae --revision {FIRST}`" in message and "--model" in message


def test_the_revision_in_the_file_is_used_for_decoding(hub, clip, tmp_path):
    target = tmp_path / "a.sdv"
    encode(clip, target, "someone/vae@v1")
    assert model_of(target) == ("someone/vae", FIRST)
    assert len(pictures_of(target)) == FRAMES  # main is another model by now, and is not used
    assert len(pictures_of(target, model="someone/vae")) == FRAMES
    assert "sha256" in refusal(pictures_of, target, model="someone/vae@main")
    shutil.rmtree(hub / "models--someone--vae" / "snapshots" / FIRST)
    message = refusal(pictures_of, target, model="someone/vae")
    assert f"`hf download someone/vae --revision {FIRST}`" in message and "HF_HUB_OFFLINE is set" in message


def test_every_form_of_a_hub_id(hub, clip, tmp_path):
    target = tmp_path / "a.sdv"
    for name, commit in (("someone/vae", SECOND), ("someone/vae@main", SECOND), (f"someone/vae@{FIRST}", FIRST)):
        encode(clip, target, name)
        assert model_of(target) == ("someone/vae", commit)


def test_a_missing_model_is_refused_with_the_download_command(hub, clip, tmp_path):
    target = tmp_path / "a.sdv"
    message = refusal(encode, clip, target, "someone/vae@v9")
    assert "`hf download someone/vae --revision v9`" in message and "HF_HUB_OFFLINE is set" in message
    assert "`hf download someone/else`" in refusal(encode, clip, target, "someone/else")
    assert "there is no folder" in refusal(encode, clip, target, "a@b")
    assert not target.exists()


def test_a_cache_without_the_weights_is_refused(hub, clip, tmp_path):
    for weights in hub.rglob("*.safetensors"):
        weights.unlink()
    assert "`hf download someone/vae`" in refusal(encode, clip, tmp_path / "a.sdv", "someone/vae")


def test_a_cache_with_only_half_precision_weights(hub, clip, tmp_path):
    for weights in hub.rglob("*.safetensors"):
        weights.rename(weights.with_suffix(".fp16.safetensors"))
    encode(clip, tmp_path / "a.sdv", "someone/vae")
    assert model_of(tmp_path / "a.sdv") == ("someone/vae", SECOND)


# --- models in folders --------------------------------------------------------------------------------------


@pytest.fixture
def folder(saved, tmp_path, monkeypatch) -> Path:
    """A model in the working directory, so that the name which files give it is also a path to it."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(saved("taesd").folder, tmp_path / "here")


def test_a_folder_that_a_file_names_is_not_opened(folder, clip, tmp_path):
    """Even if a folder of that name exists, the user must say where the model is."""
    target = tmp_path / "a.sdv"
    encode(clip, target, folder)
    message = refusal(pictures_of, target)
    assert "'here'" in message and "--model DIR" in message
    assert message in " ".join(shell(tmp_path, "decode", target, "-o", tmp_path / "a.mkv", code=1).split())
    assert not (tmp_path / "a.mkv").exists()
    seen = pictures_of(target, model=str(folder))
    shell(tmp_path, "decode", target, "-o", tmp_path / "a.mkv", "--lossless", "--model", "here", "--device", "cpu")
    with open_source(tmp_path / "a.mkv") as video:
        for ours, theirs in zip(video.frames(), seen, strict=True):
            assert np.array_equal(ours.picture.y, theirs.y)
    elsewhere = folder.rename(tmp_path / "there")
    assert len(pictures_of(target, model=str(elsewhere))) == FRAMES
    assert len(pictures_of(target, model="there")) == FRAMES


def test_files_hold_no_path(folder, clip, tmp_path):
    """However the path to the folder is written, the file is the same."""
    files = []
    for name in (folder, "here", f"../{tmp_path.name}/here/"):
        encode(clip, tmp_path / "a.sdv", name)
        assert model_of(tmp_path / "a.sdv") == ("here", "")
        with Reader(tmp_path / "a.sdv") as reader:
            assert tmp_path.name not in str(reader.header)
        files.append((tmp_path / "a.sdv").read_bytes())
    assert len(set(files)) == 1


def test_resuming_accepts_another_path_to_the_same_folder(folder, clip, tmp_path):
    def stop(done, *_):
        if done == FRAMES:
            raise KeyboardInterrupt

    settings, reported = {"keyint": 1, "device": "cpu"}, []
    sdvideo.encode(clip, tmp_path / "whole.sdv", model="here", **settings)
    with pytest.raises(KeyboardInterrupt):
        sdvideo.encode(clip, tmp_path / "a.sdv", model=str(folder), progress=stop, **settings)
    progress = {"progress": lambda done, *_: reported.append(done)}
    sdvideo.encode(clip, tmp_path / "a.sdv", model="here", resume=True, **progress, **settings)
    assert reported[0] > 1
    assert (tmp_path / "a.sdv").read_bytes() == (tmp_path / "whole.sdv").read_bytes()


def test_resuming_with_another_model_starts_over(folder, saved, clip, tmp_path):
    """Even if the name of its folder is the same."""

    def stop(done, *_):
        if done == FRAMES:
            raise KeyboardInterrupt

    other, settings = shutil.copytree(saved("vq").folder, tmp_path / "other" / "here"), {"keyint": 1, "device": "cpu"}
    sdvideo.encode(clip, tmp_path / "whole.sdv", model=str(other), **settings)
    with pytest.raises(KeyboardInterrupt):
        sdvideo.encode(clip, tmp_path / "a.sdv", model=str(folder), progress=stop, **settings)
    sdvideo.encode(clip, tmp_path / "a.sdv", model=str(other), resume=True, **settings)
    assert (tmp_path / "a.sdv").read_bytes() == (tmp_path / "whole.sdv").read_bytes()


def test_a_folder_named_embedded_is_refused(folder, clip, tmp_path):
    folder.rename(tmp_path / "embedded")
    assert "rename it" in refusal(encode, clip, tmp_path / "a.sdv", "./embedded")
    assert not (tmp_path / "a.sdv").exists()


def test_a_folder_named_tiny_is_another_model(folder, clip, tmp_path):
    """It is not mistaken for the one that comes with the package."""
    folder = folder.rename(tmp_path / "tiny")
    encode(clip, tmp_path / "a.sdv", folder)
    message = refusal(pictures_of, tmp_path / "a.sdv")
    assert "sha256" in message and "--model" in message
    assert len(pictures_of(tmp_path / "a.sdv", model=str(folder))) == FRAMES


def test_reports_take_the_model(folder, clip, tmp_path):
    target = tmp_path / "a.sdv"
    encode(clip, target, folder)
    assert "--model DIR" in refusal(sdvideo.report, clip, target)
    assert "--model DIR" in shell(tmp_path, "report", clip, target, "--json", tmp_path / "r.json", code=1)
    assert not (tmp_path / "r.json").exists()
    shell(tmp_path, "report", clip, target, "--json", tmp_path / "r.json", "--model", "here", "--device", "cpu")
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["info"]["distorted"]["model"]["name"] == "here"
    with open_source(clip) as video:
        pairs = zip(video.frames(), pictures_of(target, model="here"), strict=True)
        wanted = [luma_psnr(frame.picture, seen) for frame, seen in pairs]
    assert [row["psnr_y"] for row in report["frames"]] == pytest.approx(wanted, abs=1e-3)
    result = sdvideo.report(target, clip, html=tmp_path / "r.html", model="here", device="cpu")
    assert result.summary["frames"] == FRAMES and (tmp_path / "r.html").stat().st_size > 0
