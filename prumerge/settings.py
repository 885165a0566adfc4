"""Every choice that the paper or its released code leaves open, and the readings that have a name.

The paper's text and the code its authors released disagree in fifteen places, numbered D1 to D15
here and in the notebooks: one field of :class:`Settings` each. ``Settings()`` is the released
behaviour, and ``PRESETS`` names readings.

========== ==================================================================================
name       meaning
========== ==================================================================================
release    PruMerge as released: outliers of the class attention, merged, and one extra token
release+   PruMerge+ as released, adaptive branch: about three evenly spaced patches per outlier
release+fixed  PruMerge+ as released, branch for training: 72 by score, 72 evenly spaced, one extra
paper      PruMerge as the paper words it, its formula read charitably
paper+     PruMerge+ as the paper words it: as many lattice patches as outliers
paper-literal  PruMerge as the paper words it, its formula to the letter
prumerge   the same as release
prumerge+  the same as release+
tuned-handling  the release in the order and at the position ids that sweeps chose for all methods
tuned      tuned-handling with the changes to the rest that its own sweeps chose, see notebook 05
========== ==================================================================================

Where the release is broken the presets named after it do the right thing instead:

* each picture of a batch is treated as if it came alone (D5; ``pooling="batch"`` mimics);
* a patch chosen both by score and for its place is sent once (the fixed branch sends it twice and
  then loses the first unselected patches from the sums; ``duplicates=True`` mimics);
* a picture without outliers keeps its best-scored patch (the release sends the extra token alone,
  or divides by zero in PruMerge+);
* evenly spaced patches reach to the last one (the release stops one short; ``last_patch=False``
  mimics).

The paper's merge is a sum of the nearest tokens weighted by attention probabilities; it writes
neither a normalisation nor whether a token is its own nearest. To the letter, the token left out,
that is a sum of a few tiny shares: with ``paper``'s other settings a token of the mini-LLaVA
shrinks to about a hundredth of its length (notebook 04 measures it), and nothing of it is in the
rest. That is ``paper-literal``. ``paper`` takes the charitable reading: a search over all tokens
finds the token itself first, so its own feature takes part with its own weight, and the weights
are divided by their total.

The two tuned presets are chosen by ``python -m prumerge.sweeps tuned`` from the rows of sweeps on
the mini-LLaVA (:mod:`prumerge.experiments.sweeps.leaderboard` has the rule); ``tuned.json`` beside
this module holds their changes. Notebook 06 reports them on other questions.

Source: LLaVA-PruMerge, arXiv 2403.15388v6, and its release at commit 097c041,
``llava/model/multimodal_encoder/clip_encoder.py`` ("the release" below).
"""

