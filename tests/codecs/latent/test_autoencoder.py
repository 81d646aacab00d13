"""Frozen diffusers autoencoders as latent models, and the coder of their latents. Tiny models with random weights."""

from __future__ import annotations

import json
import shutil
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import tiny_dc

from sdvideo.codecs.latent import latent_space, tiling
from sdvideo.codecs.latent.coding.adaptive_coder import AdaptiveCoder
from sdvideo.codecs.latent.coding.frame_syntax import FramePlan, FrameSymbols, code_frame
from sdvideo.codecs.latent.coding.rdoq import SymbolDecoder, SymbolEncoder, dequantize, worth_coding
from sdvideo.codecs.latent.latent_space import UNITS_PER_STEP, Reference
from sdvideo.codecs.latent.model import blank_symbols
from sdvideo.codecs.latent.model_loading import load_model
from sdvideo.container import ModelId
from sdvideo.errors import DamagedError, ModelError
from sdvideo.frames import Picture
from sdvideo.media.colour import from_rgb

STEP = 130  # step index, see rdoq.step_size


pytestmark = pytest.mark.usefixtures("one_thread")


# --- the adaptive coder -------------------------------------------------------------------------------------


def smooth(shape: tuple[int, int, int], seed: int, radius: float = 2.0) -> np.ndarray:
    """A correlated random field of deviation 1, float32 [h, w, channels]."""
    rows, columns, _ = shape
    noise = np.random.default_rng(seed).standard_normal(shape)
    y = np.fft.fftfreq(rows)[:, None, None]
    x = np.fft.fftfreq(columns)[None, :, None]
    field = np.fft.ifft2(np.fft.fft2(noise, axes=(0, 1)) * spectrum(y, x, radius), axes=(0, 1)).real
    return field.astype(np.float32)


def spectrum(y: np.ndarray, x: np.ndarray, radius: float) -> np.ndarray:
    """The gain of each frequency; its mean square over all of them is 1."""
    gain = 1 / (1 + (y**2 + x**2) * (2 * np.pi * radius) ** 2)
    return gain / np.sqrt(np.mean(gain**2))


def blank(rows: int, columns: int, channels: int) -> FrameSymbols:
    motion = np.zeros((2, -(-rows // 2), -(-columns // 2)), np.int16)
    return FrameSymbols(motion, np.zeros((rows, columns), bool), np.zeros((rows, columns, channels), np.int32))


def round_trip(units: np.ndarray, before: FrameSymbols, key: bool, coded: np.ndarray | None = None):
    """Code a frame, decode it and compare. Returns its symbols and how many bytes it took."""
    coder = AdaptiveCoder(units.shape[2])
    coded = np.ones(units.shape[:2], bool) if coded is None else coded
    stream = SymbolEncoder()
    symbols = code_frame(stream, coder, before, key, STEP, FramePlan(before.motion, coded, units))
    data = stream.finish()
    decoder = SymbolDecoder(data)
    again = code_frame(decoder, coder, before, key, STEP, None)
    decoder.finish()
    for name in ("motion", "coded", "latent"):
        assert np.array_equal(getattr(again, name), getattr(symbols, name)), name
    assert symbols.latent.dtype == np.int32
    assert not symbols.latent[~symbols.coded].any()
    return symbols, len(data)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 1, 16), (1, 7, 4), (2, 3, 4), (9, 5, 3), (17, 30, 4), (33, 21, 16), (8, 8, 64)]
)
def test_symbols_round_trip(shape):
    before, _ = round_trip(8 * smooth(shape, 1), blank(*shape), key=True)
    for seed in (2, 3):
        units = 1.5 * smooth(shape, seed, 0.5)
        coded = np.random.default_rng(seed).random(shape[:2]) < 0.4
        before, _ = round_trip(units, before, key=False, coded=coded)


def test_large_values_round_trip():
    units = 5000 * smooth((12, 10, 4), 1)
    symbols, _ = round_trip(units, blank(12, 10, 4), key=True)
    assert np.abs(symbols.latent - units).max() < 1


def test_coded_values_are_close_to_the_wanted_ones():
    units = 6 * smooth((32, 32, 4), 5)
    symbols, _ = round_trip(units, blank(32, 32, 4), key=True)
    assert np.abs(symbols.latent - units).max() < 1.01
    assert np.square(symbols.latent - units).mean() < 0.11


