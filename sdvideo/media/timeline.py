"""Times of packets and pictures: clocks that jump, pictures without a time or with that of their decoding.

    packets -> ContinuousClock -> decoder -> DecodingTimes (where needed) -> PictureClock -> times that increase

Times are in ticks of their stream, unless seconds are named.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from fractions import Fraction

import av

from sdvideo.frames import StreamInfo

from .losses import lost
from .tracks import Packet, ticks

# Seconds by which a time of decoding, or of showing, may lie behind the end of the stream's previous packet without a
# jump; and any time ahead of all streams.
_BACK, _BACK_SHOWN, _AHEAD = Fraction(1, 10), Fraction(1, 2), Fraction(10)
_MOST_DELAYED = 4  # pictures by which decoding may run ahead of showing
_JUMP = 1  # second; pictures whose times go back by more belong to another recording


class ContinuousClock:
    """Puts the times of transport and program streams, whose clock may restart or jump, on one timeline.

    jumps: how many there were. All streams move by the same time at a jump, so they stay in step; packets of the clock
    before that come late are told apart.
    """

    def __init__(self) -> None:
        self.jumps = 0
        self._offsets = [Fraction(0)]  # seconds to add: of the present clock, and of the one before
        self._due: dict[int, Fraction] = {}  # by stream: the end of its last packet on the timeline

    def move(self, packet: Packet) -> None:
        """Change the times of a packet. Packets must come in the order of the file."""
        time = packet.pts if packet.dts is None else packet.dts
        if time is None:
            return
        steady = packet.stream.type in ("video", "audio")  # subtitles come seldom, and tell nothing about the clock
        seconds = time * packet.time_base
        offset = self._offset(packet.stream_index, seconds, _BACK_SHOWN if packet.dts is None else _BACK, steady)
        if steady:
            end = seconds + offset + (packet.duration or 0) * packet.time_base
            self._due[packet.stream_index] = max(end, self._due.get(packet.stream_index, end))
        if offset:
            moved = ticks(offset, packet.time_base)
            packet.pts, packet.dts = (None if t is None else t + moved for t in (packet.pts, packet.dts))

    def _offset(self, index: int, seconds: Fraction, back: Fraction, steady: bool) -> Fraction:
        if not self._due:
            return self._offsets[0]
        now = max(self._due.values())
        due = self._due.get(index, now)
        earliest = (due if index in self._due else now - _AHEAD) - back
        fitting = [offset for offset in self._offsets if earliest <= seconds + offset <= now + _AHEAD]
        if fitting:
            return min(fitting, key=lambda offset: abs(seconds + offset - due))
        if not steady:
            return min(self._offsets, key=lambda offset: abs(seconds + offset - now))
        self.jumps += 1
        self._offsets = [due - seconds, self._offsets[0]]
        return self._offsets[0]


class DecodingTimes:
    """Gives decoded pictures the times of their packets in rising order.

    For files that store one time a packet, that of decoding: each picture then carries the time of another one.
    It acts only if every packet before the first picture has such a time, and there are several.

    reorders: whether the video says that it changes the order. reads_dts: take the decoding times in any case, as of
    AVI, which has no others; FFmpeg's guess of when the first picture is shown is kept.
    """

    def __init__(self, reorders: bool, reads_dts: bool) -> None:
        self._reorders, self._reads_dts = reorders, reads_dts
        self._waiting: list[int] = []
        self._keys: deque[int] = deque()
        self._delay: int | None = None
        self._told = False
        self._sent, self._acts = 0, True

    def expect(self, packet: Packet) -> Packet:
        """Note a packet that the decoder takes; returns what it is to take.

        Where the times are wrong, an edit list that cuts off the delay of the decoder hides the first packets: such are
        shown, and the first picture comes when the list begins. A list that hides more has trimmed the video.
        """
        if not self._acts or not packet.size:
            return packet
        self._sent += 1
        self._acts = self._reads_dts or packet.pts == packet.dts
        if packet.is_discard and self._acts and self._reorders and _hidden(packet) <= _MOST_DELAYED:
            packet = _shown(packet)
        if packet.dts is not None and not packet.is_discard:
            heapq.heappush(self._waiting, packet.dts)
            if packet.is_keyframe:
                self._keys.append(packet.dts)
        return packet

    def forget(self, packet: Packet) -> None:
        """Strike out a packet that could not be decoded."""
        if packet.dts is not None and packet.dts in self._waiting:
            self._waiting.remove(packet.dts)
            heapq.heapify(self._waiting)
            if packet.dts in self._keys:
                self._keys.remove(packet.dts)

    def timed(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The next picture in the order of showing, with its time."""
        self._acts = self._acts and (self._reads_dts or self._sent > 1)
        if not self._acts:
            return frame
        if frame.key_frame and self._keys:  # pictures before it that never came leave their times behind
            key = self._keys.popleft()
            while self._waiting and self._waiting[0] < key:
                heapq.heappop(self._waiting)
        if self._waiting:
            decoded = heapq.heappop(self._waiting)
            if self._delay is None:
                guess = 0 if frame.pts is None else frame.pts - decoded
                self._delay = guess if self._reads_dts else max(0, -decoded)
            timed = decoded + self._delay
            if not self._reads_dts and timed != frame.pts and not self._told:
                self._told = True
                lost("the times of the pictures are those of their decoding: they are put in order")
            frame.pts = timed
        return frame


def _hidden(packet: Packet) -> float:
    """How many pictures an edit list hides from this packet on, before time zero."""
    return -(packet.dts or 0) / packet.duration if packet.duration else math.inf


def _shown(packet: Packet) -> Packet:
    """A copy of a packet without the mark that it is not to be shown."""
    copy: Packet = av.Packet(bytes(packet))
    copy.stream, copy.time_base = packet.stream, packet.time_base
    copy.pts, copy.dts, copy.duration, copy.is_keyframe = packet.pts, packet.dts, packet.duration, packet.is_keyframe
    return copy


class PictureClock:
    """Gives every picture a later time than the one before. begin: the time that becomes 0, in seconds."""

    def __init__(self, info: StreamInfo, begin: Fraction) -> None:
        rate = info.rate or Fraction(25)
        self._begin, self._time_base = ticks(begin, info.time_base), info.time_base
        self._step = max(1, round(1 / rate / info.time_base))
        self._last: int | None = None
        self._warned: set[str] = set()

    def pts(self, frame: av.VideoFrame) -> int:
        """frame.pts, else dts, else one average frame after the previous picture. Ties move by one tick."""
        pts = frame.pts if frame.pts is not None else frame.dts
        if pts is not None:
            pts -= self._begin
        else:
            self._warn("pictures without a time are spaced by the average frame rate")
            pts = 0 if self._last is None else self._last + self._step
        if self._last is not None and (self._last - pts) * self._time_base > _JUMP:
            self._warn("times jump back, as in joined files: what follows is squeezed together; remux the file first")
        if self._last is not None and pts <= self._last:
            self._warn("pictures whose times do not increase are moved by one tick")
            pts = self._last + 1
        self._last = pts
        return pts

    def _warn(self, line: str) -> None:
        if line not in self._warned:
            self._warned.add(line)
            lost("%s", line)
