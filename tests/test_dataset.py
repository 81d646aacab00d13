"""Latents of files as data: read from any position, without their autoencoder, and in windows for training."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import sdvideo
from sdvideo.codecs.latent.coding.rdoq import step_size
from sdvideo.codecs.latent.frame_codec import FrameDecoder
from sdvideo.codecs.latent.latent_space import STEPS_PER_DEVIATION, UNITS_PER_STEP
from sdvideo.codecs.latent.model_loading import load_model
from sdvideo.container import Reader
from sdvideo.container.preamble import inflate_header
from sdvideo.errors import DamagedError, FormatError, ModelError, SettingError
from sdvideo.frames import Colour, Picture
from sdvideo.media.colour import to_rgb
from sdvideo.media.source import open_source

FRAMES = 24
KEYINT = 7
SCALE, SHIFT = 3.0, 0.25


pytestmark = pytest.mark.usefixtures("one_thread")


class Made(NamedTuple):
    """folder: holds all files. files: a folder in it, with those of one size. references: the decoder's, for b.sdv.
    raw: the latents that the network returns for the frames of keys.sdv."""

    folder: Path
    files: Path
    references: list[np.ndarray]
    raw: np.ndarray


@pytest.fixture(scope="module")
def made(tmp_path_factory, clips):
    """Files whose model is deleted afterwards, and data that only the model can give."""
    from diffusers import AutoencoderTiny

    folder = tmp_path_factory.mktemp("latents")
    torch.manual_seed(1)
    network = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
        scaling_factor=SCALE,
        shift_factor=SHIFT,
    )
    network.save_pretrained(folder / "model")
    model = load_model(str(folder / "model"), device="cpu")

    files = folder / "files"
    files.mkdir()
    options = {"model": str(folder / "model"), "device": "cpu"}
    sdvideo.encode(clips["silent"].path, files / "b.sdv", quality=60, keyint=KEYINT, **options)
    sdvideo.encode(clips["cut"].path, files / "a.sdv", quality=90, **options)
    sdvideo.encode(clips["odd"].path, folder / "odd.sdv", quality=60, **options)
    sdvideo.encode(clips["odd"].path, folder / "half.sdv", quality=60, scale="1/2", **options)
    sdvideo.encode(clips["cfr"].path, folder / "keys.sdv", quality=100, keyint=1, **options)

    with sdvideo.open(files / "b.sdv") as video:
        decoder, references, coded_frames = FrameDecoder(model, 64, 96), [], list(video.coded_frames())
    for coded in coded_frames:
        decoder.reconstruct(coded, decoder.parse(coded))
        references.append(decoder._reference.values.copy())
    with open_source(clips["cfr"].path) as source, torch.no_grad():
        raw = [network.encode(pixels(frame.picture, source.info.colour)).latents for frame in source.frames()]
    shutil.rmtree(folder / "model")
    return Made(folder, files, references, torch.cat(raw).numpy())


def pixels(picture: Picture, colour: Colour) -> torch.Tensor:
    """The input of diffusers' autoencoders, float32 [1, 3, H, W]."""
    return torch.from_numpy(to_rgb(picture, colour)).permute(2, 0, 1)[None].float() / 127.5 - 1


# --- from one file ------------------------------------------------------------------------------------------


def test_latents_are_the_decoders_references_from_every_position(made):
    expected = np.stack(made.references).transpose(0, 3, 1, 2) / (UNITS_PER_STEP * STEPS_PER_DEVIATION)
    path = made.files / "b.sdv"
    with sdvideo.open(path) as video:
        whole = video.latents()
        assert whole.dtype == np.float32
        assert whole.shape == (FRAMES, 4, 8, 12)
        assert np.array_equal(whole, expected)
    for start in range(FRAMES):
        with sdvideo.open(path) as video:
            assert np.array_equal(video.latents(start, start + 5), expected[start : start + 5]), start
    with sdvideo.open(path) as video:
        for start, stop in ((0, 8), (4, 12), (12, 14), (11, 12), (2, 3), (20, 24), (0, 24), (23, 24), (22, 24)):
            assert np.array_equal(video.latents(start, stop), expected[start:stop]), (start, stop)


def test_returned_arrays_belong_to_the_caller(made):
    with sdvideo.open(made.files / "b.sdv") as video:
        first = video.latents(0, 6)
        kept = first.copy()
        first[:] = 99
        assert np.array_equal(video.latents(0, 6), kept)


