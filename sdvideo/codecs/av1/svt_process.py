"""Runs SVT-AV1 in processes of its own, through FFmpeg's libsvtav1.

SVT-AV1 4.1 is not safe to use twice in one process: encoders share tables that each new one writes again, and two at
once hang, or produce a stream that does not decode. Rarely, even a single one hangs. As root on Linux, it gives
real-time priority to its threads and to the thread that calls it, which starves everything else. So each encoder runs
in a process that does nothing else. The process codes one group after another and ends itself if the encoder hangs;
then another process codes the group again.

The processes are started by subprocess, because daemonic processes, such as the workers of a cluster, may not have
children of multiprocessing. Pictures and packets go through a `multiprocessing.connection.Pipe` whose second end the
new process inherits. It is a socket pair on POSIX and a named pipe on Windows, and keeps the messages apart on both;
standard input and output would not on Windows, where a Connection needs a pipe that was made for it. Unlike a Listener,
it needs no address and no key, and nobody waits for a process that failed to start. Only bytes are sent; nothing is
pickled.

Messages, with all numbers little-endian:

    to the encoder    a JSON object with width, height, frames and options; then the planes Y, U and V of each picture,
                      each in messages of 512 KiB, of which the last one may be shorter
    from the encoder  a message for each packet, as soon as there is one: u32 number of its picture, then the packet;
                      at the end u32 END, or u32 FAULT, then FFmpeg's error message
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
from collections.abc import Callable, Sequence
from contextlib import suppress
from fractions import Fraction
from multiprocessing.connection import Pipe
from typing import Any

import av
import numpy as np
from av.video.frame import PictureType

from sdvideo.errors import SinkError
from sdvideo.frames import Colour, Picture
from sdvideo.media.colour import to_frame
from sdvideo.runtime.malloc import trim_heap

if sys.platform == "win32":
    from multiprocessing.connection import PipeConnection as Connection
else:
    from multiprocessing.connection import Connection

Progress = Callable[[int, int], None]  # called with the number of pictures coded so far, and their size in bytes

_NUMBER = struct.Struct("<I")
_END, _FAULT = 0xFFFFFFFF, 0xFFFFFFFE  # in place of a picture's number
# Bytes. With each piece that a Connection receives it allocates memory for the whole rest of the message; messages of
# whole planes take three times as long at 4K.
_MAX_MESSAGE = 2**19
_TRIES = 3
_HANG_TIMEOUT = 8.0  # seconds without processor time after which a busy encoder counts as hanging
_IDLE_TIMEOUT = 30.0  # seconds without work after which a process ends itself
_POLL_INTERVAL = 0.5  # seconds between two checks for either
_POLL_TIME = 0.01  # seconds of processor time that may pass between two checks while nothing else happens
_FRAME_RATE = 25  # of the streams; their timestamps are not used
_THREADS = "/proc/self/task"
_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from sdvideo.codecs.av1.svt_process import serve; serve(int(sys.argv[2]), int(sys.argv[3]))"
)


def no_progress(pictures: int, size: int) -> None:
    """A Progress that does nothing."""


def encode(pictures: Sequence[Picture], options: dict[str, str], progress: Progress = no_progress) -> dict[int, bytes]:
    """Code one closed sequence. Returns the packet of each picture by the picture's number.

    pictures: all of one size, with even sides that are at least SVT-AV1's minimum. options: for FFmpeg's libsvtav1.
    Raises SinkError if the encoder reports an error, or hangs or crashes repeatedly.
    """
    for _ in range(_TRIES):
        process = _idle_or_new_process()
        try:
            packets = process.encode(pictures, options, progress)
        except SinkError:
            _idle.append(process)
            raise
        except (OSError, EOFError):  # the process ended itself, or was ended
            process.end()
            continue
        except BaseException:
            process.end()
            raise
        _idle.append(process)
        return packets
    raise SinkError(f"SVT-AV1 hung or crashed {_TRIES} times on the same pictures")


def end_idle_processes() -> None:
    """End all processes that wait for work, so that the next group is coded by a new one."""
    with suppress(IndexError):
        while True:
            _idle.pop().end()


# --- the calling side ---------------------------------------------------------------------------------------


class _EncoderProcess:
    """An encoder process, idle or at work on one group."""

    def __init__(self) -> None:
        self.owner = os.getpid()  # after a fork, a second process holds this object but must not use it
        self._sender: threading.Thread | None = None
        # With one heap per thread, glibc keeps more and more of the memory that finished threads have freed. Small
        # blocks that it caches for a thread are scattered over the heap and keep it from shrinking after a group.
        heap = {"MALLOC_ARENA_MAX": "1", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
        self._connection, inherited = Pipe()
        with inherited:
            handle = inherited.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(sys.path), str(handle), str(self.owner)],
                env=os.environ | heap,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                **_inheriting(handle),
            )
        atexit.register(self.end)

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def encode(self, pictures: Sequence[Picture], options: dict[str, str], progress: Progress) -> dict[int, bytes]:
        # In a thread, because the first packets come before the last pictures have been sent.
        self._sender = threading.Thread(target=self._send, args=(pictures, options), daemon=True)
        self._sender.start()
        packets: dict[int, bytes] = {}
        size = 0
        while True:
            message = self._connection.recv_bytes()
            (number,), data = _NUMBER.unpack_from(message), message[_NUMBER.size :]
            if number in (_END, _FAULT):
                self._sender.join()
                if number == _FAULT:
                    raise SinkError(f"SVT-AV1 failed: {data.decode()}")
                return packets
            packets[number] = data
            size += len(data)
            progress(len(packets), size)

    def _send(self, pictures: Sequence[Picture], options: dict[str, str]) -> None:
        size = {"width": pictures[0].width, "height": pictures[0].height}
        request = {**size, "frames": len(pictures), "options": options}
        with suppress(OSError):  # if the process has ended, the receiving thread notices it as well
            self._connection.send_bytes(json.dumps(request).encode())
            for picture in pictures:
                for plane in (picture.y, picture.u, picture.v):
                    data = plane.ravel().data
                    for start in range(0, len(data), _MAX_MESSAGE):
                        self._connection.send_bytes(data[start : start + _MAX_MESSAGE])

    def end(self) -> None:
        """End the process, even while it is at work."""
        atexit.unregister(self.end)
        if self.owner == os.getpid():
            self._process.kill()
            self._process.wait()
            if self._sender is not None:
                self._sender.join()  # before the connection is closed: its file descriptor may soon be another file's
            self._connection.close()


_idle: list[_EncoderProcess] = []


def _idle_or_new_process() -> _EncoderProcess:
    while True:
        try:
            process = _idle.pop()
        except IndexError:
            break
        if process.owner == os.getpid() and process.is_alive:
            return process
        process.end()
    try:
        return _EncoderProcess()
    except OSError as error:
        raise SinkError(f"cannot start a process for SVT-AV1: {error}") from error


def _inheriting(handle: int) -> dict[str, Any]:
    """Arguments for Popen with which the new process inherits this end of a Pipe, under the same number."""
    if sys.platform == "win32":
        os.set_handle_inheritable(handle, True)
        return {"startupinfo": subprocess.STARTUPINFO(lpAttributeList={"handle_list": [handle]})}
    return {"pass_fds": [handle]}


# --- the encoder process ------------------------------------------------------------------------------------


def serve(handle: int, parent: int) -> None:
    """Encode groups until the pipe is closed. handle: an end of a Pipe; parent: id of the process at the other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent
    os.environ.setdefault("SVT_LOG", "0")  # errors are reported through the pipe; SVT-AV1 would log everything else
    connection = Connection(handle)
    busy = threading.Event()
    threading.Thread(target=_watch, args=(parent, busy), daemon=True).start()
    try:
        while True:
            _encode_group(connection, busy, **json.loads(connection.recv_bytes()))
            trim_heap()  # each idle process would keep the memory of its largest group
    except (EOFError, OSError):
        # The parent has closed the pipe or ended. Leave at once, while the traceback still holds the encoder: when an
        # encoder is freed, it first codes all the pictures that it was given.
        os._exit(0)


