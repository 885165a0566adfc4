"""Sliders, fields and lists of the explorer, without any logic."""

from typing import Any, get_args, get_type_hints

from ipywidgets import (
    Button,
    Dropdown,
    FileUpload,
    FloatSlider,
    HBox,
    IntSlider,
    Layout,
    Text,
)
from traitlets import TraitError

import prumerge
from prumerge.mini.photographs import PHOTOGRAPHS
from prumerge.mini.scenes import most_objects
from prumerge.models.towers import NAME
from prumerge.paths import EMBEDDED
from prumerge.settings import Settings

ROW = Layout(flex_flow="row wrap", width="100%")  # narrow windows put what is beside below
PICTURE = ("photograph", "seed", "objects", "file")
METHOD = ("budget", "whisker", "neighbours", "order", "positions")
OWN_TOWER = "the model's own"
GIVEN = "the one given"
TIPS = {
    "which": "the model: one picture, one in tiles, or a clip at a time, as it takes them",
    "photograph": "one that comes with an installed package, or the drawn scene",
    "seed": "number of the drawn scene",
    "tower": "what looks at the picture; only behind the model's own can anything be asked",
    "budget": "visual tokens to send; 0: the picture decides",
    "whisker": "distance of the fence, in interquartile ranges; read without a budget",
    "neighbours": "patches merged into each kept one",
    "order": "the order in which tokens are sent",
    "positions": "where the language model is told that tokens stand; only answers depend on it",
    "token": "the token whose origin is shown, in the order sent",
}


class Controls:
    """A model, a picture, a tower, a method, its settings, a token, a question.

    ``grid`` counts patches along an edge of a tile, ``patches`` those of the largest picture, or of
    a clip. ``start`` gives values by name; one that a control does not take is a ValueError.
    """

    def __init__(self, grid: int, patches: int, **start: object) -> None:
        wide, most = {"layout": Layout(width="21em")}, most_objects(grid)
        here = [photograph.name for photograph in PHOTOGRAPHS if photograph.find()]
        models = [
            name for name, place in EMBEDDED.items() if (place / "model.safetensors").exists()
        ]
        self.which = _choose("which", [GIVEN, *models])
        self.which.description = "model"
        self.photograph = _choose(
            "photograph", [("a drawn scene", ""), *((name, name) for name in here)]
        )
        self.seed = IntSlider(0, 0, 99, description="scene", **wide)
        self.objects = IntSlider(6, 1, most, description="objects", **wide)
        self.file = Text(placeholder="path", description="own file", **wide)
        self.file.continuous_update = False
        self.upload = FileUpload(accept="image/*", description="upload")
        towers = dict.fromkeys([OWN_TOWER, NAME, start.get("tower", NAME)])
        self.tower = _choose("tower", [*towers])
        # The picture is reduced before anything is asked about it.
        known = [name for name in prumerge.names() if not prumerge.resolve(name).reads_question]
        self.method = _choose("method", known)
        self.budget = IntSlider(0, 0, patches, description="budget", **wide)
        self.whisker = FloatSlider(1.5, min=0, max=6, step=0.25, description="fence", **wide)
        self.neighbours = IntSlider(32, 0, 64, description="neighbours", **wide)
        choices = get_type_hints(Settings)
        self.order = _choose("order", [*get_args(choices["order"])])
        self.positions = _choose("positions", [*get_args(choices["positions"])])
        self.token = IntSlider(1, 1, 1, description="token", layout=Layout(width="95%"))
        self.question = Text(description="question", layout=Layout(width="26em"))
        self.ask = Button(description="ask", tooltip="answer with all tokens and with the kept")
        for name, tip in TIPS.items():
            getattr(self, name).tooltip = tip
        for name, value in start.items():
            self.give(name, value)

    def give(self, name: str, value: object) -> None:
        """Set a control; ValueError where it does not take the value as it is."""
        if name not in vars(self):
            raise ValueError(f"no control {name!r}: there are {', '.join(vars(self))}")
        control = getattr(self, name)
        try:
            control.value = value
            taken = control.value == value
        except TraitError:
            taken = False
        if not taken:
            raise ValueError(f"{name}={value!r} does not work: give {_range(control)}")

    def row(self, *names: str) -> HBox:
        return HBox([getattr(self, name) for name in names], layout=ROW)


def _choose(name: str, options: list) -> Dropdown:
    return Dropdown(options=options, description=name, layout=Layout(width="21em"))


def _range(control: Any) -> str:
    """Say in words what a control takes."""
    if isinstance(control, Dropdown):
        values = [option[1] if isinstance(option, tuple) else option for option in control.options]
        return f"one of {', '.join(map(repr, values))}"
    return f"{control.min} to {control.max}" if hasattr(control, "max") else "text"
