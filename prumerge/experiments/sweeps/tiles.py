"""Tiles of many pictures, encoded once, and handed on a few pictures at a time."""

from dataclasses import dataclass, replace

from torch import nn

from prumerge.encoder import Encoded
from prumerge.models.families.llava_next import tiles_of, visuals_of
from prumerge.models.slots import Packed


@dataclass(frozen=True)
class Tiles:
    """The pictures of a question set as a LLaVA-NeXT encodes them.

    Args:
        encoded: Their tiles, end to end.
        core: The ``LlavaNextModel``, which knows how prompts show them.
        sizes: Height and width of each picture, in pixels.
    """

    encoded: Encoded
    core: nn.Module
    sizes: list[list[int]]

    @property
    def patches(self) -> int:
        """The most patches that one of the pictures has, the padding of its tiles included."""
        return max(tiles_of(self.core, self.sizes)) * self.encoded.scores.shape[1]

    def at(self, pictures: slice) -> Packed:
        """Choose pictures."""
        sizes = self.sizes[pictures]
        tiles, before = (tiles_of(self.core, own) for own in (sizes, self.sizes[: pictures.start]))
        project, first = self.core.multi_modal_projector, sum(before)
        encoded = replace(self.encoded.at(slice(first, first + sum(tiles))), project=project)
        visuals = visuals_of(self.core, sizes, tiles, encoded.grid)
        return Packed((encoded,), visuals, project, self.core.image_newline[None])