def test_zeros_take_at_most_24_bytes():
    shape = (64, 64, 4)
    _, key = round_trip(np.zeros(shape, np.float32), blank(*shape), key=True)
    before, _ = round_trip(8 * smooth(shape, 1), blank(*shape), key=True)
    coded = np.zeros(shape[:2], bool)
    coded[3, 4] = True
    _, predicted = round_trip(np.zeros(shape, np.float32), before, key=False, coded=coded)
    assert key <= 24
    assert predicted <= 24


def test_twice_the_amplitude_takes_one_bit_more_per_value():
    field = smooth((64, 64, 4), 7)
    sizes = [round_trip(amplitude * field, blank(64, 64, 4), key=True)[1] for amplitude in (8, 16, 32)]
    bits = np.diff(sizes) * 8 / field.size
    assert ((bits > 0.8) & (bits < 1.1)).all(), bits


def test_correlation_saves_bits():
    """Within 15 % of what the best linear prediction could reach, and far below what independent values take."""
    shape, amplitude = (64, 64, 4), 16
    _, size = round_trip(amplitude * smooth(shape, 9), blank(*shape), key=True)
    frequencies = np.fft.fftfreq(64)
    gain = spectrum(frequencies[:, None], frequencies[None], 2.0)
    independent = 0.5 * np.log2(2 * np.pi * np.e * amplitude**2)
    ideal = independent + np.log2(gain).mean()
    bits = size * 8 / np.prod(shape)
    assert bits < 1.15 * ideal, (bits, ideal)
    assert bits < 0.8 * independent


def test_the_map_is_predicted_from_the_previous_map():
    shape = (40, 40, 4)
    coded = smooth((40, 40, 1), 3, 3.0)[..., 0] > 1
    nothing = np.zeros(shape, np.float32)
    before, first = round_trip(nothing, blank(*shape), key=False, coded=coded)
    _, second = round_trip(nothing, before, key=False, coded=coded)
    share = coded.mean()
    independent = -coded.size * (share * np.log2(share) + (1 - share) * np.log2(1 - share)) / 8
    assert first < 0.85 * independent
    assert second < 0.7 * first


def test_damaged_data_raises_or_decodes_to_other_symbols():
    units = 8 * smooth((9, 11, 4), 1)
    stream = SymbolEncoder()
    plan = FramePlan(blank(9, 11, 4).motion, np.ones((9, 11), bool), units)
    code_frame(stream, AdaptiveCoder(4), blank(9, 11, 4), True, STEP, plan)
    data = bytearray(stream.finish())
    random = np.random.default_rng(0)
    for _ in range(40):
        broken = bytearray(data)
        broken[random.integers(len(data))] ^= 1 << random.integers(8)
        try:
            symbols = code_frame(SymbolDecoder(bytes(broken)), AdaptiveCoder(4), blank(9, 11, 4), True, STEP, None)
            assert symbols.latent.shape == (9, 11, 4)
        except DamagedError:
            pass


# --- the models ---------------------------------------------------------------------------------------------


def tiny_kl():
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        shift_factor=0.1,
    )


def tiny_taesd():
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
        latent_channels=16,
    )


