"""Run a command and print, as JSON, its exit code, the seconds it took, its peak of memory in MiB, and how many
processors it kept busy on average, with the processes it started and waited for.

    python scripts/launch.py COMMAND [ARGUMENT ...]

The peak is that of resident memory of the program itself or, on Linux, of it and the processes it started together,
looked at every tenth of a second, where that is more. The kernel counts to a process what its parent held when it was
started, so that needs a small parent.
"""

import json
import os
import subprocess
import sys
import threading
import time

INTERVAL = 0.1


def family(process):
    """The process and all it started, that live."""
    yield process
    try:
        for thread in os.listdir(f"/proc/{process}/task"):
            with open(f"/proc/{process}/task/{thread}/children") as children:
                for child in children.read().split():
                    yield from family(child)
    except OSError:  # it has ended, or this is not Linux
        pass


def share(process):
    """Resident memory of a process in kB; what several share counts in parts."""
    try:
        with open(f"/proc/{process}/smaps_rollup") as lines:
            return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    except OSError:
        return 0


def watch(process, ended, found):
    while not ended.wait(INTERVAL):
        found.append(sum(map(share, family(process))) / 2**10)


begin = time.monotonic()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
ended, found = threading.Event(), []
watcher = threading.Thread(target=watch, args=(process.pid, ended, found))
watcher.start()
_, status, usage = os.wait4(process.pid, 0)
seconds = time.monotonic() - begin
ended.set()
watcher.join()
process.returncode = os.waitstatus_to_exitcode(status)
unit = 2**20 if sys.platform == "darwin" else 2**10
print(
    json.dumps(
        {
            "code": process.returncode,
            "seconds": seconds,
            "mib": max([usage.ru_maxrss / unit, *found]),
            "busy": (usage.ru_utime + usage.ru_stime) / seconds,
        }
    )
)
