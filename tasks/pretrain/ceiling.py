"""What a device can multiply: the ceiling that a training run's operations are held against (MFU).

The peak its maker publishes where the name is known here, else what a large square product reaches in the very
precision and with the very threads of the run. Measured, it is a ceiling in practice, which no run reaches either.
"""

from __future__ import annotations

import re
import time

import torch

# dense products, 10^12 operations a second in bf16 (sums in fp32) and in fp32 without TF32, from the makers' data
# sheets; a device whose name holds all the words of an entry, the first such one
PUBLISHED = {
    "B200": (2250.0, 75.0), "H200": (989.4, 66.9), "H100 PCIe": (756.4, 51.2), "H100 NVL": (835.0, 60.0),
    "H100": (989.4, 66.9), "A100": (312.0, 19.5), "L40S": (362.1, 91.6), "L4": (121.0, 30.3), "A10": (125.0, 31.2),
}
SECONDS = 0.5  # of measuring, after one product to warm up
SIZES = {"cpu": 1024, "cuda": 8192}


def published(name: str, precision: str) -> float | None:
    """The peak of the device that calls itself `name`, operations a second; None where it is not known."""
    words = set(re.split(r"[\s-]+", name))
    for known, (bf16, fp32) in PUBLISHED.items():
        if set(known.split()) <= words:
            return (bf16 if precision == "bf16" else fp32) * 1e12
    return None


def measured(device: str, precision: str, size: int | None = None, seconds: float = SECONDS) -> float:
    """Operations a second of the fastest of many [size, size] products within `seconds`, 2 size^3 operations each."""
    kind = torch.device(device).type
    size = size or SIZES[kind]
    one, other, out = (torch.full((size, size), value, device=device,
                                  dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
                       for value in (0.5, 0.25, 0.0))
    wait = torch.cuda.synchronize if kind == "cuda" else lambda: None
    torch.mm(one, other, out=out)
    wait()
    fastest, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or fastest == float("inf"):
        began = time.perf_counter()
        torch.mm(one, other, out=out)
        wait()
        fastest = min(fastest, time.perf_counter() - began)
    return 2 * size**3 / fastest


def of(device: str, precision: str) -> tuple[float, str]:
    """(operations a second, where the figure is from) of `device` ("cpu" or a CUDA device)."""
    if torch.device(device).type == "cuda":
        name = torch.cuda.get_device_name(device)
        if peak := published(name, precision):
            return peak, f"published peak of {name}, {precision}"
    rate = measured(device, precision)
    return rate, f"measured {precision} product, {torch.get_num_threads()} threads" if device == "cpu" else \
        f"measured {precision} product"
