"""How the network is called in a training step."""

from __future__ import annotations

import logging
from typing import Any

import torch
from monai.inferers import SimpleInferer

from monai_cxr_vae.machine import has_bfloat16

logger = logging.getLogger(__name__)


class PrecisionInferer(SimpleInferer):
    """Calls the network as it is, or with its products and convolutions in bfloat16.

    PyTorch's autocast keeps weights and gradients in float32, and the loss computes in float32 again. bfloat16 has the
    range of float32, so nothing is scaled. MONAI's ``amp`` would do it on CUDA only, and in float16.

    Args:
        device: where the network runs.
        bf16: compute in bfloat16, if the device has it; a device that would emulate it computes in float32, and a
            warning says so.
    """

    def __init__(self, device: torch.device | str, bf16: bool = False) -> None:
        super().__init__()
        self.bf16 = bf16 and has_bfloat16(torch.device(device))
        if bf16 and not self.bf16:
            logger.warning("this device has no bfloat16, and is many times slower with it: training in float32")

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
        """The network's output."""
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.bf16):
            return super().__call__(inputs, network, *args, **kwargs)
