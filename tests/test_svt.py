"""SVT-AV1 in processes of its own: what goes wrong there is done again, and nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import sdvideo
from sdvideo.codecs.av1 import svt_process as svt
from sdvideo.codecs.av1.base_layer import TRIAL_PRESET
from sdvideo.errors import SinkError
from sdvideo.frames import Frame, Picture, StreamInfo
from sdvideo.media.muxer import open_sink

OPTIONS = {"preset": "6", "svtav1-params": "crf=40:keyint=-1:scd=0"}
PROC = Path("/proc")
needs_proc = pytest.mark.skipif(not (PROC / "self/task").is_dir(), reason="processes are looked up in /proc")
# In place of an encoder, until the file named in the environment exists: one that stands still, one that crashes.
BAD_FIRST = """
import json, os, pathlib, sys
sys.path[:] = json.loads(sys.argv[1])
from sdvideo import svt
flag = pathlib.Path(os.environ["SDVIDEO_TEST_FLAG"])
if not flag.exists():
    flag.touch()
    svt._STILL = 1
    def stand_still(source, at_work, **head):
        at_work.set()
        import threading
        threading.Event().wait()
    def crash(source, at_work, **head):
        os.abort()
    svt._answer = {fault}
svt.serve(int(sys.argv[2]))
"""


def noise(count: int, side: int = 128) -> list[Picture]:
    rng = np.random.default_rng(1)
    sizes = (side, side), (side // 2, side // 2), (side // 2, side // 2)
    return [Picture(*(rng.integers(0, 256, size, np.uint8) for size in sizes)) for _ in range(count)]


@pytest.fixture
def no_idle(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No encoder waits from before, none is left."""
    fresh: list = []
    monkeypatch.setattr(svt, "_idle", fresh)
    yield
    for process in fresh:
        process.end()


def children(parent: int) -> list[int]:
    found = []
    for folder in PROC.glob("[0-9]*"):
        with suppress(OSError):
            # pid (name) state ppid ...; a name may hold anything
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(folder.name))
    return found


@needs_proc
def test_encoders_do_not_share_a_process(no_idle: None) -> None:
    """Several in one process disturb each other: they hang, or code what cannot be decoded."""
    pictures = noise(12)
    before = set(children(os.getpid()))
    with ThreadPoolExecutor(3) as pool:
        works = [pool.submit(svt.encode, pictures, OPTIONS) for _ in range(9)]
        results = [work.result() for work in works]
    assert all(result == results[0] for result in results) and sorted(results[0]) == list(range(12))
    assert 1 <= len(set(children(os.getpid())) - before) <= 3


@pytest.mark.parametrize("fault", ["stand_still", "crash"])
def test_what_an_encoder_fails_at_is_done_by_another(
    no_idle: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str
) -> None:
    pictures = noise(4)
    expected = svt.encode(pictures, OPTIONS)
    svt._idle.pop().end()
    monkeypatch.setattr(svt, "_START", BAD_FIRST.replace("{fault}", fault))
    monkeypatch.setenv("SDVIDEO_TEST_FLAG", str(tmp_path / "flag"))
    assert svt.encode(pictures, OPTIONS) == expected
    assert (tmp_path / "flag").exists()


@needs_proc
def test_an_encoder_nobody_needs_ends(no_idle: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        svt, "_START", svt._START.replace("serve;", "serve; import sdvideo.codecs.av1.svt_process as s; s._UNUSED = 1;")
    )
    before = set(children(os.getpid()))
    expected = svt.encode(noise(2), OPTIONS)
    (encoder,) = set(children(os.getpid())) - before
    deadline = time.monotonic() + 60
    while works(encoder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not works(encoder)
    assert svt.encode(noise(2), OPTIONS) == expected


def test_encoders_that_all_fail_are_one_error(no_idle: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svt, "_START", "raise SystemExit(1)")
    with pytest.raises(SinkError, match="SVT-AV1 does not come to an end"):
        svt.encode(noise(2), OPTIONS)


def test_what_the_encoder_refuses_is_one_error(no_idle: None) -> None:
    with pytest.raises(SinkError, match="SVT-AV1 failed"):
        svt.encode(noise(40, 256), OPTIONS | {"svtav1-params": "crf=999"})
    assert len(svt._idle) == 1
    assert sorted(svt.encode(noise(2), OPTIONS)) == [0, 1]


@needs_proc
def test_no_encoder_outlives_who_it_works_for(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_svt import OPTIONS, noise
from sdvideo import svt
svt.encode(noise(2), OPTIONS)
print("ready", flush=True)
svt.encode(noise(200, 512), OPTIONS | {{"preset": "1"}})
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    (encoder,) = children(process.pid)
    time.sleep(1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 30  # on a busy machine; to the end it would code for minutes
    while works(encoder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not works(encoder)


def works(process: int) -> bool:
    """Is it there, and more than an entry that nobody has looked at yet?"""
    try:
        return bool((PROC / str(process) / "cmdline").read_bytes())
    except OSError:
        return False


@needs_proc
@pytest.mark.skipif(not hasattr(os, "SCHED_FIFO") or os.getuid() != 0, reason="only root can become real-time")
def test_encoders_are_no_real_time_processes(no_idle: None) -> None:
    """As root SVT-AV1 would give its threads, and the one that calls it, a priority that starves all others."""
    usual, seen, before = os.sched_getscheduler(0), Counter(), set(children(os.getpid()))
    svt.encode(noise(2), OPTIONS)
    (encoder,) = set(children(os.getpid())) - before
    with ThreadPoolExecutor(1) as pool:
        work: Future = pool.submit(svt.encode, noise(40, 256), OPTIONS)
        while not work.done():
            with suppress(OSError):
                for thread in os.listdir(f"/proc/{encoder}/task"):
                    seen[os.sched_getscheduler(int(thread))] += 1
    assert seen[os.SCHED_FIFO] < 0.2 * seen.total()  # but for the moment in which it begins
    assert os.sched_getscheduler(0) == usual


@pytest.mark.parametrize("hurt", ["a probe", "a group"])
def test_what_does_not_decode_is_coded_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hurt: str) -> None:
    """On a busy machine an encoder has made such a thing, once in hours."""
    source = tmp_path / "noise.y4m"
    info = StreamInfo(128, 128, Fraction(1, 25), Fraction(25), 4)
    with open_sink(source, info) as sink:
        for number, picture in enumerate(noise(4)):
            sink.write(Frame(number, 1, picture))
    sdvideo.encode(source, tmp_path / "whole.sdv", preset="fast")
    encode, wrong = svt.encode, []

    def hurt_once(pictures: list[Picture], options: dict[str, str], progress: svt.Progress = svt.silently):
        packets = encode(pictures, options, progress)
        if not wrong and (options["preset"] == str(TRIAL_PRESET)) == (hurt == "a probe"):
            wrong.append(packets)
            return packets | {0: b"\x32\x00"}
        return packets

    monkeypatch.setattr(svt, "encode", hurt_once)
    sdvideo.encode(source, tmp_path / "again.sdv", preset="fast")
    assert wrong
    assert (tmp_path / "again.sdv").read_bytes() == (tmp_path / "whole.sdv").read_bytes()
    monkeypatch.setattr(svt, "encode", lambda *given: encode(*given) | {0: b"\x32\x00"})
    with pytest.raises(SinkError, match="does not decode"):
        sdvideo.encode(source, tmp_path / "never.sdv", preset="fast")