def _encode_group(
    connection: Connection, busy: threading.Event, width: int, height: int, frames: int, options: dict[str, str]
) -> None:
    """Receive the pictures of a group and send its packets. busy: set while SVT-AV1 works, not while this waits."""
    encoder = av.CodecContext.create("libsvtav1", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, _FRAME_RATE), Fraction(_FRAME_RATE)
    encoder.options = options
    pictures = (_receive_picture(connection, width, height) for _ in range(frames))
    try:
        busy.set()
        encoder.open()
        _reset_thread_priorities()
        for number in range(frames + 1):
            busy.clear()
            frame = None
            if number < frames:
                frame = to_frame(next(pictures), Colour())
                frame.pts, frame.time_base = number, encoder.time_base
                frame.pict_type = PictureType.NONE if number else PictureType.I
            busy.set()
            packets = encoder.encode(frame)
            busy.clear()
            for packet in packets:
                assert packet.pts is not None  # it is that of a frame
                connection.send_bytes(_NUMBER.pack(packet.pts) + bytes(packet))
    except av.FFmpegError as error:
        busy.clear()
        for _ in pictures:  # receive the others, which would otherwise be taken for the next request
            pass
        connection.send_bytes(_NUMBER.pack(_FAULT) + str(error).encode())
    else:
        connection.send_bytes(_NUMBER.pack(_END))


def _receive_picture(connection: Connection, width: int, height: int) -> Picture:
    sizes = (height, width), *[(height // 2, width // 2)] * 2
    planes = [np.empty(size, np.uint8) for size in sizes]
    for plane in planes:
        data = plane.ravel().data
        for start in range(0, len(data), _MAX_MESSAGE):
            connection.recv_bytes_into(data[start : start + _MAX_MESSAGE])
    return Picture(*planes)


def _watch(parent: int, busy: threading.Event) -> None:
    """End this process if its parent is gone, if it gets no work, or if the encoder is busy but uses no processor time.

    On Windows the pipe alone shows that the parent is gone: there, in a virtual environment, the parent of this process
    is a launcher.
    """
    used, since, was_busy = time.process_time(), time.monotonic(), False
    while sys.platform == "win32" or os.getppid() == parent:
        time.sleep(_POLL_INTERVAL)
        now, is_busy = time.process_time(), busy.is_set()
        if now - used > _POLL_TIME or is_busy != was_busy:
            used, since, was_busy = now, time.monotonic(), is_busy
        elif time.monotonic() - since > (_HANG_TIMEOUT if is_busy else _IDLE_TIMEOUT):
            break
    os._exit(1)


def _reset_thread_priorities() -> None:
    """Undo the real-time priority that SVT-AV1 gives to the threads of this process."""
    if sys.platform == "linux" and os.path.isdir(_THREADS):
        for thread in map(int, os.listdir(_THREADS)):
            with suppress(ProcessLookupError):
                if os.sched_getscheduler(thread) == os.SCHED_FIFO:
                    os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
