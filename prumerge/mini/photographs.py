"""Photographs that come with installed packages: a gallery to look at, and grounds for scenes."""

import importlib.util
from pathlib import Path
from typing import NamedTuple


class Photograph(NamedTuple):
    """A photograph that a package brings along."""

    name: str
    package: str  # the module's name
    path: str  # in the package
    licence: str

    def find(self) -> Path | None:
        """Return the file, without importing the package; None where that is not installed."""
        spec = importlib.util.find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            return None
        path = Path(spec.submodule_search_locations[0]) / self.path
        return path if path.exists() else None


PHOTOGRAPHS = tuple(
    Photograph(name, *file.split(":"), licence)
    for name, file, licence in (
        ("astronaut", "skimage:data/astronaut.png", "public domain, NASA"),
        ("cat", "skimage:data/chelsea.png", "CC0, Stefan van der Walt"),
        ("coffee", "skimage:data/coffee.png", "CC0, Rachel Michetti"),
        ("motorcycle", "skimage:data/motorcycle_left.png", "Middlebury 2014 stereo benchmark"),
        ("rocket", "skimage:data/rocket.jpg", "public domain, SpaceX"),
        ("horse", "skimage:data/horse.png", "CC0, Andreas Preuss"),
        ("cameraman", "skimage:data/camera.png", "CC0, Lav Varshney"),
        ("temple", "sklearn:datasets/images/china.jpg", "CC BY 2.0, danielbuechele"),
        ("flower", "sklearn:datasets/images/flower.jpg", "CC BY 2.0, vultilion"),
        ("portrait", "matplotlib:mpl-data/sample_data/grace_hopper.jpg", "public domain, US Navy"),
        ("coins", "skimage:data/coins.png", "no known restrictions, Brooklyn Museum"),
        ("galaxies", "skimage:data/hubble_deep_field.jpg", "public domain, NASA"),
        ("retina", "skimage:data/retina.jpg", "CC0, Mikael Häggström"),
        ("bricks", "skimage:data/brick.png", "CC0, CC0Textures"),
        ("grass", "skimage:data/grass.png", "CC0, linolafett"),
        ("gravel", "skimage:data/gravel.png", "CC0, CC0Textures"),
    )
)
"""Files in the wheels of scikit-image, scikit-learn and matplotlib; the last three are textures."""
