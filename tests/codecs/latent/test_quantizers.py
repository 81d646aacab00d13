"""Bühlmann's quantizers on latents of diffusers models: bytes, and palettes whose dither stays still."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Clips, Planes, Recipe, synthesise, write_clip

import sdvideo
from sdvideo.codecs.latent.model_loading import load_model
from sdvideo.codecs.latent.quantizers.palette import unpacked_size
from sdvideo.container import KEY, CodedFrame, Group, Reader, Writer
from sdvideo.errors import DamagedError, FormatError, SettingError
from sdvideo.frames import Picture
from sdvideo.media.source import open_source

BYTES = ("8bit", "palette")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """The folder of a small AutoencoderTiny: random weights, and a scale that gives its latents some deviation."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(1)
    network = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
        latent_channels=4,
        scaling_factor=90.0,
        shift_factor=0.04,
    )
    network.decoder.layers[-1].weight.data *= 20  # so that its pictures differ visibly
    folder = tmp_path_factory.mktemp("models") / "tiny"
    network.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory) -> Path:
    """A still picture with new noise in every frame, as from a camera."""
    random = np.random.default_rng(0)
    y, u, v = synthesise(192, 128, 1, seed=30)[0]
    pictures = [(np.clip(np.rint(y + random.normal(0, 2, y.shape)), 16, 235).astype(np.uint8), u, v) for _ in range(8)]
    return clip_of(pictures, tmp_path_factory.mktemp("noisy") / "noisy.mp4")


def clip_of(pictures: list[Planes], path: Path) -> Path:
    write_clip(path, pictures, Recipe(ticks=tuple(range(0, 512 * len(pictures), 512))))
    return path


@pytest.fixture(scope="module")
def encoded(clips: Clips, noisy: Path, model: str, tmp_path_factory) -> Callable[..., Path]:
    """Encodes a clip, once for each choice of settings."""
    folder = tmp_path_factory.mktemp("encoded")

    def encode(name: str, **settings) -> Path:
        path = folder / ("-".join([name, *(f"{key}{value}" for key, value in settings.items())]) + ".sdv")
        if not path.exists():
            source = noisy if name == "noisy" else clips[name].path
            sdvideo.encode(source, path, model=model, device="cpu", **settings)
        return path

    return encode


def symbols_of(path: Path, model: str) -> list:
    with sdvideo.open(path, model=model, device="cpu") as video:
        return [video.symbols() for _ in video]


def pictures_of(path: Path, model: str) -> list[Picture]:
    with sdvideo.open(path, model=model, device="cpu") as video:
        return [frame.picture for frame in video]


def same(a: Picture, b: Picture) -> bool:
    return all(np.array_equal(getattr(a, plane), getattr(b, plane)) for plane in "yuv")


def frames_of(path: Path) -> list[CodedFrame]:
    with Reader(path) as reader:
        return [frame for number in range(len(reader.groups)) for frame in reader.read_group(number).frames]


def reference_bytes(model, picture: Picture) -> np.ndarray:
    """The bytes of a picture's scaled latent, by Bühlmann's own formula."""
    z = model.source(picture).latent.astype(np.float64) / 64
    return np.round(255 * np.clip(z / (255 * 0.18215) + 0.5, 0, 1)).astype(np.uint8)


# --- 8bit ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keyint", [1, 5])
@pytest.mark.parametrize("name", ["silent", "odd"])
def test_8bit_decodes_to_exactly_the_quantized_latent_of_the_source(
    encoded, clips: Clips, model: str, name: str, keyint: int
):
    """In every frame: nothing else is lost, and no loss accumulates."""
    path = encoded(name, quantizer="8bit", keyint=keyint)
    network = load_model(model, device="cpu")
    with sdvideo.open(path, device="cpu") as video:
        network.colour = video.info.colour
        for latent, planes in zip(video.latents(0, len(video)), clips[name].planes, strict=True):
            wanted = reference_bytes(network, Picture(*planes))
            deviations = (wanted.astype(float) - 127.5) * 0.18215
            assert np.abs(latent.transpose(1, 2, 0) - deviations).max() <= 0.5 / 1024 + 1e-6
            assert len(np.unique(wanted)) > 20


