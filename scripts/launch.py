"""Run a command and print, as JSON, its exit code, the seconds it took and its peak of resident memory in MiB.

    python scripts/launch.py COMMAND [ARGUMENT ...]

A program's own: the kernel counts to a process what its parent held when it was started, so that needs a small parent.
"""

import json
import os
import subprocess
import sys
import time

begin = time.monotonic()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
seconds = time.monotonic() - begin
process.returncode = os.waitstatus_to_exitcode(status)
unit = 2**20 if sys.platform == "darwin" else 2**10
print(json.dumps({"code": process.returncode, "seconds": seconds, "mib": usage.ru_maxrss / unit}))