def test_ranges_are_those_of_python_slices(made):
    with sdvideo.open(made.files / "b.sdv") as video:
        whole = video.latents()
        for start, stop in (
            (None, 5),
            (5, None),
            (-3, None),
            (None, -20),
            (-5, -2),
            (3, 3),
            (9, 4),
            (20, 99),
            (99, 100),
        ):
            assert np.array_equal(video.latents(start, stop), whole[start:stop]), (start, stop)
        assert video.latents(3, 3).shape == (0, 4, 8, 12)
        with pytest.raises(TypeError, match="indices must be integers"):
            video.latents(0.5, 3)


def test_latents_are_within_a_step_of_the_encoders(made):
    with sdvideo.open(made.folder / "keys.sdv") as video:
        steps = [step_size(coded.step) / STEPS_PER_DEVIATION for coded in video.coded_frames()]
        found = video.latents()
    with Reader(made.folder / "keys.sdv") as reader:
        scale, shift = reader.header.latent["scale"] / STEPS_PER_DEVIATION, reader.header.latent["shift"]
    for latent, raw, step in zip(found, made.raw, steps, strict=True):
        assert np.abs(latent - (raw - shift) * scale).max() <= 1.01 * step + 1 / (UNITS_PER_STEP * STEPS_PER_DEVIATION)


def test_sizes_are_rounded_up_to_whole_latents(made):
    with sdvideo.open(made.folder / "odd.sdv") as video:
        assert (video.info.width, video.info.height) == (65, 47)
        assert video.latents(0, 2).shape == (2, 4, 6, 9)


def test_latents_of_scaled_pictures_are_small(made):
    with sdvideo.open(made.folder / "half.sdv") as video:
        assert (video.info.width, video.info.height) == (65, 47)
        assert video.latents(0, 2).shape == (2, 4, 3, 4)


def test_neither_the_autoencoder_nor_diffusers_is_needed(made):
    with sdvideo.open(made.files / "b.sdv") as video:
        with pytest.raises(ModelError):
            video[0]
        assert len(video.latents(3, 5)) == 2
    code = (
        "import sys, sdvideo\n"
        "with sdvideo.open(sys.argv[1]) as video: video.latents(3, 5)\n"
        "print(*[name for name in ('diffusers', 'sdvideo.codecs.latent.autoencoder') if name in sys.modules])"
    )
    run = [sys.executable, "-c", code, str(made.files / "b.sdv")]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip() == ""


def test_files_without_latents_of_their_own_are_refused(clips, tmp_path):
    for name, options in (("av1", {}), ("embedded", {"base": "none"})):
        path = tmp_path / f"{name}.sdv"
        sdvideo.encode(clips["still"].path, path, preset="fast", **options)
        with sdvideo.open(path) as video, pytest.raises(SettingError, match="autoencoder of diffusers") as caught:
            video.latents(0, 1)
        assert str(path) in str(caught.value)
        with pytest.raises(SettingError, match="autoencoder of diffusers"):
            sdvideo.LatentDataset([path], frames=2)


def test_a_header_with_huge_latents_is_refused_before_allocation(made, tmp_path):
    """The header is changed, and its checksum with it."""
    data = (made.files / "b.sdv").read_bytes()
    end = 16 + int.from_bytes(data[12:16], "little")
    text = (
        inflate_header(data[16:end]).replace(b'"channels":4,', b'"channels":65536,').replace(b'"block":8', b'"block":2')
    )
    head = data[:12] + len(text).to_bytes(4, "little") + text
    path = tmp_path / "x.sdv"
    path.write_bytes(head + zlib.crc32(head).to_bytes(4, "little") + data[end + 4 :])
    with sdvideo.open(path) as video, pytest.raises(FormatError, match="65536 x 32 x 48 has more than"):
        video.latents(0, 1)


# --- windows of many files ----------------------------------------------------------------------------------


def same(one: dict, other: dict) -> bool:
    return torch.equal(one["latents"], other["latents"]) and all(one[key] == other[key] for key in ("path", "first"))


def test_windows_never_cross_files(made):
    dataset = sdvideo.LatentDataset(made.files, frames=8, stride=5)
    names = [(Path(item["path"]).name, item["first"]) for item in (dataset[i] for i in range(len(dataset)))]
    assert names == [("a.sdv", 0), ("a.sdv", 5), ("a.sdv", 10), *(("b.sdv", first) for first in (0, 5, 10, 15))]
    with sdvideo.open(made.files / "b.sdv") as video:
        assert np.array_equal(dataset[-1]["latents"].numpy(), video.latents(15, 23))
    assert dataset[0]["latents"].dtype == torch.float32
    assert tuple(dataset[0]["latents"].shape) == dataset.shape(0) == (8, 4, 8, 12)
    for index in (7, -8):
        with pytest.raises(IndexError, match=f"item {index} of 7"):
            dataset[index]