@pytest.mark.parametrize("quantizer", BYTES)
def test_latents_of_a_file_are_those_its_pictures_are_decoded_from(encoded, model: str, quantizer: str):
    path = encoded("silent", quantizer=quantizer, keyint=8)
    with sdvideo.open(path, device="cpu") as video:
        every = video.latents(0, len(video))
        assert np.array_equal(video.latents(11, 14), every[11:14])
        for latent, symbols in zip(every, symbols_of(path, model)) if quantizer == "palette" else ():
            colours = (symbols.palette[symbols.indices].astype(float) - 127.5) * 0.18215
            assert np.abs(latent.transpose(1, 2, 0) - colours).max() <= 0.5 / 1024 + 1e-6


def test_predicted_frames_take_fewer_bytes_than_key_frames(encoded):
    apart = sum(len(frame.data) for frame in frames_of(encoded("silent", quantizer="8bit", keyint=1)))
    group = sum(len(frame.data) for frame in frames_of(encoded("silent", quantizer="8bit", keyint=24)))
    assert group < 0.9 * apart


# --- palettes -----------------------------------------------------------------------------------------------


def test_a_palette_at_512_by_512_is_5120_bytes_before_packing(model: str, tmp_path: Path):
    random = np.random.default_rng(3)
    picture = [np.clip(plane + random.normal(0, 40, plane.shape), 0, 255) for plane in synthesise(512, 512, 1)[0]]
    source = clip_of([tuple(plane.astype(np.uint8) for plane in picture)], tmp_path / "one.mp4")
    sdvideo.encode(source, tmp_path / "one.sdv", model=model, quantizer="palette", device="cpu")
    (symbols,) = symbols_of(tmp_path / "one.sdv", model)
    assert symbols.palette.shape == (256, 4)
    assert symbols.indices.shape == (64, 64)
    assert len(symbols.unpacked()) == unpacked_size(512, 512, channels=4, block=8) == 5120
    assert len(np.unique(symbols.palette, axis=0)) == 256
    (frame,) = frames_of(tmp_path / "one.sdv")
    assert len(frame.data) < 5120


def test_the_palette_of_a_small_picture_has_no_more_colours_than_positions(encoded, model: str):
    for symbols in symbols_of(encoded("silent", quantizer="palette", keyint=1), model):
        assert len(symbols.palette) <= symbols.indices.size == 96
        assert symbols.indices.max() < len(symbols.palette)


def test_errors_are_diffused(model: str, tmp_path: Path):
    """With too few colours, the mean over a neighbourhood is closer to the source than with the nearest colours."""
    random = np.random.default_rng(4)
    picture = [np.clip(plane + random.normal(0, 30, plane.shape), 0, 255) for plane in synthesise(512, 384, 1)[0]]
    planes = tuple(plane.astype(np.uint8) for plane in picture)
    source = clip_of([planes], tmp_path / "one.mp4")
    sdvideo.encode(source, tmp_path / "one.sdv", model=model, quantizer="palette", device="cpu")
    (symbols,) = symbols_of(tmp_path / "one.sdv", model)
    network = load_model(model, device="cpu")
    with sdvideo.open(tmp_path / "one.sdv", device="cpu") as video:
        network.colour = video.info.colour
    wanted = (network.source(Picture(*planes)).latent / 64 / 0.18215 + 127.5).astype(np.float64)
    vectors = symbols.palette.astype(np.float64)
    apart = np.square(wanted[:, :, None] - vectors).sum(-1)
    nearest = vectors[apart.argmin(-1)]

    def squared_error(colours: np.ndarray) -> float:
        means = (colours - wanted).reshape(12, 4, 16, 4, 4).mean((1, 3))
        return float(np.square(means).mean())

    assert squared_error(vectors[symbols.indices]) < 0.6 * squared_error(nearest)


