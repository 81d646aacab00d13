#!/bin/sh
# sh scripts/try.sh: install sdvideo into .venv, code the sample clip, decode it, and say what was saved.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$root/scripts/setup.sh"
setup ""

sdvideo=$root/.venv/bin/sdvideo
source=$root/samples/walk.mp4
out=$root/build/try
mkdir -p "$out"

"$sdvideo" encode "$source" -o "$out/walk.sdv" -y
"$sdvideo" decode "$out/walk.sdv" -o "$out/walk.mp4" -y
"$sdvideo" report "$source" "$out/walk.sdv" --json "$out/report.json"

"$root/.venv/bin/python" - "$source" "$out" <<'END'
import json
import sys
from pathlib import Path

source, out = Path(sys.argv[1]), Path(sys.argv[2])
before, after = source.stat().st_size, (out / "walk.sdv").stat().st_size
psnr = json.loads((out / "report.json").read_text()).get("summary", {}).get("psnr")
if isinstance(psnr, dict):  # the mean is the one figure for a whole clip
    psnr = psnr.get("mean")
quality = f", PSNR {psnr:.2f} dB" if isinstance(psnr, (int, float)) else ""
print(
    f"{source.name}: {before:,} bytes -> walk.sdv: {after:,} bytes, "
    f"{before / after:.1f} times smaller{quality}; see {out}/walk.sdv, walk.mp4 and report.json"
)
END