def test_windows_are_adjacent_by_default_and_short_files_have_none(made):
    assert len(sdvideo.LatentDataset(str(made.files))) == 2
    assert len(sdvideo.LatentDataset(sorted(made.files.iterdir()), frames=24)) == 1
    assert [item["first"] for item in iter_items(sdvideo.LatentDataset(made.files, frames=10))] == [0, 10, 0, 10]


def iter_items(dataset):
    return (dataset[index] for index in range(len(dataset)))


@pytest.mark.parametrize("context", ["spawn", "fork"])
def test_workers_return_the_same_as_one_process(made, context):
    """Also forked ones whose parent process already has the files open."""
    dataset = sdvideo.LatentDataset(made.files, frames=6, stride=2)
    options = {"batch_size": 3, "shuffle": True}
    alone = DataLoader(dataset, generator=torch.Generator().manual_seed(5), **options)
    several = DataLoader(
        dataset, generator=torch.Generator().manual_seed(5), num_workers=2, multiprocessing_context=context, **options
    )
    batches = list(alone)
    assert batches[0]["latents"].shape == (3, 6, 4, 8, 12)
    for one, other in zip(batches, several, strict=True):
        assert torch.equal(one["latents"], other["latents"])
        assert torch.equal(one["first"], other["first"])
        assert one["path"] == other["path"]


def test_a_pickle_holds_no_latents_and_no_files(made):
    dataset = sdvideo.LatentDataset(made.files, frames=6)
    assert dataset[1]["latents"].any()
    data = pickle.dumps(dataset)
    assert len(data) < 2000
    assert all(same(one, other) for one, other in zip(iter_items(pickle.loads(data)), iter_items(dataset)))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files as Linux lists them")
def test_few_files_are_open_at_a_time(made, tmp_path):
    paths = [shutil.copy(made.files / "a.sdv", tmp_path / f"{number}.sdv") for number in range(20)]
    before = len(os.listdir("/proc/self/fd"))
    dataset = sdvideo.LatentDataset(paths, frames=2, stride=18)
    firsts = [dataset[index]["latents"] for index in range(len(dataset))]
    assert len(firsts) == 40
    assert all(torch.equal(one, other) for one, other in zip(firsts[::2], firsts[2::2]))
    assert len(os.listdir("/proc/self/fd")) - before <= 8


def test_shapes_may_differ_but_not_in_a_batch(made):
    paths = [made.files / "a.sdv", made.folder / "odd.sdv"]
    dataset = sdvideo.LatentDataset(paths, frames=10)
    assert [dataset.shape(index)[2:] for index in range(3)] == [(8, 12), (8, 12), (6, 9)]
    assert len(list(DataLoader(dataset))) == 3
    assert len(list(DataLoader(dataset, batch_sampler=[[0, 1], [2]]))) == 2
    with pytest.raises(SettingError, match=r"a\.sdv \[10, 4, 8, 12\] and .*odd\.sdv \[10, 4, 6, 9\]"):
        list(DataLoader(dataset, batch_size=3))


def test_bad_arguments_are_refused_at_once(made, tmp_path):
    for options in ({"frames": 0}, {"stride": 0}):
        with pytest.raises(SettingError, match="it must be at least 1"):
            sdvideo.LatentDataset(made.files, **options)
    with pytest.raises(SettingError, match="is no folder"):
        sdvideo.LatentDataset(tmp_path / "nowhere")
    with pytest.raises(SettingError, match="none of 0"):
        sdvideo.LatentDataset(tmp_path)
    with pytest.raises(SettingError, match=r"none of 2 .* 25 frames"):
        sdvideo.LatentDataset(made.files, frames=25)


def test_damage_is_reported_when_it_is_read(made, tmp_path):
    data = bytearray((made.files / "b.sdv").read_bytes())
    with sdvideo.open(made.files / "b.sdv") as video:
        entry = video._reader.groups[1]
    data[entry.offset + 30] ^= 1
    path = tmp_path / "hurt.sdv"
    path.write_bytes(data)
    dataset = sdvideo.LatentDataset([path], frames=KEYINT)
    assert dataset[0]["latents"].any()
    for _ in range(2):
        with pytest.raises(DamagedError, match=r"hurt\.sdv: group 1 \(frames 7 to 13"):
            dataset[1]
    assert dataset[2]["latents"].any()