def test_noise_of_the_source_does_not_move_the_dither(encoded, model: str, noisy: Path):
    """Measured in the latent, since pictures of random weights say little. φ as in metrics/flicker.py, no motion."""
    network = load_model(model, device="cpu")
    with open_source(noisy) as source:
        network.colour = source.info.colour
        wanted = [network.source(frame.picture).latent / 64 / 0.18215 + 127.5 for frame in source.frames()]

    def measured(path: Path) -> tuple[float, float]:
        """(φ, share of the positions that change from frame to frame)"""
        colours = [symbols.palette[symbols.indices].astype(float) for symbols in symbols_of(path, model)]
        errors = [colour - want for colour, want in zip(colours, wanted, strict=True)]
        flicker = sum(np.square(a - b).sum() for a, b in pairwise(errors))
        whole = sum(np.square(a).sum() + np.square(b).sum() for a, b in pairwise(errors))
        return flicker / whole, np.mean([(a != b).any(-1).mean() for a, b in pairwise(colours)])

    phi_alone, crawls = measured(encoded("noisy", quantizer="palette", keyint=1))
    phi_still, changes = measured(encoded("noisy", quantizer="palette", keyint=64))
    assert crawls > 0.3
    assert changes < 0.1 * crawls
    assert phi_still < 0.5 * phi_alone


def test_a_group_has_one_palette_and_predicted_frames_code_only_changes(encoded, model: str):
    path = encoded("silent", quantizer="palette", keyint=8)
    frames, symbols = frames_of(path), symbols_of(path, model)
    for place, (frame, current) in enumerate(zip(frames, symbols)):
        assert (frame.kind == KEY) == (place % 8 == 0)
        if frame.kind != KEY:
            previous = symbols[place - 1]
            assert np.array_equal(current.palette, previous.palette)
            assert np.array_equal(current.indices != previous.indices, current.coded)


# --- both ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantizer", BYTES)
def test_a_still_source_decodes_to_equal_pictures(encoded, model: str, quantizer: str):
    path = encoded("still", quantizer=quantizer)
    first, *others = pictures_of(path, model)
    assert all(same(first, picture) for picture in others)
    assert not any(frame.data for frame in frames_of(path)[1:])


@pytest.mark.parametrize("quantizer", BYTES)
def test_samples_do_not_change_where_the_source_does_not(model: str, tmp_path: Path, quantizer: str):
    """A square moves on the left; samples far from it do not change."""
    pictures = []
    for time in range(6):
        y, u, v = (plane.copy() for plane in synthesise(256, 64, 1, seed=8)[0])
        y[8:40, 8 + 8 * time : 40 + 8 * time] = 235
        pictures.append((y, u, v))
    source = clip_of(pictures, tmp_path / "a.mp4")
    sdvideo.encode(source, tmp_path / "a.sdv", model=model, quantizer=quantizer, device="cpu")
    first, *others = pictures_of(tmp_path / "a.sdv", model)
    assert all(np.array_equal(picture.y[:, 208:], first.y[:, 208:]) for picture in others)
    assert all(symbols.coded.any() for symbols in symbols_of(tmp_path / "a.sdv", model))


@pytest.mark.parametrize("quantizer", BYTES)
def test_random_access_returns_the_frames_of_sequential_reading(encoded, model: str, quantizer: str):
    path = encoded("silent", quantizer=quantizer, keyint=8)
    pictures = pictures_of(path, model)
    with sdvideo.open(path, model=model, device="cpu") as video:
        assert all(same(video[number].picture, pictures[number]) for number in (13, 2, 23, 8, 9))


@pytest.mark.parametrize("quantizer", BYTES)
def test_a_cut_starts_a_group(encoded, clips: Clips, quantizer: str):
    kinds = [frame.kind for frame in frames_of(encoded("cut", quantizer=quantizer))]
    assert [place for place, kind in enumerate(kinds) if kind == KEY] == [0, clips["cut"].cut]


