"""SVT-AV1 in processes of its own: failed groups are coded again, and no process is left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
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
from sdvideo.media.output import open_sink

OPTIONS = {"preset": "6", "svtav1-params": "crf=40:keyint=-1:scd=0"}
PROC = Path("/proc")
needs_proc = pytest.mark.skipif(not (PROC / "self/task").is_dir(), reason="processes are looked up in /proc")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
# Replaces the code that starts an encoder process. The first process creates the file named in the environment, and
# then hangs or crashes; the others encode.
FAIL_ONCE = """
import json, os, pathlib, sys
sys.path[:] = json.loads(sys.argv[1])
from sdvideo.codecs.av1 import svt_process
flag = pathlib.Path(os.environ["SDVIDEO_TEST_FLAG"])
if not flag.exists():
    flag.touch()
    svt_process._HANG_TIMEOUT = 1
    def hang(connection, busy, **request):
        busy.set()
        import threading
        threading.Event().wait()
    def crash(connection, busy, **request):
        os.abort()
    def crash_between_packets(connection, busy, width, height, frames, options):
        svt_process._receive_picture(connection, width, height)
        connection.send_bytes(bytes(100))
        os.abort()
    svt_process._encode_group = {fault}
svt_process.serve(int(sys.argv[2]), int(sys.argv[3]))
"""


def noise(count: int, side: int = 128) -> list[Picture]:
    rng = np.random.default_rng(1)
    sizes = (side, side), (side // 2, side // 2), (side // 2, side // 2)
    return [Picture(*(rng.integers(0, 256, size, np.uint8) for size in sizes)) for _ in range(count)]


@pytest.fixture
def no_idle(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin without idle processes, and end those that the test leaves."""
    fresh: list = []
    monkeypatch.setattr(svt, "_idle", fresh)
    yield
    for process in fresh:
        process.end()


def children(parent: int) -> list[int]:
    found = []
    for folder in PROC.glob("[0-9]*"):
        with suppress(OSError):
            # pid (name) state ppid ...; the name may contain spaces and parentheses
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(folder.name))
    return found


@needs_proc
def test_encoders_do_not_share_a_process(no_idle: None) -> None:
    """Several in one process disturb each other: they hang, or make streams that do not decode."""
    pictures = noise(12)
    before = set(children(os.getpid()))
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(svt.encode, pictures, OPTIONS) for _ in range(9)]
        results = [future.result() for future in futures]
    assert all(result == results[0] for result in results) and sorted(results[0]) == list(range(12))
    assert 1 <= len(set(children(os.getpid())) - before) <= 3


@pytest.mark.parametrize("fault", ["hang", "crash", "crash_between_packets"])
def test_a_group_that_fails_is_coded_again_by_another_process(
    no_idle: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str
) -> None:
    pictures = noise(4)
    expected = svt.encode(pictures, OPTIONS)
    svt._idle.pop().end()
    monkeypatch.setattr(svt, "_START", FAIL_ONCE.replace("{fault}", fault))
    monkeypatch.setenv("SDVIDEO_TEST_FLAG", str(tmp_path / "flag"))
    assert svt.encode(pictures, OPTIONS) == expected
    assert (tmp_path / "flag").exists()


