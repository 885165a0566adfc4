"""Named readings of LLaVA-PruMerge: what was released, and what was written.

========== ==================================================================================
name       meaning
========== ==================================================================================
release    PruMerge as released: outliers of the class attention, merged, and one extra token
release+   PruMerge+ as released, adaptive branch: about three evenly spaced patches per outlier
release+fixed  PruMerge+ as released, branch for training: 72 by score, 72 evenly spaced, one extra
paper      PruMerge as the paper words it
paper+     PruMerge+ as the paper words it: as many lattice patches as outliers
prumerge   the same as release
prumerge+  the same as release+
tuned      the release with the changes that its own sweeps chose, see notebook 05
========== ==================================================================================

Where the release is broken the presets named after it do the right thing instead:

* each picture of a batch is treated as if it came alone (D5; ``pooling="batch"`` mimics);
* a patch chosen both by score and for its place is sent once (the fixed branch sends it twice and
  then loses the first unselected patches from the extra token);
* a picture without outliers keeps its best-scored patch (the release sends the extra token alone,
  or divides by zero in PruMerge+);
* evenly spaced patches reach to the last one (the release stops one short).

The paper's merge is a sum of neighbours weighted by attention probabilities, without normalisation
and without the token's own feature. Taken to the letter that leaves the sum of a few tiny shares:
with ``paper``'s other settings a token of the mini-LLaVA shrinks to about a hundredth of its length
(notebook 04 measures it). So ``paper`` divides by the total weight; ``normalise_weights=False``
gives the letter.

``tuned`` is chosen by ``python -m prumerge.sweeps tuned`` from the rows of sweeps on the mini-LLaVA
(:mod:`prumerge.sweeps.tuning` has the rule); ``tuned.json`` beside this module holds its changes.
Notebook 06 reports it on other questions.
"""

import json
from pathlib import Path
from typing import Any

from prumerge.limits import suggestion
from prumerge.settings import Settings

_RELEASE = Settings()
_RELEASE_PLUS = Settings(spatial="stride")
_PAPER = Settings(
    score="head_mean",
    softmax_class=False,
    score_layer=-2,
    key_layer=-1,
    similarity="dot",
    candidates="pruned",
    own_term=False,
    normalise_weights=True,
    extra_token=False,
    order="raster",
)

TUNED = Path(__file__).with_name("tuned.json")
"""Changes to the release that make the preset ``tuned``."""

PRESETS: dict[str, Settings] = {
    "prumerge": _RELEASE,
    "prumerge+": _RELEASE_PLUS,
    "release": _RELEASE,
    "release+": _RELEASE_PLUS,
    "release+fixed": _RELEASE_PLUS.with_changes(branch="fixed"),
    "paper": _PAPER,
    "paper+": _PAPER.with_changes(spatial="lattice", spatial_factor=1),
    "tuned": _RELEASE.with_changes(**json.loads(TUNED.read_text())),
}


def resolve_settings(settings: Settings | str, **overrides: Any) -> Settings:
    """Turn a preset's name or a ``Settings`` object, and changes to it, into ``Settings``.

    Args:
        settings: A name of ``PRESETS`` or an object.
        overrides: Fields to change.

    Returns:
        The changed settings.

    Raises:
        ValueError: If there is no such preset or field, a value is outside its limits, or it is
            neither a name nor ``Settings``.

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