@pytest.mark.parametrize("quantizer", BYTES)
def test_encoding_is_deterministic(encoded, clips: Clips, model: str, tmp_path: Path, quantizer: str):
    again = tmp_path / "again.sdv"
    sdvideo.encode(clips["silent"].path, again, model=model, quantizer=quantizer, keyint=8, device="cpu")
    assert again.read_bytes() == encoded("silent", quantizer=quantizer, keyint=8).read_bytes()


@pytest.mark.parametrize("quantizer", BYTES)
def test_a_resumed_encode_makes_the_same_file(encoded, clips: Clips, model: str, tmp_path: Path, quantizer: str):
    def stop(done, *_):
        if done >= 14:
            raise KeyboardInterrupt

    path, settings = tmp_path / "a.sdv", {"model": model, "quantizer": quantizer, "keyint": 8, "device": "cpu"}
    with pytest.raises(KeyboardInterrupt):
        sdvideo.encode(clips["silent"].path, path, progress=stop, **settings)
    sdvideo.encode(clips["silent"].path, path, resume=True, **settings)
    assert path.read_bytes() == encoded("silent", quantizer=quantizer, keyint=8).read_bytes()


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantizer", "coder"), [("uniform", "plain-1"), ("8bit", "bytes-1"), ("palette", "palette-1")]
)
def test_the_header_names_the_quantizer(encoded, quantizer: str, coder: str):
    path = encoded("silent", quantizer=quantizer, keyint=8)
    assert sdvideo.verify(path, device="cpu") == []
    command = [sys.executable, "-m", "sdvideo", "info", str(path), "--json"]
    facts = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert facts["coder"] == coder
    assert facts["settings"].get("quantizer", "uniform") == quantizer
    assert ("quality" in facts["settings"]) == (quantizer == "uniform")


def rewritten(path: Path, to: Path, **changes) -> Path:
    """The same file with another header."""
    with Reader(path) as reader, to.open("wb") as file:
        writer = Writer(file, replace(reader.header, **changes))
        for number in range(len(reader.groups)):
            writer.write_group(reader.read_group(number))
        writer.finish()
    return to