@needs_proc
def test_an_idle_process_ends(no_idle: None, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient = "serve; import sdvideo.codecs.av1.svt_process as module; module._IDLE_TIMEOUT = 1;"
    monkeypatch.setattr(svt, "_START", svt._START.replace("serve;", impatient))
    before = set(children(os.getpid()))
    expected = svt.encode(noise(2), OPTIONS)
    (encoder,) = set(children(os.getpid())) - before
    deadline = time.monotonic() + 60
    while is_running(encoder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(encoder)
    assert svt.encode(noise(2), OPTIONS) == expected


def test_processes_that_all_fail_are_one_error(no_idle: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svt, "_START", "raise SystemExit(1)")
    with pytest.raises(SinkError, match="SVT-AV1 hung or crashed 3 times"):
        svt.encode(noise(2), OPTIONS)


def test_a_process_that_cannot_be_started_is_one_error(no_idle: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svt.sys, "executable", "/there/is/no/python")
    with pytest.raises(SinkError, match="cannot start a process for SVT-AV1"):
        svt.encode(noise(2), OPTIONS)


def test_an_encoder_error_is_one_error_and_the_process_is_used_again(no_idle: None) -> None:
    with pytest.raises(SinkError, match="SVT-AV1 failed"):
        svt.encode(noise(40, 256), OPTIONS | {"svtav1-params": "crf=999"})
    assert len(svt._idle) == 1
    assert sorted(svt.encode(noise(2), OPTIONS)) == [0, 1]


def test_an_exception_in_progress_ends_the_process_while_pictures_are_sent(no_idle: None) -> None:
    """The pictures are larger than any buffer of a pipe, so the sending thread waits when the process ends."""

    def interrupt(pictures: int, size: int) -> None:
        raise KeyboardInterrupt

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        svt.encode(noise(60, 512), OPTIONS | {"preset": "10"}, interrupt)
    assert not svt._idle
    assert threading.active_count() == threads


@needs_fork
def test_a_forked_process_starts_its_own_encoder(no_idle: None) -> None:
    """The parent's idle process keeps working for the parent alone."""
    expected = svt.encode(noise(2), OPTIONS)
    child = os.fork()
    if not child:
        signal.alarm(60)
        same = svt.encode(noise(2), OPTIONS) == expected
        svt.end_idle_processes()
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    (process,) = svt._idle
    assert svt.encode(noise(2), OPTIONS) == expected
    assert svt._idle == [process] and process.is_alive


def test_a_daemonic_process_can_encode(tmp_path: Path) -> None:
    """Cluster workers may be daemonic, and such processes may not have children of multiprocessing."""
    worker = multiprocessing.get_context("spawn").Process(target=encode_into, args=(tmp_path / "packets",), daemon=True)
    worker.start()
    worker.join(120)
    assert worker.exitcode == 0
    packets = svt.encode(noise(2), OPTIONS)
    assert (tmp_path / "packets").read_bytes() == packets[0] + packets[1]


def encode_into(path: Path) -> None:
    packets = svt.encode(noise(2), OPTIONS)
    path.write_bytes(packets[0] + packets[1])


@needs_proc
def test_no_encoder_process_outlives_its_parent(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[2])]!r}
from test_svt_process import OPTIONS, noise
from sdvideo.codecs.av1 import svt_process as svt
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
    deadline = time.monotonic() + 30  # enough on a busy machine; coding all pictures would take minutes
    while is_running(encoder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(encoder)


def is_running(process: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return bool((PROC / str(process) / "cmdline").read_bytes())
    except OSError:
        return False


@needs_proc
@pytest.mark.skipif(not hasattr(os, "SCHED_FIFO") or os.getuid() != 0, reason="only root can get real-time priority")
def test_encoder_threads_have_no_real_time_priority(no_idle: None) -> None:
    """As root, SVT-AV1 gives it to its threads and to the thread that calls it, which starves everything else."""
    usual, seen, before = os.sched_getscheduler(0), Counter(), set(children(os.getpid()))
    svt.encode(noise(2), OPTIONS)
    (encoder,) = set(children(os.getpid())) - before
    with ThreadPoolExecutor(1) as pool:
        future: Future = pool.submit(svt.encode, noise(40, 256), OPTIONS)
        while not future.done():
            with suppress(OSError):
                for thread in os.listdir(f"/proc/{encoder}/task"):
                    seen[os.sched_getscheduler(int(thread))] += 1
    assert seen[os.SCHED_FIFO] < 0.2 * seen.total()  # only when the encoder has just been opened
    assert os.sched_getscheduler(0) == usual


@pytest.mark.parametrize("damaged", ["a trial encode", "a group"])
def test_a_group_that_does_not_decode_is_coded_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damaged: str
) -> None:
    """On a busy machine SVT-AV1 made such a group once in hours."""
    source = tmp_path / "noise.y4m"
    info = StreamInfo(128, 128, Fraction(1, 25), Fraction(25), 4)
    with open_sink(source, info) as sink:
        for number, picture in enumerate(noise(4)):
            sink.write(Frame(number, 1, picture))
    sdvideo.encode(source, tmp_path / "whole.sdv", preset="fast")
    encode, damaged_packets = svt.encode, []

    def damage_once(pictures: list[Picture], options: dict[str, str], progress: svt.Progress = svt.no_progress):
        packets = encode(pictures, options, progress)
        if not damaged_packets and (options["preset"] == str(TRIAL_PRESET)) == (damaged == "a trial encode"):
            damaged_packets.append(packets)
            return packets | {0: b"\x32\x00"}
        return packets

    monkeypatch.setattr(svt, "encode", damage_once)
    sdvideo.encode(source, tmp_path / "again.sdv", preset="fast")
    assert damaged_packets
    assert (tmp_path / "again.sdv").read_bytes() == (tmp_path / "whole.sdv").read_bytes()
    monkeypatch.setattr(svt, "encode", lambda *args: encode(*args) | {0: b"\x32\x00"})
    with pytest.raises(SinkError, match="does not decode"):
        sdvideo.encode(source, tmp_path / "never.sdv", preset="fast")
