"""The sizes of a model that decide what it costs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LanguageShape:
    """Sizes of a Llama-shaped language model.

    Args:
        width: Hidden size.
        layers: Transformer blocks.
        heads: Query heads.
        key_heads: Key-value heads; fewer than ``heads`` under grouped-query attention.
        head_width: Width of one head.
        inner_width: Width inside the feed-forward layer.
        vocabulary: Rows of the embedding.
        tied: Whether the output projection is the embedding.
    """

    width: int
    layers: int
    heads: int
    key_heads: int
    head_width: int
    inner_width: int
    vocabulary: int
    tied: bool = False

    @property
    def query_width(self) -> int:
        """Width of all queries of one token."""
        return self.heads * self.head_width

    @property
    def key_width(self) -> int:
        """Width of all keys of one token, and of all values."""
        return self.key_heads * self.head_width


@dataclass(frozen=True)
class VisionShape:
    """Sizes of a vision transformer of CLIP's kind.

    Args:
        width: Hidden size.
        layers: Transformer blocks; transformers runs all of them, also those behind the
            selected layer, which ``prumerge.attach`` leaves out.
        heads: Attention heads.
        inner_width: Width inside the feed-forward layer.
        patches: Visual tokens of a picture.
        patch_values: Numbers in one patch: colours x side x side.
        class_tokens: 1 with a class token (CLIP), 0 without (SigLIP).
        selected: Layers whose features the projector gets side by side.
    """

    width: int
    layers: int
    heads: int
    inner_width: int
    patches: int
    patch_values: int
    class_tokens: int = 1
    selected: int = 1

    @property
    def key_heads(self) -> int:
        """Key heads: as many as query heads."""
        return self.heads

    @property
    def head_width(self) -> int:
        """Width of one head."""
        return self.width // self.heads

    @property
    def query_width(self) -> int:
        """Width of all queries of one token."""
        return self.heads * self.head_width

    @property
    def key_width(self) -> int:
        """Width of all keys of one token, and of all values."""
        return self.query_width

    @property
    def tokens(self) -> int:
        """Tokens inside the tower: patches and class token."""
        return self.patches + self.class_tokens


@dataclass(frozen=True)
class ModelShape:
    """A language model, and the vision tower in front of it if there is one.

    Args:
        name: What rows show.
        language: Sizes of the language model.
        vision: Sizes of the vision tower; None for a model of text alone. Its features pass a
            projector of two linear layers with a GELU between, as in LLaVA-1.5.
    """

    name: str
    language: LanguageShape
    vision: VisionShape | None = None


_CLIP_LARGE = VisionShape(1024, 24, 16, 4096, patches=576, patch_values=3 * 14 * 14)
NAMED = {
    # LLaVA-1.5 on Vicuna 1.5, vocabulary as the paper's table has it. The checkpoints of
    # llava-hf pad it to 32064 rows.
    "7b": ModelShape("7b", LanguageShape(4096, 32, 32, 32, 128, 11008, 32000), _CLIP_LARGE),
    "13b": ModelShape("13b", LanguageShape(5120, 40, 40, 40, 128, 13824, 32000), _CLIP_LARGE),
}
"""LLaVA-1.5 by size."""