KINDS = {"kl": (tiny_kl, 4, 8), "taesd": (tiny_taesd, 16, 8), "dc": (partial(tiny_dc, scaling_factor=0.41407), 8, 32)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of saved models by kind."""
    found = {}
    for kind, (build, _, _) in KINDS.items():
        torch.manual_seed(1)
        found[kind] = tmp_path_factory.mktemp("models") / kind
        build().save_pretrained(found[kind])
    return found


@pytest.fixture(scope="module")
def models(folders):
    return {kind: load_model(str(folder), device="cpu") for kind, folder in folders.items()}


@pytest.fixture(params=KINDS)
def model(request, models):
    return models[request.param]


def scene(height: int, width: int, time: int, square: bool = True) -> Picture:
    """A texture at rest, and a bright square that moves by 8 pixels per unit of time."""
    random = np.random.default_rng(0)
    y = random.integers(60, 120, (height, width)).astype(np.uint8)
    if square:
        y[8:24, 8 + 8 * time : 24 + 8 * time] = 220
    half = (height + 1) // 2, (width + 1) // 2
    return Picture(y, np.full(half, 110, np.uint8), np.full(half, 140, np.uint8))


def same(a: Picture, b: Picture) -> bool:
    return all(np.array_equal(x, y) for x, y in zip((a.y, a.u, a.v), (b.y, b.u, b.v)))


@pytest.mark.parametrize("kind", KINDS)
def test_id_and_description_of_a_model(kind, folders, models):
    _, channels, block = KINDS[kind]
    model = models[kind]
    assert (model.coder.channels, model.block) == (channels, block)
    assert (model.description["channels"], model.description["block"]) == (channels, block)
    assert json.loads(json.dumps(model.description)) == model.description
    assert model.id.name == folders[kind].name
    assert model.id.revision == ""
    assert len(model.id.sha256) == 64


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (64, 96)])
def test_pictures_of_every_size_keep_their_size(model, size):
    source = model.source(scene(*size, 0, square=False))
    symbols = blank_symbols(model, *size)
    assert source.latent.shape == symbols.latent.shape
    assert source.latent.dtype == np.float32
    assert model.luma(source).shape == tuple(16 * n for n in symbols.motion.shape[1:])
    seen = model.picture(model.blank(*size), *size)
    assert (seen.height, seen.width) == size
    assert seen.u.shape == ((size[0] + 1) // 2, (size[1] + 1) // 2)


def test_at_fine_steps_the_picture_is_the_autoencoders(model):
    source = model.source(scene(64, 64, 0))
    prediction = model.blank(64, 64)
    delta = model.analyse(source, prediction, 1.0)
    reference = model.synthesise(prediction, delta, np.ones(delta.shape[:2], bool), 1.0)
    assert np.abs(model.analyse(source, reference, 1.0)).max() <= 0.5 / UNITS_PER_STEP + 1e-3
    scale, shift = model.description["scale"], model.description["shift"]
    raw = (reference.values / (UNITS_PER_STEP * scale) + shift).astype(np.float32)
    with torch.inference_mode():
        direct = model._network.decode(torch.from_numpy(raw).permute(2, 0, 1)[None]).sample
    rgb = direct[0].permute(1, 2, 0).add(1).mul(127.5).round().clamp(0, 255).byte().numpy()
    expected = from_rgb(rgb, model.colour)
    assert np.abs(model.picture(reference, 64, 64).y.astype(int) - expected.y).max() <= 1


def test_encoder_and_decoder_hold_the_same_references(model):
    """A key frame, a frame with motion and a still one. The decoder sees nothing but the coded data."""
    height, width, step = 70, 100, 6.0
    coder = model.coder
    before = here = blank_symbols(model, height, width)
    field = np.zeros_like(before.motion)
    field[0, :2] = -32
    there = shown = seen = None
    for time in range(3):
        key = time == 0
        source = model.source(scene(height, width, min(time, 1)))
        motion = field if time == 1 else np.zeros_like(field)
        prediction = model.blank(height, width) if key else model.predict(there, motion)
        units = model.analyse(source, prediction, step) / np.float32(step)
        coded = np.ones(units.shape[:2], bool) if key else worth_coding(units)
        if time == 2:
            coded[:] = False
        stream = SymbolEncoder()
        symbols = code_frame(stream, coder, before, key, STEP, FramePlan(motion, coded, units))
        there = model.synthesise(prediction, dequantize(symbols.latent, step), symbols.coded, step)

        taken = code_frame(SymbolDecoder(stream.finish()), coder, here, key, STEP, None)
        prediction = model.blank(height, width) if key else model.predict(shown, taken.motion)
        shown = model.synthesise(prediction, dequantize(taken.latent, step), taken.coded, step)
        assert np.array_equal(shown.values, there.values)
        last, seen = seen, model.picture(shown, height, width)
        assert (seen is last) == (time == 2)
        before, here = symbols, taken


def test_without_a_delta_nothing_changes(models):
    model = models["kl"]
    reference = model.synthesise(model.blank(64, 64), model.source(scene(64, 64, 0)).latent, np.ones((8, 8), bool), 1.0)
    seen = model.picture(reference, 64, 64)
    still = model.predict(reference, np.zeros((2, 4, 4), np.int16))
    assert still is reference
    same_values = model.synthesise(still, np.zeros((8, 8, 4), np.float32), np.ones((8, 8), bool), 1.0)
    assert same(model.picture(same_values, 64, 64), seen)
    uncoded = model.synthesise(still, np.full((8, 8, 4), 99, np.float32), np.zeros((8, 8), bool), 1.0)
    assert model.picture(uncoded, 64, 64) is seen


def test_samples_far_from_a_change_stay_the_same(models):
    """The tiny AutoencoderKL has attention: if all was decoded anew, every sample would change."""
    model = models["kl"]
    height, width = 64, 192
    reference = model.synthesise(
        model.blank(height, width), model.source(scene(height, width, 0)).latent, np.ones((8, 24), bool), 1.0
    )
    old = model.picture(reference, height, width)
    coded = np.zeros((8, 24), bool)
    coded[3, 2] = True
    changed = model.synthesise(reference, np.full((8, 24, 4), 90, np.float32), coded, 1.0)
    new = model.picture(changed, height, width)
    assert np.array_equal(new.y[:, 64:], old.y[:, 64:])
    assert np.array_equal(new.u[:, 32:], old.u[:, 32:])
    assert not np.array_equal(new.y[16:40, 8:32], old.y[16:40, 8:32])
    alone = model.picture(Reference(changed.values), height, width)
    assert np.array_equal(new.y[24:32, 16:24], alone.y[24:32, 16:24])


def test_large_pictures_are_processed_in_tiles(models, monkeypatch):
    """AutoencoderTiny looks only a few positions around, so tiles make little difference."""
    model = models["taesd"]
    picture = scene(100, 264, 0)
    whole = model.source(picture).latent
    reference = model.synthesise(model.blank(100, 264), whole, np.ones(whole.shape[:2], bool), 1.0)
    seen = model.picture(reference, 100, 264)
    monkeypatch.setattr(tiling, "MAX_PIXELS", 1)
    monkeypatch.setattr(tiling, "TILE", 128)
    tiling.tile_ranges.cache_clear()
    tiled = model.source(picture).latent
    again = model.picture(Reference(reference.values), 100, 264)
    tiling.tile_ranges.cache_clear()
    assert tiled.shape == whole.shape
    assert np.abs(tiled - whole).mean() < 0.02 * np.abs(whole).mean()
    assert np.abs(again.y.astype(int) - seen.y).mean() < 0.5


def test_tiles_cover_an_axis_evenly():
    for count in (1, 5, 63, 64, 65, 100, 135, 240):
        tiles = tiling.tile_ranges(count, 8)
        assert tiles[0][0] == 0
        assert tiles[-1][1] == count
        assert len({end - start for start, end in tiles}) == 1
        assert all(start <= end - 8 for (_, end), (start, _) in pairwise(tiles))


def test_float16_overflow_falls_back_to_float32(models, caplog):
    model = models["taesd"]
    model._runner.convert(torch.float16)

    def work(x):
        return x / 0 if x.dtype == torch.float16 else x

    assert torch.equal(model._run(work, torch.ones(1, 3, 8, 8)), torch.ones(1, 3, 8, 8))
    assert model._runner.dtype == torch.float32
    assert "continuing in float32" in caplog.text
    with pytest.raises(ModelError, match="not finite"):
        model._run(lambda x: x / 0, torch.ones(1, 3, 8, 8))


# --- the warp -----------------------------------------------------------------------------------------------


def field(dx: int, dy: int, rows: int, columns: int) -> np.ndarray:
    """A motion field with one vector everywhere, in quarters of a pixel."""
    return np.stack([np.full((rows, columns), dx), np.full((rows, columns), dy)]).astype(np.int16)


@pytest.mark.parametrize("block", [4, 8, 12, 16, 32, 64])
def test_motion_by_whole_positions_is_exact(block):
    values = np.random.default_rng(block).integers(-(2**22), 2**22, (12, 10, 3)).astype(np.int32)
    blocks = -(-12 * block // 16), -(-10 * block // 16)
    moved = latent_space.warp(values, field(2 * 4 * block, -4 * block, *blocks), block)
    x, y = (np.arange(10) + 2).clip(0, 9), (np.arange(12) - 1).clip(0, 11)
    assert moved.dtype == np.int32
    assert np.array_equal(moved, values[y[:, None], x])


def test_motion_by_parts_of_a_position_is_bilinear():
    values = np.array([[[0], [16], [32], [64]]], np.int32)
    assert latent_space.warp(values, field(16, 0, 1, 2), 8).ravel().tolist() == [8, 24, 48, 64]
    assert latent_space.warp(values, field(-8, 0, 1, 2), 8).ravel().tolist() == [0, 12, 28, 56]


def test_each_position_moves_with_the_blocks_it_touches():
    motion = np.zeros((2, 2, 4), np.int16)
    motion[0, :, 2:] = 4 * 16
    values = np.arange(32).reshape(4, 8, 1).astype(np.int32)
    moved = latent_space.warp(values, motion, 8)[0, :, 0].tolist()
    assert moved == [0, 1, 2, 3, 6, 7, 7, 7]
    coarse = latent_space.warp(values[:1, :2] * 100, motion[:, :, 1:3], 32)
    assert coarse[0, 0, 0] == 25  # the mean of rest and 16 pixels is a quarter of 32


# --- loading and refusing -----------------------------------------------------------------------------------


def refused(name, *words: str, **options) -> None:
    with pytest.raises(ModelError) as caught:
        load_model(str(name), device="cpu", **options)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


@pytest.fixture
def copy(folders, tmp_path):
    return shutil.copytree(folders["kl"], tmp_path / "copy")


def edit(folder, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=4))


def test_the_hash_covers_weights_and_config(copy, models):
    edit(copy, _diffusers_version="9.9", _name_or_path="elsewhere")
    assert load_model(str(copy), device="cpu").id.sha256 == models["kl"].id.sha256
    edit(copy, scaling_factor=0.5)
    assert load_model(str(copy), device="cpu").id.sha256 != models["kl"].id.sha256


def test_a_model_with_another_hash_is_refused(folders, models):
    load_model(str(folders["kl"]), device="cpu", expected=models["kl"].id)
    refused(folders["kl"], "sha256", expected=ModelId("mine", "", "0" * 64))


def test_the_vae_of_a_pipeline_is_found(folders, tmp_path, models):
    shutil.copytree(folders["kl"], tmp_path / "pipeline" / "vae")
    (tmp_path / "pipeline" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    model = load_model(str(tmp_path / "pipeline"), device="cpu")
    assert model.id.sha256 == models["kl"].id.sha256


def test_a_half_precision_variant_is_found(tmp_path):
    torch.manual_seed(1)
    tiny_kl().half().save_pretrained(tmp_path / "half", variant="fp16")
    assert load_model(str(tmp_path / "half"), device="cpu").coder.channels == 4


def test_sharded_weights_are_found(tmp_path):
    torch.manual_seed(1)
    tiny_kl().save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    first = load_model(str(tmp_path / "shards"), device="cpu")
    assert first.coder.channels == 4
    index = tmp_path / "shards" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    refused(tmp_path / "shards", "not .safetensors files in its own folder")


def test_a_missing_folder_is_refused(tmp_path):
    refused(tmp_path / "nowhere", "there is no folder", "Hub")
    refused("./nowhere", "there is no folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no config.json")


def test_pickles_are_refused(copy):
    weights = copy / "diffusion_pytorch_model.safetensors"
    torch.save({}, copy / "diffusion_pytorch_model.bin")
    weights.unlink()
    refused(copy, "pickle", "safetensors")


def test_missing_or_damaged_weights_are_refused(copy):
    from safetensors.torch import load_file, save_file

    weights = copy / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors.pop("encoder.conv_in.weight")
    save_file(tensors, weights, metadata={"format": "pt"})
    refused(copy, "lacks weights", "encoder.conv_in.weight")
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(copy, "damaged")
    weights.unlink()
    refused(copy, "has no", "safetensors")


def test_unusable_configs_are_refused(copy):
    edit(copy, _class_name="NoSuchAutoencoder")
    refused(copy, "NoSuchAutoencoder", "does not know")
    edit(copy, _class_name="DiffusionPipeline")
    refused(copy, "DiffusionPipeline")
    edit(copy, _class_name="UNet2DModel")
    refused(copy, "UNet2DModel", "not an autoencoder")
    (copy / "config.json").write_text("{")
    refused(copy, "JSON")


def test_autoencoders_of_clips_are_refused(tmp_path):
    from diffusers import AutoencoderKLCogVideoX

    AutoencoderKLCogVideoX(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4).save_pretrained(
        tmp_path
    )
    refused(tmp_path, "AutoencoderKLCogVideoX", "5-D")


def test_a_cached_model_needs_no_connection(folders, models, tmp_path, monkeypatch):
    import huggingface_hub

    commit = "0123456789abcdef0123456789abcdef01234567"
    store = tmp_path / "models--someone--vae"
    shutil.copytree(folders["kl"], store / "snapshots" / commit / "vae")
    (store / "refs").mkdir()
    (store / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    def unreachable(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    model = load_model("someone/vae", device="cpu")
    assert model.id == ModelId("someone/vae", commit, models["kl"].id.sha256)
    assert load_model("someone/vae", device="cpu", expected=model.id).id == model.id
    refused("someone/else", "hf download someone/else", "folder")
