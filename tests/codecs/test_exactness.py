"""What must be the same on every machine: motion compensation, the tables of the context model, decoded integers."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import sdvideo
from sdvideo.codecs.latent.coding import context_model as context
from sdvideo.codecs.latent.embedded import load_embedded
from sdvideo.codecs.latent.frame_codec import FrameDecoder
from sdvideo.container import Reader
from sdvideo.frames import Picture
from sdvideo.motion import block_matching as motion
from sdvideo.motion.block_matching import unchanged
from sdvideo.motion.scene_cuts import is_cut


@pytest.fixture(scope="module")
def model():
    return load_embedded(device="cpu").coder._model


@pytest.fixture
def texture() -> np.ndarray:
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (24, 32)).astype(np.float32)
    return np.kron(coarse, np.ones((4, 4))).astype(np.uint8)


def test_compensation_without_motion_returns_the_reference(texture):
    assert np.array_equal(motion.compensate(texture, np.zeros((2, 6, 8), np.int16)), texture)


def test_vectors_of_whole_pixels_copy_samples(texture):
    field = np.zeros((2, 6, 8), np.int16)
    field[0], field[1] = 4 * 5, -4 * 3
    moved = motion.compensate(texture, field)
    assert np.array_equal(moved[3:, :-5], texture[:-3, 5:])


def test_chroma_moves_by_half_the_vector(texture):
    field = np.full((2, 12, 16), 8, np.int16)
    moved = motion.compensate(texture, field, block=8)
    assert np.array_equal(moved[:-1, :-1], texture[1:, 1:])


def test_blocks_without_motion_do_not_change_next_to_moving_blocks(texture):
    field = np.zeros((2, 6, 8), np.int16)
    field[:, 2:4, 3:5] = 7
    still = np.ones((6, 8), bool)
    still[2:4, 3:5] = False
    same = (motion.compensate(texture, field) == texture).reshape(6, 16, 8, 16).all((1, 3))
    assert same[still].all() and not same[~still].any()


def test_the_motion_search_finds_a_pan(texture):
    smooth = np.asarray(texture, np.float32)
    for axis in (0, 1):
        smooth = sum(np.roll(smooth, shift, axis) for shift in range(-3, 4)) / 7
    reference = smooth.round().astype(np.uint8)
    current = np.roll(reference, (2, -3), (0, 1))
    field = motion.Estimator(6, 8).estimate(current, reference, penalty=50.0)
    assert (np.median(field[0]), np.median(field[1])) == (12, -8)


@pytest.mark.parametrize("key", [True, False])
def test_tables_do_not_depend_on_the_arithmetic(model, key):
    """Every sum is exact in float32: float64 gives the same numbers, before any rounding."""
    rng = np.random.default_rng(3)
    rows, columns, step = 9, 13, 35.0
    scale = 40 / (1 + np.arange(context.CHANNELS)) ** 0.7
    draw = [torch.from_numpy(np.rint(rng.laplace(0, scale, (rows, columns, context.CHANNELS)))) for _ in range(2)]
    magnitude, previous = context.magnitudes(draw[0]), context.magnitudes(draw[1]) * (not key)
    select = context.checkerboard(rows, columns, 1)
    exact = copy.deepcopy(model)
    for network in exact.networks:
        network.weights = tuple(weight.double() for weight in network.weights)
    _, bands = context.previous_features(draw[1] * (not key))
    for group in range(1, len(context.GROUPS)):
        end = context.STARTS[group + 1]
        known = magnitude[..., :end].clone()
        known[..., context.STARTS[group] : end] *= ~select[..., None]
        call = (known, previous, bands, group, 1, select, key, step)
        index = model.group(*call)
        wide = exact.group(*map(_double, call))
        assert torch.equal(index.double(), wide)


def _double(value):
    return value.double() if torch.is_tensor(value) and value.is_floating_point() else value


def test_unchanged_compares_luma_and_chroma(texture):
    chroma = texture[::2, ::2].copy()
    before = Picture(texture, chroma, chroma)
    blue = chroma.copy()
    blue[20, 30] ^= 1
    same = unchanged(Picture(texture, blue, chroma), before, 16)
    assert not same[2, 3] and same.sum() == same.size - 1


def test_is_cut_finds_a_cut_and_not_a_pan(texture):
    other = np.random.default_rng(9).integers(0, 256, (6, 8)).astype(np.uint8).repeat(16, 0).repeat(16, 1)
    assert is_cut(other, texture)
    assert not is_cut(np.roll(texture, 1, 1), texture)


# --- whole files --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["av1", "none"])
def coded(request, clips, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("exact") / f"{request.param}.sdv"
    sdvideo.encode(clips["cfr"].path, path, base=request.param, keyint=6, preset="fast")
    return path


DIGEST = """
import hashlib, sys
import numpy as np
import sdvideo

def digest(path):
    found = hashlib.sha256()
    with sdvideo.open(path, device="cpu") as video:
        for _ in video:
            symbols = video.symbols()
            names = ("y", "u", "v") if video.base == "av1" else ("motion", "coded", "latent")
            for name in names:
                found.update(np.ascontiguousarray(getattr(symbols, name)).tobytes())
    return found.hexdigest()
"""


def test_integers_do_not_depend_on_threads_libraries_and_processor(coded):
    scope: dict = {}
    exec(DIGEST, scope)
    before, digests = torch.get_num_threads(), set()
    try:
        for threads in (1, 2, 4):
            for mkldnn in (True, False):
                torch.set_num_threads(threads)
                with torch.backends.mkldnn.flags(enabled=mkldnn):
                    digests.add(scope["digest"](coded))
    finally:
        torch.set_num_threads(before)
    assert len(digests) == 1
    # As on a processor with fewer instructions, for which the libraries also choose between float32 and bfloat16.
    plain = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "OPENCV_CPU_DISABLE": "AVX512_SKX,AVX2"}
    script = DIGEST + "print(digest(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", script, str(coded)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **plain, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stdout.split() == list(digests)


def test_float32_and_bfloat16_decode_the_same_integers(coded):
    with Reader(coded) as reader:
        if reader.header.base == "av1":
            pytest.skip("the integers of base av1 are the AV1 pictures, before any network")
        frames = [frame for group in range(len(reader.groups)) for frame in reader.read_group(group).frames]
        info = reader.header.info
    embedded = load_embedded(device="cpu")
    found = []
    for bfloat16 in (False, True):
        embedded._transform.analysis.use_bfloat16 = embedded._transform.synthesis.use_bfloat16 = bfloat16
        decoder = FrameDecoder(embedded, info.height, info.width)
        found.append([])
        for frame in frames:
            symbols = decoder.parse(frame)
            decoder.reconstruct(frame, symbols)
            found[-1].append(symbols)
    for one, other in zip(*found, strict=True):
        assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("motion", "coded", "latent"))
