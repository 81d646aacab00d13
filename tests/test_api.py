"""The package from Python: what its users may hold, pass and forget to close."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import Clips

import sdvideo


@pytest.fixture(scope="module")
def coded(clips: Clips, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clip "cfr" in groups of four."""
    path = tmp_path_factory.mktemp("api") / "cfr.sdv"
    sdvideo.encode(clips["cfr"].path, path, keyint=4, preset="fast")
    return path


def same(one: sdvideo.Frame, other: sdvideo.Frame) -> bool:
    planes = ((getattr(one.picture, name), getattr(other.picture, name)) for name in "yuv")
    return one.pts == other.pts and all(np.array_equal(*pair) for pair in planes)


# --- frames -------------------------------------------------------------------------------------------------


def test_frames_by_number_and_by_slice(coded):
    with sdvideo.open(coded) as video:
        frames = list(video)
        assert same(video[np.int64(3)], frames[3]) and same(video[-1], frames[-1])
        for part in (slice(3, 7), slice(None, None, 5), slice(-2, None), slice(6, 2, -1), slice(9, 4)):
            assert len(video[part]) == len(frames[part])
            assert all(map(same, video[part], frames[part]))
        for no_number in ("3", None, 1.0):
            with pytest.raises(TypeError):
                video[no_number]
        with pytest.raises(IndexError, match=rf"frame {len(frames)} of {len(frames)}"):
            video[len(frames)]


def test_frames_are_things_of_their_own(coded):
    with sdvideo.open(coded) as video:
        first, again = video[0], video[0]
    assert first == first and first != again and same(first, again)
    assert first in [again, first] and len({first, again, first.picture}) == 3


def test_threads_may_share_a_reader(coded):
    with sdvideo.open(coded) as video:
        expected = list(video)
        numbers = np.random.default_rng(0).permutation(np.arange(40) % len(video)).tolist()
        with ThreadPoolExecutor(4) as threads:
            assert all(map(same, threads.map(video.__getitem__, numbers), (expected[n] for n in numbers)))


def test_closing_ends_what_iterates(coded):
    with sdvideo.open(coded) as video:
        frames = iter(video)
        next(frames)
    assert list(frames) == []
    for use in (lambda: list(video), lambda: video[9], lambda: video.track_files().__enter__()):
        with pytest.raises(sdvideo.SettingError, match="has been closed"):
            use()


@pytest.mark.parametrize("base", ["av1", "none"])
@pytest.mark.parametrize("end", ["video.close()", "", "sys.exit(3)", "raise KeyError"])
def test_an_iterator_that_is_alive_at_the_end(clips, coded, tmp_path, base, end):
    if base == "none":
        coded = tmp_path / "none.sdv"
        sdvideo.encode(clips["cfr"].path, coded, base="none", keyint=4, preset="fast")
    code = f"import sys, sdvideo; video = sdvideo.open({str(coded)!r}); frames = iter(video); next(frames); {end}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    expected = {"sys.exit(3)": 3, "raise KeyError": 1}.get(end, 0)
    assert ended.returncode == expected, ended.stderr
    assert "KeyError" in ended.stderr if end == "raise KeyError" else not ended.stderr


# --- settings -----------------------------------------------------------------------------------------------


def test_numbers_of_numpy_are_numbers(clips, tmp_path):
    for name, settings in (
        ("a", {"quality": 40, "keyint": 5, "workers": 0}),
        ("b", {"quality": np.int64(40), "keyint": np.uint8(5), "workers": np.int32(0)}),
    ):
        sdvideo.encode(clips["cfr"].path, tmp_path / name, preset="fast", **settings)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    result = sdvideo.encode(clips["cfr"].path, tmp_path / "c", preset="fast", size=np.float32(9000))
    assert 8000 < result.bytes < 10_000


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"quality": "50"}, "quality is '50'; it is a number"),
        ({"size": "4k"}, "size is '4k'; it is a number"),
        ({"keyint": 2.5}, r"keyint is 2\.5; it is a whole number"),
        ({"keyint": True}, "keyint is True; it is a whole number"),
        ({"workers": "2"}, "workers is '2'; it is a whole number"),
        ({"model": None}, "model is None; it is a name or a folder"),
        ({"model": ""}, "model is ''; it is a name or a folder"),
    ],
)
def test_settings_of_the_wrong_kind(clips, tmp_path, setting, words):
    with pytest.raises(sdvideo.SettingError, match=words):
        sdvideo.encode(clips["cfr"].path, tmp_path / "a.sdv", **setting)
    assert list(tmp_path.iterdir()) == []


def test_decode_settings_of_the_wrong_kind(coded, tmp_path):
    for setting, words in (
        ({"crf": "20"}, "crf is '20'; it is a whole number"),
        ({"crf": True}, "crf is True"),
        ({"crf": 20, "lossless": True}, "crf and lossless exclude each other"),
        ({"denoise": "1"}, "denoise is '1'; it is a whole number"),
    ):
        with pytest.raises(sdvideo.SettingError, match=words):
            sdvideo.decode(coded, tmp_path / "a.mp4", **setting)
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_are_no_names(clips, coded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(sdvideo.SettingError, match="not to standard output"):
        sdvideo.encode(clips["cfr"].path, "-")
    for name in ("a" * 300 + ".sdv", "a\0.sdv"):
        with pytest.raises(sdvideo.SinkError, match=r"too long|null byte"):
            sdvideo.encode(clips["cfr"].path, name)
        with pytest.raises(sdvideo.SinkError, match=r"too long|null byte"):
            sdvideo.decode(coded, name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_may_be_a_path(clips, tmp_path):
    model = Path(sdvideo.__file__).parent / "weights" / "tiny"
    made = [
        sdvideo.encode(clips["still"].path, tmp_path / f"{n}.sdv", model=one, preset="fast").path.read_bytes()
        for n, one in enumerate((model, str(model)))
    ]
    assert made[0] == made[1]


def test_one_progress_serves_all(clips, coded, tmp_path):
    told = []

    def progress(done: int, total: int | None, size: int, rate) -> None:
        told.append((done, total, rate))

    source, calls = clips["cfr"].path, 0
    for call in (
        lambda: sdvideo.encode(source, tmp_path / "a.sdv", preset="fast", progress=progress),
        lambda: sdvideo.decode(coded, tmp_path / "a.mp4", progress=progress),
        lambda: sdvideo.preview(coded, tmp_path / "b.mp4", progress=progress),
        lambda: sdvideo.report(source, coded, progress=progress),
    ):
        told.clear()
        call()
        calls += 1
        assert told[-1] == (16, 16, 25)
    assert calls == 4
