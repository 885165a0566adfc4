"""Try a method on a picture and see at once what it keeps: the widgets of ``explorer.ipynb``.

    looking    a picture -> what the encoder says -> what a method keeps, merges and costs
    painting   the same as pixels, fast enough to follow a slider
    panel      the widgets, which hold no more than what is chosen

Needs the extra ``notebooks``.
"""

from prumerge.explorer.looking import Look, draw_picture, encode_picture, look, prefill
from prumerge.explorer.painting import paint_attention, paint_kept, paint_origin, to_png
from prumerge.explorer.panel import Explorer

__all__ = [
    "Explorer",
    "Look",
    "draw_picture",
    "encode_picture",
    "look",
    "paint_attention",
    "paint_kept",
    "paint_origin",
    "prefill",
    "to_png",
]
