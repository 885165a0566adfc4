"""What a method hands back: checked, so that a slip of one method is not blamed on the model."""

from typing import Literal

import torch

from prumerge.reduction import Reduction

Sends = Literal["exact", "at most", "all"]


def check_returned(
    name: str,
    reduction: object,
    images: int,
    patches: int,
    budget: int | None = None,
    sends: Sends = "exact",
) -> None:
    """Refuse what cannot be the reduction of these pictures.

    Args:
        name: The method, for the message.
        reduction: What it returned.
        images: Pictures it was given.
        patches: Visual tokens of one picture.
        budget: Tokens wanted per picture; None leaves the number to the method.
        sends: Whether exactly ``budget`` tokens are wanted or at most.

    Raises:
        ValueError: Naming the method and what is wrong: no reduction, another number of pictures,
            tokens without positions, positions outside the picture, a patch kept twice, or another
            number of tokens than the budget.
    """
    problem = _problem(reduction, images, patches)
    if problem is None and budget is not None:
        counts = reduction.kept
        wrong = [c for c in counts if c > budget or (c < budget and sends == "exact")]
        if wrong:
            problem = f"sent {counts} tokens, the budget is {sends} {budget}"
            if max(counts) <= budget:
                problem += "; register it with sends='at most' if that is meant"
    if problem is not None:
        raise ValueError(f"method {name!r} {problem}")


def _problem(reduction: object, images: int, patches: int) -> str | None:
    if not isinstance(reduction, Reduction):
        return (
            f"must return a Reduction, got {type(reduction).__name__}: end it with reduce_to(...)"
        )
    counts, places = reduction.kept, reduction.positions
    if len(counts) != images or len(places) != images:
        return f"returned tokens of {len(counts)} pictures, {images} were given"
    if [len(row) for row in places] != counts:
        return f"sent {counts} tokens with {[len(row) for row in places]} positions"
    if not images:
        return None
    # One answer for all pictures together: a device waits once.
    everywhere, order = torch.cat(places), reduction.selection.order.sort(dim=1).values
    outside = ((everywhere < 0) | (everywhere >= patches)).any()
    twice = ((order[:, 1:] == order[:, :-1]) & (order[:, 1:] >= 0)).any()
    outside, twice = torch.stack([outside, twice.to(outside.device)]).tolist()
    if outside:
        return f"gave positions outside 0 to {patches - 1}: they are patch indices"
    return "kept a patch twice" if twice else None
