"""Run a command and print, as JSON, its exit code, the seconds it took, its peak of memory in MiB, and how many
processors it kept busy on average, with the processes it started and waited for.

    python scripts/benchmarks/launch.py COMMAND [ARGUMENT ...]

The peak is that of resident memory of the program itself or, on Linux, of it and the processes it started together,
looked at fifty times a second, where that is more. What several of them share counts for each, so that it does not
matter what else runs and shares it. A process that is being started shows all that its parent holds, until its own
program begins: in what is looked at it does not count till then, and for the kernel's own figure the parent is small.
"""

import json
import os
import subprocess
import sys
import threading
import time

INTERVAL = 0.02
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
FLAGS, NOT_BEGUN = 6, 0x40  # of /proc/PID/stat after the name; PF_FORKNOEXEC


def family(process):
    """The process and all it started, that live and have begun."""
    try:
        with open(f"/proc/{process}/stat") as numbers:
            if int(numbers.read().rpartition(")")[2].split()[FLAGS]) & NOT_BEGUN:
                return
        yield process
        for thread in os.listdir(f"/proc/{process}/task"):
            with open(f"/proc/{process}/task/{thread}/children") as children:
                for child in children.read().split():
                    yield from family(child)
    except OSError:  # it has ended, or this is not Linux
        pass


def resident(process):
    """Resident memory of a process in bytes."""
    try:
        with open(f"/proc/{process}/statm") as numbers:
            return int(numbers.read().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def watch(process, ended, found):
    while not ended.wait(INTERVAL):
        found.append(sum(map(resident, family(process))) / 2**20)


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
