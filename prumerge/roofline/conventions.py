"""What is counted, and how: this workbook's convention, and that of the paper's tool."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Convention:
    """What is counted, and how. Every peculiarity of a tool is one field.

    Args:
        name: What rows show.
        everything: Count embedding, rotary positions and the last norm too.
        causal: With FlashAttention, skip scores of later tokens. Without it the whole square is
            computed and masked, under either convention.
        flash_attention: Whether FlashAttention may be asked for.
        norm_operations: Per value of a norm.
        activation_operations: Per value of the gated activation.
        activation_at_hidden: Count the activation as if it were as wide as the hidden state,
            not as the feed-forward layer.
        residual_inputs: Operands that a residual sum reads.
        head_operations: Per weight of the output projection; 2 is a multiply-add.
        head_weight_bytes: Bytes of a weight of the output projection; None takes the precision's.
        head_rows_count: Read hidden states and write logits once per sequence of the batch, not
            once in all.
    """

    name: str
    everything: bool
    causal: bool
    flash_attention: bool
    norm_operations: int
    activation_operations: int
    activation_at_hidden: bool
    residual_inputs: int
    head_operations: int
    head_weight_bytes: float | None
    head_rows_count: bool


CONVENTIONS = {
    "complete": Convention(
        name="complete",
        everything=True,
        causal=True,
        flash_attention=True,
        norm_operations=4,
        activation_operations=5,
        activation_at_hidden=False,
        residual_inputs=2,
        head_operations=2,
        head_weight_bytes=None,
        head_rows_count=True,
    ),
    # LLM-Viewer (github.com/hahnyuan/LLM-Viewer) as of commit d903231, 11 March 2024: what the
    # paper's efficiency table was made with. Its output projection has 1-byte weights at every
    # precision, which was mended a week later.
    "llm-viewer": Convention(
        name="llm-viewer",
        everything=False,
        causal=False,
        flash_attention=False,
        norm_operations=7,
        activation_operations=2,
        activation_at_hidden=True,
        residual_inputs=1,
        head_operations=1,
        head_weight_bytes=1.0,
        head_rows_count=False,
    ),
}
"""Conventions by name. ``complete`` is this workbook's, ``llm-viewer`` the paper's tool's."""


def find_convention(convention: Convention | str, flash_attention: bool = False) -> Convention:
    """Return a convention by name, or the convention given.

    Args:
        convention: A name of :data:`CONVENTIONS`, or choices of your own.
        flash_attention: Whether FlashAttention is going to be asked for.

    Returns:
        The convention.

    Raises:
        ValueError: If the name is unknown, or if the convention knows no FlashAttention: the
            tool's own counts as many bytes for it as for attention without, and the paper's table
            does not use it.
    """
    if not isinstance(convention, Convention):
        if convention not in CONVENTIONS:
            raise ValueError(f"unknown convention {convention!r}: there are {[*CONVENTIONS]}")
        convention = CONVENTIONS[convention]
    if flash_attention and not convention.flash_attention:
        raise ValueError(
            f"convention {convention.name!r} has no FlashAttention: pass flash_attention=False "
            "or convention='complete'"
        )
    return convention
