"""What a prompt costs on paper: operations, bytes moved, time, weights and KV cache.

A roofline estimate. Each operation takes the longer of two times: its operations at the card's
peak, or its bytes at the card's memory bandwidth; an operation is compute-bound or memory-bound
accordingly, and a stage takes the sum. It knows no launch overhead, no cache and no imperfect
kernel, so it is a floor for the measured time, and good for ratios.

    >>> from prumerge.roofline import estimate_costs
    >>> rows = estimate_costs("7b", prompt_tokens=[616, 185], hardware="A100", text_tokens=40)
    >>> rows[rows["stage"] == "prefill"]["operations"].div(1e12).round(2).tolist()
    [8.18, 2.42]

Words
    prompt tokens  what the language model sees of one prompt: text tokens and visual tokens
    stage          vision tower, projector, prefill (the prompt), decode (one step per new token)
    traffic        bytes read from and written to memory: no footprint, since the same place
                   counts each time it is read
    footprint      bytes that must be there at once: weights, KV cache, live activations

    hardware    cards and precisions: peaks, bandwidths, bits
    shapes      the sizes that matter; configs reads them from a transformers config
    conventions what is counted: this workbook's way, and that of the paper's tool
    operations  the kinds of operations; stages lists those of each stage
    times       the roofline: the longer of two times for each operation
    costs       stages as tidy rows
    footprint   memory as tidy rows
"""

from prumerge.roofline.configs import read_shape
from prumerge.roofline.conventions import CONVENTIONS, Convention
from prumerge.roofline.costs import estimate_costs, list_operations
from prumerge.roofline.footprint import estimate_memory, kv_cache_bytes, weight_bytes
from prumerge.roofline.hardware import HARDWARE, PRECISIONS, Hardware, Precision, find_hardware
from prumerge.roofline.shapes import NAMED, LanguageShape, ModelShape, VisionShape

__all__ = [
    "CONVENTIONS",
    "HARDWARE",
    "NAMED",
    "PRECISIONS",
    "Convention",
    "Hardware",
    "LanguageShape",
    "ModelShape",
    "Precision",
    "VisionShape",
    "estimate_costs",
    "estimate_memory",
    "find_hardware",
    "kv_cache_bytes",
    "list_operations",
    "read_shape",
    "weight_bytes",
]
