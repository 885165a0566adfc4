"""Measured beside the roofline: a floor under each stage, from the peaks of the device."""

import dataclasses
import functools
import re

import pandas as pd
import torch

from prumerge import roofline
from prumerge.experiments.timing.clock import measure
from prumerge.experiments.timing.stages import usual
from prumerge.experiments.timing.tables import KIND
from prumerge.models.loading import load_processor
from prumerge.models.random_weights import SHAPES, random_config
from prumerge.roofline.shapes import QWEN, read_config

# So large that arithmetic waits for nothing else; more than caches hold.
SIDE, COPIED_BYTES = {"cpu": 2048, "cuda": 8192}, {"cpu": 2**27, "cuda": 2**28}
REPEATS = 10


def measure_peaks(device: str = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, float]:
    """Measure a device's best: products (a multiply-add is two), and bytes read plus written."""
    kind = torch.device(device).type
    side, copied = SIDE[kind], COPIED_BYTES[kind]
    one = torch.ones(side, side, device=device, dtype=dtype)
    product = measure(lambda: one @ one, device, REPEATS)
    source = torch.zeros(copied, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    copy = measure(lambda: target.copy_(source), device, REPEATS)
    return {
        "peak_gflop_per_s": 2 * side**3 / product.min_ms / 1e6,
        "bandwidth_gb_per_s": 2 * copied / copy.min_ms / 1e6,
    }


def known_card(device: str, dtype: str = "bfloat16") -> roofline.Hardware | None:
    """Find the card that a device's name speaks of, of two that fit the one with the longer name.

    None for any other device, also for one of the same chip in another form
    (:data:`prumerge.roofline.HARDWARE` says which is meant), for a part of one (MIG), and for
    float32, since the figures are those of 16 bits.

    Example:
        >>> known_card("NVIDIA A100-SXM4-40GB").name, known_card("CPU (x86_64, 1 threads)")
        ('A100-40GB', None)
    """
    words = set(re.split(r"[\s-]+", device.upper()))
    fitting = [name for name in roofline.HARDWARE if words.issuperset(name.split("-"))]
    if not fitting or dtype == "float32":
        return None
    name = max(fitting, key=len)
    others = {"MIG", "SXM2", "SXM3"} if name == "V100" else {"MIG", "PCIE", "NVL"}
    return None if words & others else roofline.HARDWARE[name]


def beside_roofline(
    rows: pd.DataFrame, hardware: roofline.Hardware | str | None = None
) -> pd.DataFrame:
    """Put the roofline's estimate beside each stage of the model; projector in ``prefill``.

    ``hardware`` of None takes the card that the device's name speaks of, else the highest peaks
    measured beside any of the rows of that device and precision. ``share`` is the estimate by the
    measurement: below 1 but for noise in the peaks, since a roofline is a floor. ValueError tells
    if the hardware or the model is unknown.
    """
    peaks = ["peak_gflop_per_s", "bandwidth_gb_per_s"]
    rows = rows.reindex(columns=rows.columns.union(peaks, sort=False))
    best = rows.groupby(["device", "dtype"])[peaks].transform("max")
    wanted = rows.assign(**best)[rows["stage"].isin(["encode", "prefill", "decode"])]
    result = wanted[[*KIND, "stage", "new_tokens"]].copy()
    found = [_estimate(row, hardware) for row in wanted.to_dict("records")]
    result["peaks_of"] = [name for name, _ in found]
    result["estimated_ms"] = [time_ms for _, time_ms in found]
    result["measured_ms"] = wanted["median_ms"]
    result["share"] = result["estimated_ms"] / result["measured_ms"]
    return result.reset_index(drop=True)


def _estimate(row: dict, hardware: roofline.Hardware | str | None) -> tuple[str, float]:
    if hardware is not None:
        card = roofline.find_hardware(hardware)
    elif (card := known_card(row["device"], row["dtype"])) is None:
        rate, bandwidth = 1e9 * row["peak_gflop_per_s"], 1e9 * row["bandwidth_gb_per_s"]
        card = roofline.Hardware("measured here", bandwidth, rate, rate, 1.0)
    bits = 32 if row["dtype"] == "float32" else 16
    stock = row["method"] == "full"
    shown, packed = _shown(row["model"], row["weights"])
    shape = _shape(row)
    stages = roofline.estimate_costs(
        shape,
        row["prompt_tokens"],
        card,
        roofline.Precision(row["dtype"], bits, bits, bits),
        row["batch"],
        row["attention"] != "eager",
        text_tokens=row["text_tokens"],
        pictures=row["pictures"] * shown.tiles,
        grid=shown.grid,
        new_tokens=int(row["new_tokens"]) if row["stage"] == "decode" else 1,
        # The stock model runs all blocks, a reducer only those before the features: all of Qwen's.
        vision_layers=row["vision_layers"] - (not stock and not shape.vision.merger),
    ).set_index("stage")["time_ms"]
    parts = {"encode": ["vision_tower"], "prefill": ["projector", "prefill"], "decode": ["decode"]}
    if stock and packed:
        parts |= {"encode": ["vision_tower", "projector"], "prefill": ["prefill"]}
    return card.name, stages[parts[row["stage"]]].sum()


def _shape(row: dict) -> roofline.ModelShape:
    known = row["weights"] == "random"
    shape = SHAPES[_random(row["model"])] if known else roofline.read_shape(row["model"])
    return dataclasses.replace(
        shape,
        language=dataclasses.replace(shape.language, layers=row["layers"]),
        vision=dataclasses.replace(shape.vision, layers=row["vision_layers"]),
    )


@functools.cache
def _shown(model: str, weights: str) -> tuple[roofline.Shown, bool]:
    """What a model was timed with, and whether it packs that as it encodes."""
    if weights == "random":
        config, processor = random_config(_random(model)), None
    else:
        config = read_config(model)
        decides = config.model_type == "internvl" or config.model_type in QWEN
        processor = load_processor(model) if decides else None
    return usual(config, processor), config.model_type != "llava"


def _random(model: str) -> str:
    return f"random-{model.removesuffix('-random')}"
