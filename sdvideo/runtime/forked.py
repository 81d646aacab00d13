"""What a forked process must do before it computes: its libraries count on threads that only the parent has."""

from __future__ import annotations

import ctypes
import sys


def leave_inherited_threads() -> None:
    """Let OpenCV and PyTorch compute in the calling thread: else they wait forever for threads of the parent."""
    if cv2 := sys.modules.get("cv2"):
        cv2.setNumThreads(0)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def never_free(inherited: object) -> None:
    """Keep an object of the parent process: a decoder that is freed waits for its threads, which are not here."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))
