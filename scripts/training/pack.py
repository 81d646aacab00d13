"""Put trained weights into the package: float16 for the transform, float32 for the small context model.

python scripts/training/pack.py run/last.pt --revision 2026-11-22
"""

from __future__ import annotations

import argparse
from pathlib import Path

import safetensors.torch
import torch

from sdvideo.weights import EMBEDDED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--revision", required=True)
    options = parser.parse_args()
    state = torch.load(options.checkpoint, weights_only=True)
    tensors = {f"transform.{name}": value.half() for name, value in state["transform"].items()}
    # Rounded to what coding uses, so that nothing depends on how float16 rounds.
    tensors |= {f"context.{name}": value.float() for name, value in state["context"].items()}
    EMBEDDED.parent.mkdir(exist_ok=True)
    safetensors.torch.save_file(
        {name: value.contiguous() for name, value in tensors.items()}, EMBEDDED, {"revision": options.revision}
    )
    print(f"{EMBEDDED}: {EMBEDDED.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
