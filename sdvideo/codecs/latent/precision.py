"""Runs a frozen network in float16 until it overflows, from then on in float32."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from sdvideo.errors import ModelError

log = logging.getLogger("sdvideo")


class NetworkRunner:
    """Puts a network on a device and runs computations with it. Not for use by several threads at once.

    device, dtype: where and of what type the network's inputs must be.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        title: str,
        device: str,
        dtype: torch.dtype,
        memory_format: torch.memory_format = torch.preserve_format,
    ):
        """network: is frozen and moved. title: its name in messages."""
        self._network = network.eval().requires_grad_(False)
        self.device = device
        self._title = title
        self.convert(dtype, memory_format=memory_format)

    def convert(self, dtype: torch.dtype, **options: Any) -> None:
        # Not diffusers' own to(), which warns of modules that it would keep in float32 even if there are none.
        self.dtype = dtype
        torch.nn.Module.to(self._network, self.device, dtype, **options)

    @torch.inference_mode()
    def run(self, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The result of a computation with the network, float32 on the CPU.

        compute: is called again, in float32, if its result in float16 is not finite. Raises ModelError if the result in
        float32 is not finite.
        """
        result = compute().float().cpu()
        if torch.isfinite(result).all():
            return result
        if self.dtype == torch.float32:
            raise ModelError(f"{self._title} computes values that are not finite")
        log.warning("%s overflows in float16: continuing in float32", self._title)
        self.convert(torch.float32)
        return self.run(compute)
