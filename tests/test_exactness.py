"""What must come out the same on every machine: motion compensation, and the tables the context model chooses."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from sdvideo import context, motion
from sdvideo.embedded import load_embedded
from sdvideo.picture import Picture
from sdvideo.predict import is_cut, unchanged


@pytest.fixture(scope="module")
def model():
    return load_embedded(device="cpu").coder._model


@pytest.fixture
def texture() -> np.ndarray:
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (24, 32)).astype(np.float32)
    return np.kron(coarse, np.ones((4, 4))).astype(np.uint8)


def test_no_motion_is_the_reference_itself(texture):
    assert np.array_equal(motion.compensate(texture, np.zeros((2, 6, 8), np.int16)), texture)


def test_whole_pixels_move_whole(texture):
    field = np.zeros((2, 6, 8), np.int16)
    field[0], field[1] = 4 * 5, -4 * 3
    moved = motion.compensate(texture, field)
    assert np.array_equal(moved[3:, :-5], texture[:-3, 5:])


def test_chroma_moves_half_as_far(texture):
    field = np.full((2, 12, 16), 8, np.int16)
    moved = motion.compensate(texture, field, block=8)
    assert np.array_equal(moved[:-1, :-1], texture[1:, 1:])


def test_blocks_at_rest_do_not_change_beside_moving_ones(texture):
    field = np.zeros((2, 6, 8), np.int16)
    field[:, 2:4, 3:5] = 7
    still = np.ones((6, 8), bool)
    still[2:4, 3:5] = False
    same = (motion.compensate(texture, field) == texture).reshape(6, 16, 8, 16).all((1, 3))
    assert same[still].all() and not same[~still].any()


def test_the_estimator_finds_a_pan(texture):
    smooth = np.asarray(texture, np.float32)
    for axis in (0, 1):
        smooth = sum(np.roll(smooth, shift, axis) for shift in range(-3, 4)) / 7
    reference = smooth.round().astype(np.uint8)
    current = np.roll(reference, (2, -3), (0, 1))
    field = motion.Estimator(6, 8).estimate(current, reference, penalty=50.0)
    assert (np.median(field[0]), np.median(field[1])) == (12, -8)


@pytest.mark.parametrize("key", [True, False])
def test_tables_do_not_depend_on_the_arithmetic(model, key):
    """Every sum is exact in float32: float64 finds the very same numbers, before any rounding."""
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


def test_unchanged_blocks_see_luma_and_chroma(texture):
    chroma = texture[::2, ::2].copy()
    before = Picture(texture, chroma, chroma)
    blue = chroma.copy()
    blue[20, 30] ^= 1
    same = unchanged(Picture(texture, blue, chroma), before, 16)
    assert not same[2, 3] and same.sum() == same.size - 1


def test_a_cut_is_seen_and_motion_is_none(texture):
    other = np.random.default_rng(9).integers(0, 256, (6, 8)).astype(np.uint8).repeat(16, 0).repeat(16, 1)
    assert is_cut(other, texture)
    assert not is_cut(np.roll(texture, 1, 1), texture)
