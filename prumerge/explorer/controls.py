"""The explorer's sliders and fields, without any logic."""

from ipywidgets import Button, Dropdown, FileUpload, FloatSlider, HBox, IntSlider, Layout, Text

import prumerge

ROW = Layout(flex_flow="row wrap", width="100%")  # narrow windows put what is beside below
_WIDE = Layout(width="21em")
PICTURE, METHOD = ("seed", "objects", "file"), ("budget", "whisker", "neighbours")


class Controls:
    """What can be chosen: a picture, a method, its settings, a token, a question.

    Args:
        patches: Visual tokens of an unreduced picture.
        most_objects: Most objects that a drawn scene holds.
        start: Values to begin with, by the name of the control.

    Raises:
        ValueError: If there is no such control.
    """

    def __init__(self, patches: int, most_objects: int, **start: object) -> None:
        self.seed = IntSlider(0, 0, 99, description="scene", layout=_WIDE)
        self.objects = IntSlider(6, 1, most_objects, description="objects", layout=_WIDE)
        self.file = Text(
            description="own file", placeholder="path", continuous_update=False, layout=_WIDE
        )
        self.upload = FileUpload(accept="image/*", description="upload")
        self.method = Dropdown(options=prumerge.names(), description="method", layout=_WIDE)
        self.budget = IntSlider(0, 0, patches, description="budget", layout=_WIDE)
        self.whisker = FloatSlider(1.5, min=0, max=6, step=0.25, description="fence", layout=_WIDE)
        self.neighbours = IntSlider(32, 0, 64, description="neighbours", layout=_WIDE)
        self.token = IntSlider(1, 1, 1, description="token", layout=Layout(width="95%"))
        self.question = Text(description="question", layout=Layout(width="26em"))
        self.ask = Button(description="ask", tooltip="answer with all tokens and with the kept")
        tips = {
            "seed": "number of the drawn scene",
            "budget": "visual tokens to send; 0: the picture decides",
            "whisker": "distance of the fence, in interquartile ranges; read without a budget",
            "neighbours": "patches merged into each kept one",
            "token": "the token whose origin is shown, in the order sent",
        }
        for name, tip in tips.items():
            getattr(self, name).tooltip = tip
        for name, value in start.items():
            if name not in vars(self):
                raise ValueError(f"no control {name!r}: there are {', '.join(vars(self))}")
            getattr(self, name).value = value

    def picture_row(self) -> HBox:
        """Lay out what chooses the picture."""
        return HBox([self.seed, self.objects, self.file, self.upload], layout=ROW)

    def method_row(self) -> HBox:
        """Lay out what chooses the method."""
        return HBox([self.method, self.budget, self.whisker, self.neighbours], layout=ROW)

    def question_row(self) -> HBox:
        """Lay out the question."""
        return HBox([self.question, self.ask], layout=ROW)