def refused(path: Path, *words: str) -> None:
    """Every way to read the file raises a FormatError with these words; `sdvideo verify` prints a line and exits 3."""
    for read in (list, lambda video: video[0], lambda video: list(video.check())):
        with pytest.raises(FormatError) as caught, sdvideo.open(path, device="cpu") as video:
            read(video)
        assert all(word in str(caught.value) for word in words), caught.value
    done = subprocess.run([sys.executable, "-m", "sdvideo", "verify", str(path)], capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1 and all(word in done.stderr for word in words), done.stderr


def test_an_unknown_coder_is_refused(encoded, tmp_path: Path):
    """Before the model is looked for, since the file could not be read with it either."""
    path = rewritten(encoded("silent", quantizer="8bit", keyint=8), tmp_path / "a.sdv", coder="bytes-2")
    refused(path, "coded by 'bytes-2'", "'plain-1', 'bytes-1', 'palette-1'")


def test_palettes_of_the_embedded_model_are_refused(tmp_path: Path, clips: Clips):
    sdvideo.encode(clips["cfr"].path, tmp_path / "a.sdv", base="none", device="cpu")
    refused(rewritten(tmp_path / "a.sdv", tmp_path / "b.sdv", coder="palette-1"), "coded by 'palette-1'")


def test_verify_reports_damage_of_a_file_with_an_unknown_coder(encoded, tmp_path: Path):
    path = rewritten(encoded("silent", quantizer="8bit", keyint=8), tmp_path / "a.sdv", coder="bytes-2")
    with Reader(path) as reader:
        at = reader.groups[1].offset + reader.groups[1].size // 2
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    assert ("checksum", 1) in [(damage.kind, damage.group) for damage in sdvideo.verify(path, device="cpu")]


def with_data(path: Path, to: Path, change: Callable[[bytes, int], bytes]) -> Path:
    """The same file with other frame data under valid checksums."""
    with Reader(path) as reader, to.open("wb") as file:
        writer = Writer(file, reader.header)
        group = reader.read_group(0)
        frames = [replace(frame, data=change(frame.data, place)) for place, frame in enumerate(group.frames)]
        writer.write_group(Group(0, tuple(frames)))
        writer.finish()
    return to


@pytest.mark.parametrize("quantizer", BYTES)
def test_changed_frame_data_raises_damaged_error_or_decodes_to_other_integers(encoded, tmp_path: Path, quantizer: str):
    path, random = encoded("silent", quantizer=quantizer, keyint=8), np.random.default_rng(0)
    for place in [0] * 20 + [1, 3] * 10:

        def change(data: bytes, number: int, place: int = place) -> bytes:
            data = bytearray(data)
            if number == place and data:
                for at in random.integers(0, len(data), 3):
                    data[at] ^= int(random.integers(1, 256))
            return bytes(data)

        with sdvideo.open(with_data(path, tmp_path / "a.sdv", change), device="cpu") as video:
            try:
                video.check()
            except DamagedError as error:
                assert "frame" in str(error)


@pytest.mark.parametrize("quantizer", BYTES)
@pytest.mark.parametrize("change", ["empty", "short", "long", "noise", "ones"])
def test_broken_frame_data_is_reported_as_damage(encoded, tmp_path: Path, quantizer: str, change: str):
    changes = {
        "empty": lambda data: b"",
        "short": lambda data: data[: len(data) // 8 * 4],
        "long": lambda data: data + bytes(range(64)),
        "noise": lambda data: np.random.default_rng(1).bytes(64),
        "ones": lambda data: b"\xff" * 64,
    }
    path = with_data(
        encoded("silent", quantizer=quantizer, keyint=8),
        tmp_path / "a.sdv",
        lambda data, place: changes[change](data) if place == 0 else data,
    )
    found = sdvideo.verify(path, device="cpu")
    assert len(found) <= 1
    if change in ("empty", "short", "long"):
        assert found


# --- usage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantizer", BYTES)
def test_byte_quantizers_refuse_a_quality(clips: Clips, model: str, tmp_path: Path, quantizer: str):
    for given in ({"quality": 50}, {"bitrate": 60000}, {"size": 10000}):
        line = f"quantizer {quantizer} has only one quality: leave out {next(iter(given))}"
        with pytest.raises(SettingError, match=line):
            sdvideo.encode(clips["cfr"].path, tmp_path / "a.sdv", model=model, quantizer=quantizer, **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("base", [None, "av1", "none"])
def test_byte_quantizers_need_a_diffusers_model(clips: Clips, tmp_path: Path, base):
    for quantizer in BYTES:
        with pytest.raises(SettingError, match="diffusers"):
            sdvideo.encode(clips["cfr"].path, tmp_path / "a.sdv", base=base, quantizer=quantizer)


@pytest.mark.parametrize(
    "options",
    [("--quantizer", "9bit"), ("--quantizer", "palette"), ("--quantizer", "8bit", "--model", ".", "-q", "40")],
)
def test_wrong_usage_ends_in_one_line_and_exit_code_2(clips: Clips, tmp_path: Path, options):
    command = [sys.executable, "-m", "sdvideo", "encode", str(clips["cfr"].path), "-o", str(tmp_path / "a.sdv")]
    result = subprocess.run([*command, *options], capture_output=True, text=True)
    assert result.returncode == 2
    assert "quantizer" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_command_line_encodes_with_a_palette(clips: Clips, model: str, tmp_path: Path):
    path = tmp_path / "a.sdv"
    command = [sys.executable, "-m", "sdvideo", "encode", str(clips["cfr"].path), "-o", str(path), "--model", model]
    subprocess.run([*command, "--quantizer", "palette", "--device", "cpu"], check=True, capture_output=True)
    assert len(symbols_of(path, model)) == clips["cfr"].frames
