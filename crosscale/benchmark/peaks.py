"""Dense matrix-product peaks of accelerators by name, from their makers' data sheets (without sparsity)."""

# part of the device's name: TFLOP/s in bfloat16, in TensorFloat-32, in float32
_PEAKS = {
    "H200": (989.0, 494.5, 67.0),
    "H100 PCIe": (756.0, 378.0, 51.0),
    "H100": (989.0, 494.5, 67.0),
    "A100": (312.0, 156.0, 19.5),
    "L40S": (362.0, 183.0, 91.6),
    "V100": (0.0, 0.0, 15.7),
}


def known_flops(device: str, dtype: str, tf32: bool) -> float | None:
    """FLOP/s that the maker states for a device of this name; None where no row fits."""
    for part, (bfloat16, rounded, float32) in _PEAKS.items():
        if part.lower() in device.lower():
            peak = bfloat16 if dtype == "bfloat16" else rounded if tf32 else float32
            return peak * 1e12 or None
    return None
