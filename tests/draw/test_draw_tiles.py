"""Pictures in tiles are drawn as they lie: the base, and the crops stitched without newlines."""

import matplotlib.pyplot as plt
import numpy as np
import torch

from prumerge.draw.tiles import show_tiles, stitch
from prumerge.encoder import Encoded
from prumerge.methods import resolve
from prumerge.models.canvases import reduce_packed
from prumerge.models.slots import Packed, visual_of


def packed() -> Packed:
    """A picture of one base tile and two crops beside each other, 2 x 2 patches each."""
    rows = torch.arange(12)
    base, left, right = (rows[at : at + 4].view(2, 2) for at in (0, 4, 8))
    canvas = torch.cat([left, right, torch.full((2, 1), -1)], dim=1)
    source = torch.cat([base.reshape(-1), canvas.reshape(-1)])
    visual = visual_of(source, [(2, 2)] * 3, stitched=True)
    scores = torch.arange(12.0).view(3, 4) + 1
    encoded = Encoded(torch.randn(3, 4, 8), torch.randn(3, 4, 8), scores, (2, 2))
    return Packed((encoded,), (visual,), lambda tokens: tokens, torch.zeros(1, 8))


def test_patches_of_crops_are_stitched_where_they_lie():
    own = packed()
    base, crops = stitch(own.visuals[0], list(own.parts[0].scores.numpy()))
    assert base.tolist() == [[1, 2], [3, 4]]
    assert crops.tolist() == [[5, 6, 9, 10], [7, 8, 11, 12]]


def test_each_reduction_has_a_column_that_tells_how_many_are_kept():
    own = packed()
    reduction = reduce_packed(own, resolve("top_k", budget=6, order="raster"))
    figure, axes = plt.subplots(2, 3)
    pixels = np.full((16, 32, 3), 200, dtype=np.uint8)
    show_tiles(axes, pixels, own, {"top_k": reduction})
    assert [axis.get_title() for axis in axes[:, 2]] == ["top_k: 2 of 4", "top_k: 4 of 8"]
    plt.close(figure)
