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
    shapes      the sizes that matter, also read from a transformers config
    visuals     tiles or frames, and visual tokens, of a picture or clip in any family
    operations  each stage's, and how they are counted: this workbook's way, or the paper's tool's
    costs       time, weights, KV cache and activations as tidy rows
"""

from prumerge.roofline.costs import (
    estimate_costs,
    estimate_memory,
    estimate_prefill,
    kv_cache_bytes,
    list_operations,
    weight_bytes,
)
from prumerge.roofline.hardware import HARDWARE, PRECISIONS, Hardware, Precision, find_hardware
from prumerge.roofline.operations import CONVENTIONS, Convention
from prumerge.roofline.shapes import NAMED, LanguageShape, ModelShape, VisionShape, read_shape
from prumerge.roofline.visuals import Shown, shown_by
