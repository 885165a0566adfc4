"""LLaVA-PruMerge for one picture in plain Python: slow, obvious, and written apart.

Nothing here is shared with the package. Lists in, lists out; one loop per sentence of the method's
description. The vectorised code has to give the same tokens in the same order.

``features`` and ``keys`` are lists of lists, ``scores`` a list. Each function returns the patch
indices in the order sent, the tokens (the extra token, if any, last), or both.
"""

import math
from fractions import Fraction


def quartile(scores, level):
    """The linearly interpolated quantile."""
    ordered = sorted(scores)
    place = level * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def outliers(scores, whisker=1.5):
    """Patches above the fence, in raster order."""
    first, third = quartile(scores, 0.25), quartile(scores, 0.75)
    limit = third + whisker * (third - first)
    return [patch for patch, score in enumerate(scores) if score > limit]


def best_first(scores):
    """All patches by falling score; of equals the first."""
    return sorted(range(len(scores)), key=lambda patch: (-scores[patch], patch))


def similarity(one, other, cosine):
    """Cosine or dot product of two keys."""
    product = sum(a * b for a, b in zip(one, other, strict=True))
    if not cosine:
        return product
    lengths = math.sqrt(sum(a * a for a in one)) * math.sqrt(sum(b * b for b in other))
    return product / max(lengths, 1e-24)


def neighbours_of(patch, keys, candidates, count, cosine):
    """The most similar candidates; of equals the first."""
    others = [other for other in candidates if other != patch]
    others.sort(key=lambda other: (-similarity(keys[patch], keys[other], cosine), other))
    return others[:count]


def weighted_sum(features, scores, patches, normalise):
    """Sum of features, each times its score; None where there is no weight at all."""
    total = sum(scores[patch] for patch in patches)
    if total == 0:
        return None
    divisor = total if normalise else 1
    return [
        sum(scores[patch] / divisor * features[patch][column] for patch in patches)
        for column in range(len(features[0]))
    ]


def merged(
    features,
    keys,
    scores,
    kept,
    *,
    count=32,
    cosine=True,
    pruned=False,
    own="one",
    normalise=False,
    overwrite=False,
):
    """One token per kept patch: those of its neighbours and, as ``own`` says, its own feature.

    ``own``: ``one``, added as it is; ``attention``, one of the weighted sum; ``none``, left out.
    ``overwrite``: the loop that nobody meant, which puts each token in place of its feature.
    """
    tokens, features = [], list(features)
    for patch in kept:
        candidates = [p for p in range(len(scores)) if not (pruned and p in kept)]
        near = neighbours_of(patch, keys, candidates, count, cosine)
        summed = [patch, *near] if own == "attention" else near
        gathered = weighted_sum(features, scores, summed, normalise)
        if sum(scores[other] for other in near) == 0:
            tokens.append(list(features[patch]))
        elif own == "one":
            tokens.append([a + b for a, b in zip(features[patch], gathered, strict=True)])
        else:
            tokens.append(gathered)
        if overwrite:
            features[patch] = tokens[-1]
    return tokens


def with_extra(tokens, features, scores, kept):
    """Append the sum of all dropped patches, if any was dropped."""
    dropped = [patch for patch in range(len(scores)) if patch not in kept]
    if not dropped:
        return tokens
    extra = weighted_sum(features, scores, dropped, normalise=False)
    return [*tokens, extra or [0.0] * len(features[0])]


def chosen_by_score(scores):
    """As many of the best as there are outliers, at least one."""
    return best_first(scores)[: max(len(outliers(scores)), 1)]


def release(features, keys, scores):
    """PruMerge as released, and the best patch where the release would send none."""
    kept = chosen_by_score(scores)
    return kept, with_extra(merged(features, keys, scores, kept), features, scores, kept)


def release_plus(features, keys, scores, end=None):
    """PruMerge+ as released, adaptive branch; ``end`` is where its stride stops (575 there)."""
    best = chosen_by_score(scores)
    step = int(int(1 / (len(best) / len(scores))) / 3)
    even = [patch for patch in range(0, end or len(scores), max(step, 1)) if patch not in best]
    kept = best + even
    return kept, with_extra(merged(features, keys, scores, kept), features, scores, kept)


def release_fixed(features, keys, scores, ratio=1 / 8):
    """PruMerge+ as released, branch for training, each patch sent once."""
    best = best_first(scores)[: max(int(len(scores) * ratio), 1)]
    step = int(1 / ratio)
    even = [patch for patch in range(step // 2, len(scores), step) if patch not in best]
    kept = best + even
    return kept, with_extra(merged(features, keys, scores, kept), features, scores, kept)


def release_fixed_twice(features, keys, scores, ratio=1 / 8):
    """PruMerge+ as released, branch for training, duplicates and all.

    Two lists: what is sent, and the others. The second is all indices with a 0 in place of those
    sent, sorted, less as many of the first as are sent; so with two equal ones sent it lacks one.
    """
    best = best_first(scores)[: int(len(scores) * ratio)]
    step = int(1 / ratio)
    sent = best + list(range(int(step / 2), len(scores) - 1, step))
    others = sorted(0 if patch in sent else patch for patch in range(len(scores)))[len(sent) :]
    tokens = []
    for turn, patch in enumerate(sent):
        rest = sent[:turn] + sent[turn + 1 :] + others
        rest.sort(key=lambda other: -similarity(keys[patch], keys[other], cosine=True))
        gathered = weighted_sum(features, scores, rest[:32], normalise=False)
        tokens.append([a + b for a, b in zip(features[patch], gathered, strict=True)])
    return sent, [*tokens, weighted_sum(features, scores, others, normalise=False)]


def as_written(features, keys, scores, kept, own="attention", normalise=True):
    """The paper's sum over the patch itself and pruned neighbours by dot product, a mean."""
    kept = sorted(kept)
    choices = {"cosine": False, "pruned": True, "own": own, "normalise": normalise}
    return kept, merged(features, keys, scores, kept, **choices)


def paper(features, keys, scores):
    """PruMerge as the paper words it, read charitably."""
    return as_written(features, keys, scores, chosen_by_score(scores))


def paper_literal(features, keys, scores):
    """PruMerge as the paper words it, to the letter: no own feature, no division."""
    kept = chosen_by_score(scores)
    return as_written(features, keys, scores, kept, own="none", normalise=False)


def paper_plus(features, keys, scores, grid):
    """PruMerge+ as the paper words it: as many lattice patches as outliers."""
    best = chosen_by_score(scores)
    return as_written(features, keys, scores, {*best, *lattice(len(best), grid)})


def middles(count, length):
    """``count`` places in the middle of equal shares of ``length``."""
    return [math.floor((Fraction(2 * index + 1, 2 * count)) * length) for index in range(count)]


def lattice(count, grid):
    """Patches of a lattice: rows evenly spaced, and the marks of each row evenly spaced."""
    rows, columns = grid
    if count == 0:
        return []
    lattice_rows = max(round(math.sqrt(count * rows / columns)), math.ceil(count / columns), 1)
    lattice_rows = min(lattice_rows, rows)
    patches = []
    for index, row in enumerate(middles(lattice_rows, rows)):
        marks = (index + 1) * count // lattice_rows - index * count // lattice_rows
        patches += [row * columns + column for column in middles(marks, columns)]
    return patches


def within_budget(scores, total, share, even):
    """By score, by place (``even``: a function of a number), then the next best by score."""
    best = best_first(scores)
    by_score = max(1, round(share * total))
    kept = set(best[:by_score]) | set(even(total - by_score))
    for patch in best:
        if len(kept) < total:
            kept.add(patch)
    return sorted(kept)
