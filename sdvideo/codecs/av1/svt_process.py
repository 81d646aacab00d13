"""SVT-AV1 in processes of its own, through FFmpeg's libsvtav1.

SVT-AV1 4.1 is not made for company: encoders of one process share tables that each new one writes again, and two at
once hang, or code what cannot be decoded. Rarely one stands still even alone. As root on Linux it makes its threads and
the one that calls it real-time ones, which starves everything else. So each encoder runs in a process that does nothing
else, codes one group after another, and ends itself when it stands still; then another one codes the group again.

Between the processes, all numbers little-endian:

    to it      u32 length, then as many bytes of JSON: width, height, frames, options; then each picture: Y, U, V
    from it    each packet, as soon as there is one: u32 number of its picture, u32 length, bytes; at the end u32 END,
               or u32 FAULT, u32 length and what FFmpeg said
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np
from av.video.frame import PictureType

from sdvideo.errors import SinkError
from sdvideo.frames import Colour, Picture
from sdvideo.media.colour import to_frame
from sdvideo.runtime.malloc import trim_heap

Progress = Callable[[int, int], None]  # pictures coded so far, and the bytes they take

END, FAULT = 0xFFFFFFFF, 0xFFFFFFFE
_TRIES = 3
_STILL = 8.0  # seconds without work after which an encoder is taken to stand still
_UNUSED = 30.0  # seconds without being asked after which one is not needed any more
_LOOK = 0.5  # seconds between two looks at it
_NOTHING = 0.01  # seconds of processor time that looking may take
_RATE = 25  # of the streams, whose times nobody reads
_THREADS = "/proc/self/task"
_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from sdvideo.codecs.av1.svt_process import serve; serve(int(sys.argv[2]))"
)


def silently(pictures: int, size: int) -> None:
    """A Progress that tells nobody."""


def encode(pictures: Sequence[Picture], options: dict[str, str], progress: Progress = silently) -> dict[int, bytes]:
    """One closed sequence: the packet of each picture by its number.

    pictures: of one size, even, as large as SVT-AV1 needs; options: of FFmpeg's libsvtav1. Raises SinkError where the
    encoder fails.
    """
    for _ in range(_TRIES):
        process = _take()
        try:
            packets = process.encode(pictures, options, progress)
        except SinkError:
            _idle.append(process)
            raise
        except (OSError, EOFError):  # it ended itself, or something ended it
            process.end()
            continue
        except BaseException:
            process.end()
            raise
        _idle.append(process)
        return packets
    raise SinkError("SVT-AV1 does not come to an end")


def renew() -> None:
    """Let go of the encoders that wait, so that others do what comes next."""
    with suppress(IndexError):
        while True:
            _idle.pop().end()


# --- the side that asks -------------------------------------------------------------------------------------


class _Process:
    """An encoder process that waits for work, or does some."""

    def __init__(self):
        self.owner = os.getpid()  # after a fork two would talk to it
        command = [sys.executable, "-c", _START, json.dumps(sys.path), str(self.owner)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        # With a heap for each thread, glibc keeps more and more of what threads that ended have freed. Small pieces
        # that it holds ready for a thread lie all over the heap, which keeps it from shrinking again after a group.
        heap = {"MALLOC_ARENA_MAX": "1", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
        self._process = subprocess.Popen(command, env=os.environ | heap, **pipes)
        atexit.register(self.end)

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def encode(self, pictures: Sequence[Picture], options: dict[str, str], progress: Progress) -> dict[int, bytes]:
        telling = threading.Thread(target=self._tell, args=(pictures, options), daemon=True)
        telling.start()  # for the packets of the first pictures come before the last pictures have gone
        heard = self._process.stdout
        packets, size = {}, 0
        while (number := _number(heard)) != END:
            data = _exactly(heard, _number(heard))
            if number == FAULT:
                telling.join()
                raise SinkError(f"SVT-AV1 failed: {data.decode()}")
            packets[number] = data
            size += len(data)
            progress(len(packets), size)
        telling.join()
        return packets

    def _tell(self, pictures: Sequence[Picture], options: dict[str, str]) -> None:
        said = self._process.stdin
        size = {"width": pictures[0].width, "height": pictures[0].height}
        head = json.dumps({**size, "frames": len(pictures), "options": options}).encode()
        with suppress(OSError, ValueError):  # who listens will find out that it has ended, or been ended
            said.write(struct.pack("<I", len(head)) + head)
            for picture in pictures:
                for plane in (picture.y, picture.u, picture.v):
                    said.write(np.ascontiguousarray(plane))
            said.flush()

    def end(self) -> None:
        atexit.unregister(self.end)
        if self.owner == os.getpid():
            self._process.kill()
            for pipe in (self._process.stdin, self._process.stdout):
                with suppress(OSError):
                    pipe.close()
            self._process.wait()


_idle: list[_Process] = []


def _take() -> _Process:
    while True:
        try:
            process = _idle.pop()
        except IndexError:
            return _Process()
        if process.owner == os.getpid() and process.lives:
            return process
        process.end()


def _number(pipe: BinaryIO) -> int:
    return struct.unpack("<I", _exactly(pipe, 4))[0]


def _exactly(pipe: BinaryIO, size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data


# --- the side that encodes ----------------------------------------------------------------------------------


def serve(parent: int) -> None:
    """Encode what comes by standard input until it ends. parent: the process to work for, and not to outlive."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asks
    os.environ.setdefault("SVT_LOG", "0")  # what goes wrong is told; it would talk of all else
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    at_work = threading.Event()
    threading.Thread(target=_watch, args=(parent, at_work), daemon=True).start()
    try:
        while True:
            answer = _answer(source, at_work, **json.loads(_exactly(source, _number(source))))
            for piece in answer:
                sink.write(piece)
                sink.flush()
            trim_heap()  # what the largest group took, in each encoder that waits
    except (EOFError, BrokenPipeError):
        os._exit(0)  # here, while the encoder is still held: let go, it would first code all that it has been given


