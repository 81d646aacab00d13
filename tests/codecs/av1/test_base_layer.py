"""Base av1 through the public interface: sizes, groups, times, seeking, damage, previews, rate control."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from dataclasses import replace
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from conftest import Clip, Clips

import sdvideo
from sdvideo.codecs.av1 import encoder as av1_encoder
from sdvideo.codecs.av1.base_layer import BaseDecoder, encode_base
from sdvideo.codecs.av1.bitstream import base_size, pack_step, unpack_step
from sdvideo.codecs.av1.rate_control import cheapest_scale, encode_at_level, level_of
from sdvideo.container import KEY, Reader
from sdvideo.container.header import SCALES
from sdvideo.container.preamble import inflate_header
from sdvideo.errors import DamagedError, SettingError, SinkError
from sdvideo.frames import Picture
from sdvideo.media.colour import planes_of
from sdvideo.media.output import open_sink
from sdvideo.media.scaling import scaled
from sdvideo.media.source import open_source
from sdvideo.metrics.fidelity import psnr, structural_similarity
from sdvideo.motion.scene_cuts import split_into_groups
from sdvideo.restoration import torch_engine

SAMPLE = Path(__file__).parents[3] / "samples" / "walk.mp4"


def encode(clip: Path, path: Path, **settings) -> Path:
    sdvideo.encode(clip, path, base="av1", **{"preset": "fast", **settings})
    return path


@pytest.fixture(scope="module")
def walk(tmp_path_factory) -> Path:
    """The sample, encoded in small groups."""
    return encode(SAMPLE, tmp_path_factory.mktemp("base") / "walk.sdv", keyint=32, quality=40)


def same(one: Picture, other: Picture) -> bool:
    return all(np.array_equal(getattr(one, plane), getattr(other, plane)) for plane in ("y", "u", "v"))


# --- the base layer -------------------------------------------------------------------------------------


def test_step_bytes_hold_crf_and_scale():
    for scale in SCALES:
        for crf in (1, 20.25, 44.75, 70):
            assert unpack_step(pack_step(crf, scale)) == (round(crf), scale)
    with pytest.raises(DamagedError):
        unpack_step(255)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("size", [(96, 64), (97, 65), (15, 40)])
def test_a_group_decodes_to_as_many_pictures_of_the_base_size(scale, size):
    rng = np.random.default_rng(0)
    half = (size[1] + 1) // 2, (size[0] + 1) // 2
    pictures = [Picture(*(rng.integers(0, 256, s, np.uint8) for s in (size[::-1], half, half))) for _ in range(5)]
    group = encode_base(pictures, scale, 40, 8).packed()
    frames = [sdvideo.Frame(number, 1, picture) for number, picture in enumerate(pictures)]
    decoder = BaseDecoder(*size)
    decoded = [decoder.decode(coded) for coded in group.coded_frames(frames)]
    assert [(p.width, p.height) for p in decoded] == [base_size(*size, scale)] * 5


def test_a_smaller_scale_is_chosen_at_coarse_levels():
    with open_source(SAMPLE) as video:
        pictures = [frame.picture for frame in islice(video.frames(), 12)]
    levels = [level_of(quality) for quality in (90, 2)]
    fine, coarse = (encode_at_level(pictures, level, "fast", cheapest_scale(pictures, level)) for level in levels)
    assert fine.scale == 1 and coarse.scale < 1
    assert fine.bits > 10 * coarse.bits


@pytest.mark.parametrize("frames", [1, 12])
def test_more_quality_is_finer_and_larger_up_to_100(tmp_path, frames):
    source = tmp_path / "few.y4m"
    with open_source(SAMPLE) as video:
        shown = [replace(f, picture=scaled(f.picture, 320, 180)) for f in islice(video.frames(), frames)]
        info = replace(video.info, width=320, height=180, tracks=())
    with open_sink(source, info) as sink:
        for frame in shown:
            sink.write(frame)
    found = []
    for quality in (60, 75, 85, 92, 100):
        result = sdvideo.encode(source, tmp_path / "few.sdv", quality=quality, preset="fast", overwrite=True)
        with sdvideo.open(result.path) as video:
            errors = [psnr(a.picture, b.picture)[0] for a, b in zip(shown, video, strict=True)]
        found.append((result.bytes, min(errors)))
    assert all(fine[0] > coarse[0] and fine[1] > coarse[1] for coarse, fine in pairwise(found)), found


def test_groups_end_at_scene_cuts_and_when_they_are_full(clips: Clips):
    with open_source(clips["cut"].path) as video:
        assert [len(shot) for shot in split_into_groups(video.frames(), 64)] == [10, 10]
    with open_source(clips["cut"].path) as video:
        assert [len(shot) for shot in split_into_groups(video.frames(), 7)] == [7, 3, 7, 3]


# --- files --------------------------------------------------------------------------------------------------


def test_every_clip_comes_back(clip: Clip, tmp_path):
    path = encode(clip.path, tmp_path / "clip.sdv", quality=80, keyint=9)
    with sdvideo.open(path) as video:
        frames = list(video)
        base = video.info.time_base
        assert [(frame.pts - frames[0].pts) * base for frame in frames] == [t - clip.times[0] for t in clip.times]
        assert (video.info.width, video.info.height) == (clip.width, clip.height)
    if clip.planes is not None:
        assert min(psnr(Picture(*planes), f.picture)[1] for planes, f in zip(clip.planes, frames)) > 27


def test_seeking_gives_the_same_pictures_as_playing(walk):
    with sdvideo.open(walk) as video:
        played = [frame.picture for frame in islice(video, 75)]
        assert all(same(video[number].picture, played[number]) for number in (70, 40, 41, 33, 0))


def test_the_symbols_are_base_pictures(walk):
    with sdvideo.open(walk) as video:
        frame = video[5]
        base = video.symbols()
    with Reader(walk) as reader:
        crf, scale = unpack_step(reader.read_group(0).frames[5].step)
    assert (base.width, base.height) == base_size(frame.picture.width, frame.picture.height, scale)
    assert 1 <= crf <= 70


def test_the_shipped_weights_restore_well(tmp_path):
    """At least a certain quality at a rate, and more than Lanczos gives, so that bad weights fail this test."""
    path = encode(SAMPLE, tmp_path / "walk.sdv", keyint=32, quality=24)
    with Reader(path) as reader:
        bits = sum(8 * len(frame.data) for frame in reader.read_group(0).frames)
    with open_source(SAMPLE) as source, sdvideo.open(path) as video:
        rows = []
        for original, frame in islice(zip(source.frames(), video), 32):
            enlarged = scaled(video.symbols(), original.picture.width, original.picture.height)
            ours, plain = psnr(original.picture, frame.picture)[1], psnr(original.picture, enlarged)[1]
            rows.append((ours, plain, structural_similarity(original.picture.y, frame.picture.y)[1]))
    restored, lanczos, ms_ssim = np.mean(rows, 0)
    assert bits / (32 * 640 * 360) < 0.0085
    assert restored > 34.4 and ms_ssim > 0.978
    assert restored > lanczos + 0.3


def test_pictures_hardly_depend_on_the_library_for_convolutions(walk):
    shown = []
    for enabled in (True, False):
        with torch.backends.mkldnn.flags(enabled=enabled), sdvideo.open(walk, device="cpu") as video:
            shown.append([frame.picture.y.astype(int) for frame in islice(video, 3)])
    apart = np.abs(np.subtract(*shown))
    assert apart.max() <= 4 and apart.mean() < 0.1


def test_large_pictures_are_restored_in_strips_that_do_not_show(walk, monkeypatch):
    with sdvideo.open(walk, device="cpu") as video:
        whole = [frame.picture for frame in islice(video, 3)]
    monkeypatch.setattr(torch_engine, "_MAX_SQUARES", 1500)
    with sdvideo.open(walk, device="cpu") as video:
        assert all(map(same, whole, (frame.picture for frame in islice(video, 3))))


def test_closing_an_iterator_ends_its_threads(walk):
    before = threading.active_count()
    with sdvideo.open(walk) as video:
        frames = iter(video)
        assert [next(frames).pts for _ in range(3)] == [0, 512, 1024]
        assert threading.active_count() > before  # which prefetch the next groups
        frames.close()
        assert threading.active_count() == before


def test_an_error_ends_the_threads_even_while_it_is_kept(walk, tmp_path):
    """A thread that still restores a picture when Python exits would crash the process."""
    data = bytearray(walk.read_bytes())
    with Reader(walk) as reader:
        data[reader.groups[1].offset + 40] ^= 1
    broken = tmp_path / "broken.sdv"
    broken.write_bytes(data)
    before = threading.active_count()
    with sdvideo.open(broken) as video, pytest.raises(DamagedError) as error:
        for _ in video:
            pass
    assert "group 1" in str(error.value)
    assert threading.active_count() == before


def test_access_by_number_does_not_disturb_iteration(walk):
    with sdvideo.open(walk) as video:
        alone = [frame.picture.y for frame in islice(video, 6)]
        interleaved = []
        for frame in islice(video, 6):
            interleaved.append(frame.picture.y)
            video[3]
    assert all(np.array_equal(a, b) for a, b in zip(alone, interleaved))


def test_a_header_leaves_out_default_values(walk):
    with Reader(walk) as reader:
        assert reader.header.settings == {"quality": 40.0, "keyint": 32, "preset": "fast"}
        assert reader.header.coder == "av1"
    data = walk.read_bytes()
    text = inflate_header(data[16 : 16 + int.from_bytes(data[12:16], "little")])
    assert b'"model":{"name":"restore"' in text and b'"coder"' not in text


def test_encoding_is_deterministic(walk, tmp_path):
    again = encode(SAMPLE, tmp_path / "again.sdv", keyint=32, quality=40)
    assert again.read_bytes() == walk.read_bytes()


def test_damage_stays_in_its_group(walk, tmp_path):
    data = bytearray(walk.read_bytes())
    with Reader(walk) as reader:
        hit = reader.groups[1]
        start, size, first, frames = hit.offset, hit.size, hit.first, hit.frames
    rng = random.Random(1)
    for _ in range(3):
        data[start + 20 + rng.randrange(size - 40)] ^= 1 << rng.randrange(8)
    broken = tmp_path / "broken.sdv"
    broken.write_bytes(data)
    assert sdvideo.verify(broken)
    with sdvideo.open(walk) as whole, sdvideo.open(broken, tolerant=True) as video:
        assert len(video) == len(whole) - frames or len(video) == len(whole)
        for number in (0, first - 1):
            assert same(video[number].picture, whole[number].picture)


def test_data_that_is_not_av1_is_damage(clips: Clips, tmp_path):
    path = encode(clips["cfr"].path, tmp_path / "clip.sdv")
    with Reader(path) as reader:
        frames = reader.read_group(0).frames
    decoder = BaseDecoder(96, 64)
    rng = random.Random(0)
    for data in (b"", b"\x00", rng.randbytes(200), frames[0].data[:-5], frames[1].data):
        with pytest.raises(DamagedError):
            decoder.decode(replace(frames[0], data=data))
    with pytest.raises(DamagedError):
        BaseDecoder(96, 64).decode(frames[1])
    larger = encode_base(
        [Picture(*(np.zeros(s, np.uint8) for s in ((640, 640), (320, 320), (320, 320))))], SCALES[0], 40, 8
    ).packed()
    with pytest.raises(DamagedError):
        decoder.decode(replace(frames[0], data=larger.data[0]))
    assert frames[0].kind == KEY


# --- preview ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_preview_has_the_base_pictures_with_times_and_sound(clips: Clips, tmp_path, suffix):
    clip = clips["late"]
    path = encode(clip.path, tmp_path / "clip.sdv", keyint=5)
    result = sdvideo.preview(path, tmp_path / f"clip{suffix}")
    assert result.frames == clip.frames
    with av.open(str(result.path)) as video:
        assert video.streams.video[0].codec.canonical_name == "av1"
        assert [stream.type for stream in video.streams] == ["video", *(kind for kind, *_ in clip.tracks)]
        frames = list(video.decode(video=0))
    times, shown = [frame.pts * frame.time_base for frame in frames], [planes_of(frame) for frame in frames]
    exact = 0 if suffix == ".mp4" else Fraction(1, 1000)  # Matroska stores milliseconds
    assert all(abs(time - wanted) <= exact for time, wanted in zip(times, clip.times, strict=True))
    with sdvideo.open(path) as video:
        assert all(same(video.symbols(), picture) for _, picture in zip(video, shown, strict=True))


def test_a_preview_needs_base_av1_and_no_torch(clips: Clips, walk, tmp_path):
    call = f"sdvideo.preview({str(walk)!r}, {str(tmp_path / 'p.mp4')!r})"
    script = f"import sys, sdvideo; {call}; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "False"
    sdvideo.encode(clips["cfr"].path, tmp_path / "none.sdv", base="none")
    with pytest.raises(SettingError, match="no AV1 base"):
        sdvideo.preview(tmp_path / "none.sdv")
    with pytest.raises(SinkError, match="does not hold AV1"):
        sdvideo.preview(walk, tmp_path / "p.y4m")


# --- settings -----------------------------------------------------------------------------------------------


def test_more_quality_takes_more_bits_and_looks_better(tmp_path):
    found = []
    for quality in (5, 35, 65, 95):
        path = encode(SAMPLE, tmp_path / f"{quality}.sdv", quality=quality)
        with open_source(SAMPLE) as source, sdvideo.open(path) as video:
            pairs = islice(zip(source.frames(), video), 8)
            found.append((path.stat().st_size, np.mean([psnr(x.picture, y.picture)[1] for x, y in pairs])))
    assert found == sorted(found) and found[0][1] + 8 < found[-1][1]


def test_groups_are_long_but_fit_into_memory(tmp_path, monkeypatch):
    reports = []
    settings = {"progress": lambda done, total, size, rate: reports.append((done, size))}
    result = sdvideo.encode(SAMPLE, tmp_path / "walk.sdv", quality=10, preset="fast", **settings)
    assert (result.frames, result.groups) == (125, 2)  # there is a cut
    assert reports == sorted(reports) and reports[-1][0] == 125
    assert len({done for done, _ in reports}) > 60  # progress within groups is reported as well
    monkeypatch.setattr(av1_encoder, "_GROUP_BYTES", 50 * 640 * 360 * 3 // 2)
    sdvideo.encode(SAMPLE, tmp_path / "little.sdv", quality=10, preset="fast")
    with Reader(tmp_path / "little.sdv") as reader:
        assert max(entry.frames for entry in reader.groups) == 50


@pytest.mark.slow
@pytest.mark.parametrize("bitrate", [30_000, 120_000])
def test_a_bitrate_is_hit(tmp_path, bitrate):
    path = encode(SAMPLE, tmp_path / "walk.sdv", bitrate=bitrate)
    with Reader(path) as reader:
        size = sum(entry.end - entry.offset for entry in reader.groups)
    assert size * 8 / 5 == pytest.approx(bitrate, rel=0.03)


def test_a_size_that_is_too_small_gives_the_smallest_possible_file(clips: Clips, tmp_path):
    path = encode(clips["cfr"].path, tmp_path / "clip.sdv", size=500)
    least = encode(clips["cfr"].path, tmp_path / "least.sdv", quality=0)
    assert path.stat().st_size <= least.stat().st_size


def test_base_av1_refuses_latent_models(clips: Clips, tmp_path):
    with pytest.raises(SettingError, match="base none"):
        sdvideo.encode(clips["cfr"].path, tmp_path / "x.sdv", base="av1", model="some/where")


def test_variable_frame_rates_and_other_time_bases(clips: Clips, tmp_path):
    path = encode(clips["vfr"].path, tmp_path / "vfr.sdv")
    with sdvideo.open(path) as video:
        assert isinstance(video.info.time_base, Fraction) and len(video) == clips["vfr"].frames
