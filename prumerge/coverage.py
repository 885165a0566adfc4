"""How much of a picture the kept patches see: the holes between them, the objects they touch.

Shapes
    images   pictures
    patches  visual tokens of one picture, rows x columns, row after row
"""

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy.ndimage import distance_transform_edt


def distance_to_kept(
    kept: Bool[np.ndarray, "images patches"], grid: tuple[int, int]
) -> Float[np.ndarray, "images patches"]:
    """Measure how far each patch is from the nearest kept one.

    Args:
        kept: True where a patch stays; at least one in each picture.
        grid: Rows and columns of patches.

    Returns:
        Distances between the middles of patches, in patches: 0 where one is kept, 1 beside it.

    Raises:
        ValueError: If a picture keeps nothing.

    Example:
        >>> distance_to_kept(np.array([[True, False, False, False]]), (2, 2)).round(1).tolist()
        [[0.0, 1.0, 1.0, 1.4]]
    """
    if not kept.any(axis=1).all():
        raise ValueError(f"picture {kept.any(axis=1).argmin()} keeps no patch: no distance to it")
    maps = [distance_transform_edt(~row.reshape(grid)).ravel() for row in kept]
    return np.array(maps, dtype=float).reshape(kept.shape)


def share_of_objects(
    kept: Bool[np.ndarray, " patches"], owner: Integer[np.ndarray, "rows columns"]
) -> float:
    """Return which share of a picture's objects has at least one kept patch.

    Args:
        kept: True where a patch stays.
        owner: Number of the object on each patch, from 1; 0 for the ground.

    Returns:
        Between 0 and 1; NaN where there is no object.

    Example:
        >>> share_of_objects(np.array([True, False, False, False]), np.array([[1, 2], [2, 0]]))
        0.5
    """
    objects = np.unique(owner[owner > 0])
    seen = np.unique(owner.ravel()[kept & (owner.ravel() > 0)])
    return len(seen) / len(objects) if len(objects) else float("nan")