def _answer(
    source: BinaryIO, at_work: threading.Event, width: int, height: int, frames: int, options: dict[str, str]
) -> Iterator[bytes]:
    """Take the pictures and give the packets; at work while the encoder is, not while anybody waits for a pipe."""
    encoder = av.CodecContext.create("libsvtav1", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, _RATE), Fraction(_RATE)
    encoder.options = options
    pictures = (_picture(_exactly(source, width * height * 3 // 2), width, height) for _ in range(frames))
    try:
        at_work.set()
        encoder.open()
        _calm()
        for number in range(frames + 1):
            at_work.clear()
            frame = None
            if number < frames:
                frame = to_frame(next(pictures), Colour())
                frame.pts, frame.time_base = number, encoder.time_base
                frame.pict_type = PictureType.NONE if number else PictureType.I
            at_work.set()
            packets = encoder.encode(frame)
            at_work.clear()
            for packet in packets:
                yield struct.pack("<II", packet.pts, packet.size) + bytes(packet)
    except av.FFmpegError as error:
        at_work.clear()
        for _ in pictures:  # they are on their way, and in the way of what is asked next
            pass
        said = str(error).encode()
        yield struct.pack("<II", FAULT, len(said)) + said
    else:
        yield struct.pack("<I", END)


def _picture(data: bytes, width: int, height: int) -> Picture:
    y, u, v = np.split(np.frombuffer(data, np.uint8), [width * height, width * height * 5 // 4])
    return Picture(y.reshape(height, width), *(plane.reshape(height // 2, width // 2) for plane in (u, v)))


def _watch(parent: int, at_work: threading.Event) -> None:
    """End the process when who it works for is gone or asks no more, or when the encoder is at work and does none."""
    done, since, was_at_work = time.process_time(), time.monotonic(), False
    while os.getppid() == parent:
        time.sleep(_LOOK)
        now, is_at_work = time.process_time(), at_work.is_set()
        if now - done > _NOTHING or is_at_work != was_at_work:
            done, since, was_at_work = now, time.monotonic(), is_at_work
        elif time.monotonic() - since > (_STILL if is_at_work else _UNUSED):
            break
    os._exit(1)


def _calm() -> None:
    """Take the real-time priority back."""
    if hasattr(os, "sched_setscheduler") and os.path.isdir(_THREADS):
        for thread in map(int, os.listdir(_THREADS)):
            with suppress(ProcessLookupError):
                if os.sched_getscheduler(thread) == os.SCHED_FIFO:
                    os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