import dataclasses
import difflib
import json
import math
import numbers
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to keep of a picture, what to merge into it, and in which form to send it.

    The object is immutable and hashable, and ``dataclasses.asdict`` turns it into the parameter
    columns of a result row. Change a field with :meth:`with_changes`.

    Args:
        budget: Visual tokens sent per picture, the extra token included. ``None``: the picture
            decides, as in the paper; an int: exactly that many, or all patches if there are fewer;
            a float in (0, 1]: that share of the patches, rounded, at least one. Of a picture in
            tiles the patches that are shown count, of a video those of all frames; newlines and
            class tokens do not. Neither paper nor release can be told a number of tokens.
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
        own_term: D9. Weight of a kept patch's own feature in its sum: ``"one"`` (release);
            ``"attention"``, its own score, as if the search for the nearest patches, which finds
            the patch itself first, were meant to include it (the charitable reading of the
            paper's formula); ``"none"``, the sum holds neighbours only (its letter).
        normalise_weights: D9. Whether the weights of each sum, the extra token's too, are divided
            by their total; an own term of ``"one"`` stays beside it, one of ``"attention"`` takes
            part. Neither paper nor release does, and so sums grow with the attention mass of the
            neighbours; the release holds the division as a comment.
        merge_reads: D15. What a merge reads of a neighbour that is kept itself: its ``"original"``
            feature (paper and release, so that all merges happen at once) or, where it was sent
            before, its ``"merged"`` one, as a loop would that overwrites its features.
        extra_token: D10. Append the attention-weighted sum of all dropped patches (release; not
            in the paper). No such token where nothing is dropped.
        spatial: D11. Evenly spaced patches of PruMerge+: ``"none"``, ``"stride"`` over the
            flattened raster (release; strides that divide the row length give vertical stripes)
            or a two-dimensional ``"lattice"`` (the paper's figure).
        last_patch: D11. Whether the stride may reach the last patch; the release stops one short of
            it (574 of 575), which leaves a token out at 33 to 38 outliers, among others.
        spatial_factor: D12. Evenly spaced patches per outlier. Release: 3; paper: 1.
        branch: D13, without a budget. ``"adaptive"``: outliers decide. ``"fixed"``: the release's
            branch for training, ``fixed_ratio`` of the patches by score and as many evenly spaced.
        fixed_ratio: D13. Share of the patches chosen by score in the fixed branch. Release: 1/8.
        duplicates: D13. In the fixed branch without a budget, whether a patch chosen both by score
            and for its place is sent twice, and as many of the first patches that are not sent
            are lost from the sums (release; see :func:`prumerge.reduction.reduce_with_duplicates`).
        order: D14. ``"attention"``: patches kept for their score by falling score, then all others
            in raster order (release). ``"grouped"``: the same two groups, both in raster order.
            ``"raster"``: as in the picture. The extra token is always last.
        positions: Position ids the language model sees: ``"compact"`` 0, 1, 2, ... (release);
            ``"original"``, those the patches have when all are sent; ``"stretched"``, evenly spread
            over the ids the whole picture would have. Qwen-VL, where a token has three ids
            (M-RoPE), takes ``"original"`` by default and refuses ``"compact"``.
        outlier_share: With a budget and a spatial part: share of the kept patches chosen by
            score, at least one patch; the rest is evenly spaced, and patches chosen twice are
            replaced by the next best by score.
        share: How the budget of a picture in tiles, or of a video, is shared over tiles or frames.
            ``"size"``: by how many patches of each are shown, at least one token each; equal tiles
            get equal shares, as ports of other methods give them. ``"joint"``: the best-scored
            patches of all together, though the scores of tiles are softmaxes of their own, so
            that an empty tile's count as much as a full one's. ``"base"``: tiles get as the whole
            picture, seen small, attends to their part of it, as in HiRED (arXiv 2408.10945).
            Without a budget each tile or frame decides for itself, as the paper's video does.
        base_share: Share of the budget for the whole picture beside its tiles, in [0, 1], as
            HiRED's alpha. ``None``: by its size, as a tile.
        markers: Which newlines behind rows of stitched tiles, and class tokens before frames, are
            sent beside the budget. ``"rows"``: those of rows, or frames, of which a token is sent,
            so that everything kept is the stock prompt; ``"all"``; ``"none"``, as most ports.
            Newlines end rows, and are left out where ``order`` is not ``"raster"``.
        merging: ``"within"``: a patch is merged into tokens of its own tile or frame, as the paper
            reduces each frame alone; ``"across"``: into the nearest tokens of the whole picture or
            video, one extra token for all of it, for methods that leave merging to ``neighbours``.
        merges_per_round: For ToMe behind the encoder: most pairs merged before keys are compared
            anew. ``None``: half of the tokens, all that one round can merge.
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
    own_term: Literal["one", "attention", "none"] = "one"
    normalise_weights: bool = False
    merge_reads: Literal["original", "merged"] = "original"
    extra_token: bool = True
    spatial: Literal["none", "stride", "lattice"] = "none"
    last_patch: bool = True
    spatial_factor: int = 3
    branch: Literal["adaptive", "fixed"] = "adaptive"
    fixed_ratio: float = 1 / 8
    duplicates: bool = False
    order: Literal["attention", "grouped", "raster"] = "attention"
    positions: Literal["compact", "original", "stretched"] = "compact"
    outlier_share: float = 0.5
    share: Literal["size", "joint", "base"] = "size"
    base_share: float | None = None
    markers: Literal["rows", "all", "none"] = "rows"
    merging: Literal["within", "across"] = "within"
    merges_per_round: int | None = None
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
        """Return a copy with some fields changed; this one stays as it is.

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
        """Turn the budget into tokens per picture of ``patches`` patches, extra token included.

        Between 1 and ``patches``; None without a budget.

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
        """Turn the budget into patches to keep, at least 1, room for the extra token left.

        Example:
            >>> Settings(budget=64).patches_of(576), Settings(budget=576).patches_of(576)
            (63, 576)
        """
        tokens = self.tokens_of(patches)
        if self.extra_token and tokens is not None and 1 < tokens < patches:
            return tokens - 1
        return tokens


TILED = ("share", "base_share", "markers", "merging")
"""Settings that only pictures in tiles, and videos, read."""


def _whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def _is_budget(value: Any) -> bool:
    if value is None or _whole(value):
        return value is None or value >= 1
    return _number(value) and 0 < value <= 1


_SHARE = (lambda value: _number(value) and 0 <= value <= 1, "a number in [0, 1]")
_LAYER = (lambda value: value is None or _whole(value), "None or an int")
_COUNT = (lambda value: _whole(value) and value >= 0, "an int of at least 0")
_RULES: dict[Any, tuple[Callable[[Any], bool], str]] = {
    bool: (lambda value: isinstance(value, bool), "True or False"),
    "budget": (_is_budget, "None, an int of at least 1 (tokens) or a float in (0, 1] (share)"),
    "whisker": (lambda value: _number(value) and value >= 0, "a finite number of at least 0"),
    "lower_quantile": _SHARE,
    "upper_quantile": _SHARE,
    "outlier_share": _SHARE,
    "base_share": (
        lambda value: value is None or (_number(value) and 0 <= value <= 1),
        "None or a number in [0, 1]",
    ),
    "fixed_ratio": (lambda value: _number(value) and 0 < value <= 1, "a number in (0, 1]"),
    "spatial_factor": (lambda value: _whole(value) and value >= 1, "an int of at least 1"),
    "neighbours": _COUNT,
    "merges_per_round": (
        lambda value: value is None or (_whole(value) and value >= 1),
        "None or an int of at least 1",
    ),
    "seed": _COUNT,
    "score_layer": _LAYER,
    "key_layer": _LAYER,
}


def check(name: str, kind: Any, value: Any) -> None:
    """Raise ValueError for a value outside its limits; a ``Literal`` kind lists those allowed."""
    if get_origin(kind) is Literal:
        accepts, limits = get_args(kind).__contains__, f"one of {list(get_args(kind))}"
    else:
        accepts, limits = _RULES[bool if kind is bool else name]
    if not accepts(value):
        raise ValueError(f"{name} must be {limits}, got {value!r}")


def suggestion(name: str, known: Iterable[str]) -> str:
    """Say which known name is meant, and which there are: the rest of an error message.

    Example:
        >>> suggestion("wisker", ["whisker", "seed"])
        "did you mean 'whisker'? There are: whisker, seed"
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"There are: {', '.join(known)}"


_RELEASE = Settings()
_RELEASE_PLUS = Settings(spatial="stride")
_PAPER = Settings(
    score="head_mean",
    softmax_class=False,
    score_layer=-2,
    key_layer=-1,
    similarity="dot",
    candidates="pruned",
    own_term="attention",
    normalise_weights=True,
    extra_token=False,
    order="raster",
)

TUNED = Path(__file__).with_name("tuned.json")
"""Changes to the release that make the tuned presets: of handling, and PruMerge's own choices."""

_TUNED = json.loads(TUNED.read_text())
_TUNED_HANDLING = _RELEASE.with_changes(**_TUNED["handling"])

PRESETS: dict[str, Settings] = {
    "prumerge": _RELEASE,
    "prumerge+": _RELEASE_PLUS,
    "release": _RELEASE,
    "release+": _RELEASE_PLUS,
    "release+fixed": _RELEASE_PLUS.with_changes(branch="fixed"),
    "paper": _PAPER,
    "paper+": _PAPER.with_changes(spatial="lattice", spatial_factor=1),
    "paper-literal": _PAPER.with_changes(own_term="none", normalise_weights=False),
    "tuned-handling": _TUNED_HANDLING,
    "tuned": _TUNED_HANDLING.with_changes(**_TUNED["choices"]),
}


def resolve_settings(settings: Settings | str, **overrides: Any) -> Settings:
    """Turn a preset's name or a ``Settings`` object, and changes to it, into ``Settings``.

    Raises:
        ValueError: If it is neither a preset's name nor ``Settings``, or a field is unknown or
            outside its limits.

    Example:
        >>> resolve_settings("prumerge+", budget=64).spatial
        'stride'
    """
    if isinstance(settings, str):
        if settings not in PRESETS:
            raise ValueError(f"unknown preset {settings!r}: {suggestion(settings, PRESETS)}")
        settings = PRESETS[settings]
    if not isinstance(settings, Settings):
        told = "Settings(**settings)" if isinstance(settings, dict) else "a name such as 'prumerge'"
        raise ValueError(
            f"settings must be a preset's name or Settings, got {type(settings).__name__}: pass "
            f"{told}"
        )
    return settings.with_changes(**overrides)
