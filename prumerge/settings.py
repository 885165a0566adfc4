"""Every choice that the paper or its released code leaves open, as one field each.

The paper's text and the code its authors released disagree in fifteen places, numbered D1 to D15
here and in the notebooks. ``Settings()`` is the released behaviour; :mod:`prumerge.presets` names
the other readings.

Source: LLaVA-PruMerge, arXiv 2403.15388v6, and its release at commit 097c041,
``llava/model/multimodal_encoder/clip_encoder.py`` ("the release" below).
"""

import dataclasses
import numbers
from typing import Any, Literal

from prumerge.limits import check, suggestion


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to keep of a picture, what to merge into it, and in which form to send it.

    The object is immutable and hashable, and ``dataclasses.asdict`` turns it into the parameter
    columns of a result row. Change a field with :meth:`with_changes`.

    Args:
        budget: Visual tokens sent per picture, the extra token included. ``None``: the picture
            decides, as in the paper; an int: exactly that many, or all patches if there are fewer;
            a float in (0, 1]: that share of the patches, rounded, at least one. Neither paper nor
            release can be told a number of tokens.
        whisker: Fence distance in interquartile ranges; larger keeps fewer patches. Paper: 1.5.
        lower_quantile: Level of the lower quartile, in [0, 1] and below the upper. Paper: 0.25.
        upper_quantile: Level of the upper quartile; no more than one minus this share of the
            patches can be outliers. Paper: 0.75.
        pooling: D5. ``"image"``: quartiles of each picture alone, as the paper says. ``"batch"``:
            quartiles and count pooled over the batch, as the release does, so that a picture's
            tokens depend on its neighbours in the batch. The same for one picture.
        outlier_rule: D4. ``"fence"``: the patches above the fence (paper). ``"count"``: as many
            best-scored patches as there are outliers per picture (release). They differ only
            where ``pooling="batch"``.
        score: D2. ``"full_width"``: class attention over the concatenated heads with scale
            width ** -0.5 (release), sharper than CLIP's own. ``"head_mean"``: the mean of the
            class attention of each head (the paper's d_k read per head). ``"value_weighted"``: that
            mean times the length of the patch's value, as ATS scores. ``"received"``: the mean
            attention a patch receives from all patches, for encoders without a class token.
        softmax_class: D3. Whether the class token's own key takes part in the softmax (release)
            or only the patches (paper). It scales all scores of a head alike: with
            ``"full_width"`` the selection stays and merge weights change.
        score_layer: D1. Index of the encoder block whose queries and keys give the scores, from 0
            or, counted from the end, from -1. ``None``: the block that reads the selected
            features (release: the last block for feature layer -2). Paper: the penultimate.
        key_layer: D1. Likewise for the keys that say which patches are alike. Paper: the last in
            the text, the penultimate in Algorithm 1.
        similarity: D6. Of keys: ``"cosine"`` (release) or ``"dot"`` product (paper).
        neighbours: D7. Patches merged into each kept one; 0 merges nothing. Release: 32 (earlier
            versions 16 and 4); the paper gives no number.
        candidates: D8. Neighbours come from ``"all"`` other patches, kept ones included (release
            and the paper's formula), or only from ``"pruned"`` ones (the paper's abstract and
            figure).
        own_term: D9. Whether a kept patch's own feature stays in the sum with weight 1 (release)
            or the sum holds neighbours only (paper's formula).
        normalise_weights: D9. Whether the weights of each sum, the extra token's too, are divided
            by their total. Neither paper nor release does, and so sums grow with the attention
            mass of the neighbours; the release holds the division as a comment.
        merge_reads: D15. What a merge reads of a neighbour that is kept itself: its ``"original"``
            feature (paper and release, so that all merges happen at once) or, where it was sent
            before, its ``"merged"`` one, as a loop would that overwrites its features.
        extra_token: D10. Append the attention-weighted sum of all dropped patches (release; not
            in the paper). No such token where nothing is dropped.
        spatial: D11. Evenly spaced patches of PruMerge+: ``"none"``, ``"stride"`` over the
            flattened raster (release; strides that divide the row length give vertical stripes)
            or a two-dimensional ``"lattice"`` (the paper's figure).
        spatial_factor: D12. Evenly spaced patches per outlier. Release: 3; paper: 1.
        branch: D13, without a budget. ``"adaptive"``: outliers decide. ``"fixed"``: the release's
            branch for training, ``fixed_ratio`` of the patches by score and as many evenly spaced.
        fixed_ratio: D13. Share of the patches chosen by score in the fixed branch. Release: 1/8.
        order: D14. ``"attention"``: patches kept for their score by falling score, then all others
            in raster order (release). ``"grouped"``: the same two groups, both in raster order.
            ``"raster"``: as in the picture. The extra token is always last.
        positions: Position ids the language model sees: ``"compact"`` 0, 1, 2, ... (release);
            ``"original"``, those the patches have when all are sent; ``"stretched"``, evenly spread
            over the ids the whole picture would have.
        outlier_share: With a budget and a spatial part: share of the kept patches chosen by
            score, at least one patch; the rest is evenly spaced, and patches chosen twice are
            replaced by the next best by score.
        seed: For methods that draw at random.

    Raises:
        ValueError: If a value is outside its limits; the message names the field and the limits.

    Source:
        See each field; the sections of the paper are named in the modules that use the field.

    Example:
        >>> Settings().neighbours
        32
        >>> Settings(budget=64).with_changes(order="raster").budget
        64
    """

    budget: int | float | None = None
    whisker: float = 1.5
    lower_quantile: float = 0.25
    upper_quantile: float = 0.75
    pooling: Literal["image", "batch"] = "image"
    outlier_rule: Literal["fence", "count"] = "fence"
    score: Literal["full_width", "head_mean", "value_weighted", "received"] = "full_width"
    softmax_class: bool = True
    score_layer: int | None = None
    key_layer: int | None = None
    similarity: Literal["cosine", "dot"] = "cosine"
    neighbours: int = 32
    candidates: Literal["all", "pruned"] = "all"
    own_term: bool = True
    normalise_weights: bool = False
    merge_reads: Literal["original", "merged"] = "original"
    extra_token: bool = True
    spatial: Literal["none", "stride", "lattice"] = "none"
    spatial_factor: int = 3
    branch: Literal["adaptive", "fixed"] = "adaptive"
    fixed_ratio: float = 1 / 8
    order: Literal["attention", "grouped", "raster"] = "attention"
    positions: Literal["compact", "original", "stretched"] = "compact"
    outlier_share: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check(field.name, field.type, getattr(self, field.name))
        if self.lower_quantile >= self.upper_quantile:
            raise ValueError(
                f"lower_quantile must be below upper_quantile, got {self.lower_quantile} and "
                f"{self.upper_quantile}"
            )

    def with_changes(self, **changes: Any) -> "Settings":
        """Return a copy with some fields changed.

        Args:
            changes: New values by field name.

        Returns:
            A new, validated object; this one stays as it is.

        Raises:
            ValueError: If a name is not a field (the message offers the nearest) or a value is
                outside its limits.
        """
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise ValueError(f"unknown setting {name!r}: {suggestion(name, known)}")
        return dataclasses.replace(self, **changes)

    def tokens_of(self, patches: int) -> int | None:
        """Turn the budget into a number of tokens for pictures of ``patches`` patches.

        Args:
            patches: Visual tokens of one unreduced picture.

        Returns:
            Tokens to send, extra token included, between 1 and ``patches``; None without a budget.

        Example:
            >>> Settings(budget=0.25).tokens_of(576), Settings(budget=600).tokens_of(576)
            (144, 576)
        """
        if self.budget is None:
            return None
        if isinstance(self.budget, numbers.Integral):
            return min(int(self.budget), patches)
        return min(max(round(self.budget * patches), 1), patches)

    def patches_of(self, patches: int) -> int | None:
        """Turn the budget into a number of patches to keep, room for the extra token left.

        Args:
            patches: Visual tokens of one unreduced picture.

        Returns:
            Patches to keep, at least 1; None without a budget.

        Example:
            >>> Settings(budget=64).patches_of(576), Settings(budget=576).patches_of(576)
            (63, 576)
        """
        tokens = self.tokens_of(patches)
        if self.extra_token and tokens is not None and 1 < tokens < patches:
            return tokens - 1
        return tokens
