"""Try a method on a picture and see at once what it keeps: the widgets of ``explorer.ipynb``.

    Controls    sliders and fields, without any logic
    Explorer    holds what is chosen, and has pictures and words follow

Needs the extra ``notebooks``.
"""

import base64
import html
import io
import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pandas as pd
from ipywidgets import (
    HTML,
    Button,
    Dropdown,
    FileUpload,
    FloatSlider,
    HBox,
    Image,
    IntSlider,
    Layout,
    Text,
    VBox,
)
from PIL import Image as Pillow
from transformers import LlavaForConditionalGeneration, LlavaProcessor

import prumerge
from prumerge.draw.figures import small_png
from prumerge.draw.looking import Look, draw_picture, look, prefill
from prumerge.draw.pictures import REASONS, paint_attention, paint_kept, paint_origin, to_png
from prumerge.encoder import Encoded
from prumerge.methods import Method
from prumerge.mini.pictures import (
    Picture,
    as_seen,
    encode_pictures,
    grid_of,
    read_picture,
    to_pixels,
)
from prumerge.mini.scenes import most_objects
from prumerge.models.asking import answer
from prumerge.roofline import read_shape
from prumerge.settings import Settings

PANELS = ("kept patches", "attention", "merged into the token")
TEXT_TOKENS = 40  # of the prompt whose cost is shown

ROW = Layout(flex_flow="row wrap", width="100%")  # narrow windows put what is beside below
_WIDE = Layout(width="21em")
PICTURE, METHOD = ("seed", "objects", "file"), ("budget", "whisker", "neighbours")


class Controls:
    """A picture, a method, its settings, a token, a question; ``start`` gives values by name."""

    def __init__(self, grid: int, **start: object) -> None:
        patches, most = grid**2, most_objects(grid)
        self.seed = IntSlider(0, 0, 99, description="scene", layout=_WIDE)
        self.objects = IntSlider(6, 1, most, description="objects", layout=_WIDE)
        self.file = Text(placeholder="path", description="own file", layout=_WIDE)
        self.file.continuous_update = False
        self.upload = FileUpload(accept="image/*", description="upload")
        # The picture is reduced before anything is asked about it.
        known = [name for name in prumerge.names() if not prumerge.resolve(name).reads_question]
        self.method = Dropdown(options=known, description="method", layout=_WIDE)
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

    def row(self, *names: str) -> HBox:
        return HBox([getattr(self, name) for name in names], layout=ROW)


class Explorer(VBox):
    """Widgets that choose a picture and a method, and show at once what is kept of it.

    What the encoder says is kept per picture, so only a new picture makes it run again. A choice
    that does not work is told in a line; the last picture stays.

    ``costed`` is whose prefill is estimated (:func:`prumerge.roofline.read_shape`), ``card`` a name
    of ``prumerge.roofline.HARDWARE``. ``do_pad=False`` crops pictures instead of padding them to
    squares. ``start`` gives values to begin with, by the name of a control. ``look`` holds what the
    method does with the picture, ``painted`` the three pictures as pixels, and ``reaction_ms`` how
    long the last change took, from event to pictures.
    """

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        processor: LlavaProcessor,
        costed: str = "7b",
        card: str = "H100",
        do_pad: bool = True,
        **start: object,
    ) -> None:
        self.model, self.processor, self.do_pad = model, processor, do_pad
        self.shape, self.card = read_shape(costed), card
        self.choose = Controls(grid_of(model), **start)
        self.pictures = [Image(format="png", layout=Layout(width="100%")) for _ in PANELS]
        self.painted = [np.zeros((1, 1, 3), np.uint8)] * len(PANELS)
        self.said = {name: HTML() for name in ("trouble", "counts", "origin", "costs", "answers")}
        self.reaction_ms, self._held, self._encodings = 0.0, False, {}
        super().__init__(self._lay_out())
        self._take_method()
        for name in start.keys() & METHOD:
            getattr(self.choose, name).value = start[name]
        self._take_file() if self.choose.file.value else self._take_scene()
        self._listen()

    @property
    def method(self) -> Method:
        chosen = {name: getattr(self.choose, name).value for name in METHOD}
        return prumerge.resolve(
            self.choose.method.value, **chosen | {"budget": chosen["budget"] or None}
        )

    def _lay_out(self) -> list:
        frame = Layout(flex="1 1 15em", min_width="15em", max_width="24em", padding="0 0.5em")
        frames = [
            VBox([HTML(f"<b>{name}</b>"), picture], layout=frame)
            for name, picture in zip(PANELS, self.pictures, strict=True)
        ]
        choose, said = self.choose, self.said
        chosen = [choose.row(*PICTURE, "upload"), choose.row("method", *METHOD)]
        above = [*chosen, said["trouble"], said["counts"]]
        middle = [HBox(frames, layout=ROW), HTML(_legend()), choose.token, said["origin"]]
        return [*above, *middle, said["costs"], choose.row("question", "ask"), said["answers"]]

    def _listen(self) -> None:
        act = {name: self._take_scene for name in PICTURE[:2]} | {
            "file": lambda: self._take_file() if self.choose.file.value else self._take_scene(),
            "upload": self._take_upload,
            "method": lambda: (self._take_method(), self._reduce()),
            "token": self._show_token,
        }
        act |= dict.fromkeys(METHOD, self._reduce)
        for name, action in act.items():
            getattr(self.choose, name).observe(lambda _, act=action: self._react(act), "value")
        self.choose.ask.on_click(lambda _: self._react(self._answer))

    def _react(self, action: Callable[[], object]) -> None:
        """Do what a change asks for; changes made while doing so ask for nothing."""
        if self._held:
            return
        self._held, started = True, time.perf_counter()
        try:
            action()
            self.said["trouble"].value = ""
        except ValueError as error:
            told = f'<b style="color: #A34800">{html.escape(str(error))}</b>'
            self.said["trouble"].value = told
        finally:
            self._held = False
        self.reaction_ms = 1e3 * (time.perf_counter() - started)

    def _take_scene(self) -> None:
        choose = self.choose
        self._open(draw_picture(choose.seed.value, choose.objects.value, grid_of(self.model)))

    def _take_file(self) -> None:
        self._open(read_picture(self.choose.file.value))

    def _take_upload(self) -> None:
        for file in self.choose.upload.value:
            self._open(read_picture(io.BytesIO(bytes(file["content"])), file["name"]))

    def _open(self, picture: Picture) -> None:
        self.picture, self._encodings = picture, {}
        self.pixels = to_pixels(self.processor, [picture], self.do_pad)
        self.seen = as_seen(self.processor, self.pixels)[0]
        self._reduce()

    def _take_method(self) -> None:
        """Set the sliders to the settings that the method comes with; the budget stays."""
        settings = prumerge.resolve(self.choose.method.value).settings
        self.choose.whisker.value = settings.whisker
        self.choose.neighbours.value = settings.neighbours

    def _encoded(self, settings: Settings) -> Encoded:
        read = (settings.score, settings.softmax_class, settings.score_layer, settings.key_layer)
        if read not in self._encodings:
            self._encodings[read] = encode_pictures(self.model, self.pixels, settings)
        return self._encodings[read]

    def _reduce(self) -> None:
        method = self.method
        self.look: Look = look(self._encoded(method.settings), method)
        self.choose.token.max = self.look.kept
        grid = self.look.encoded.grid
        self.painted[0] = paint_kept(self.seen, self.look.reason, grid)
        self.painted[1] = paint_attention(self.seen, self.look.scores, grid)
        self.said["counts"].value = _counts(self.look, self.picture.name, method.name)
        patches = self.look.encoded.scores.shape[1]
        table = prefill(self.shape, patches, self.look.kept, TEXT_TOKENS, self.card)
        self.said["costs"].value = _costs(table, f"{self.shape.name} on one {self.card}")
        self.said["answers"].value = ""
        self._show_token()

    def _show_token(self) -> None:
        token, grid = self.choose.token.value - 1, self.look.encoded.grid
        weights, place = self.look.origin(token), self.look.place(token)
        self.painted[2] = paint_origin(self.seen, weights, place, grid)
        self.said["origin"].value = _origin(self.look, token)
        for picture, canvas in zip(self.pictures, self.painted, strict=True):
            picture.value = to_png(canvas)

    def _answer(self) -> None:
        given, method = {}, self.method
        asked = ([self.picture.image], [self.choose.question.value])
        ask = partial(answer, self.model, self.processor, *asked, do_pad=self.do_pad)
        for name in ("all tokens", method.name):
            started = time.perf_counter()
            if name == "all tokens":
                text, sent = ask(), self.look.reason.size
            else:
                with prumerge.attach(self.model, method) as reducer:
                    text, (sent,) = ask(), reducer.kept
            given[name] = (sent, text[0], time.perf_counter() - started)
        self.said["answers"].value = _answers(given)

    def still(self) -> bytes:
        """Return the three pictures side by side as one small PNG."""
        gap = np.full((len(self.painted[0]), 8, 3), 255, np.uint8)
        row = [part for canvas in self.painted for part in (canvas, gap)][:-1]
        return small_png(Pillow.fromarray(np.hstack(row)))

    def _repr_mimebundle_(self, **kwargs: object) -> dict[str, object]:
        """Show widgets where there are any, else (on a page, in print) the pictures."""
        bundle = super()._repr_mimebundle_(**kwargs)
        bundle["text/plain"] = f"Explorer: {self.picture.name}, {self.look.kept} tokens"
        return bundle | {"image/png": base64.b64encode(self.still()).decode()}


_CELL = 'style="text-align: left; padding: 0 1.5em 0 0"'


def _legend() -> str:
    """Explain the colours of the outlines."""
    marks = [(colour, words) for words, colour in REASONS.values()]
    return " &ensp; ".join(
        f'<span style="border: 3px solid {colour}; background: #333">&emsp;</span> {words}'
        for colour, words in [*marks, ("#555", "dropped")]
    )


def _counts(look: Look, name: str, method: str) -> str:
    """Say how many tokens a picture sends under a method."""
    patches = look.encoded.scores.shape[1]
    return (
        f"<b>{html.escape(name)}</b>: <b>{html.escape(method)}</b> sends <b>{look.kept}</b> of "
        f"{patches} visual tokens ({look.kept / patches:.1%})"
    )


def _origin(look: Look, token: int) -> str:
    """Say where a token stands and how many patches are merged into it; tokens count from 0."""
    weights, place = look.origin(token), look.place(token)
    row, column = divmod(place, look.encoded.grid[1])
    merged = int((weights != 0).sum() - (weights[place] != 0))
    return (
        f"Token {token + 1} of {look.kept} stands at row {row + 1}, column {column + 1}: its own "
        f"patch with weight {weights[place]:.3g}, and {merged} others, together "
        f"{weights.sum() - weights[place]:.3g}."
    )


def _costs(table: pd.DataFrame, of: str) -> str:
    """Write the two rows of :func:`prumerge.draw.looking.prefill`, and their ratio."""
    ratio = table["prefill_ms"].iloc[0] / table["prefill_ms"].iloc[1]
    names = ["prompt tokens", "10¹² operations", "prefill, ms", "KV cache, MiB"]
    lines = [[f"{of}, on paper", *names]]
    for row in table.itertuples():
        lines.append([row.Index, str(row.tokens), *(f"{value:.3g}" for value in row[2:])])
    return _rows(lines) + f"Prefill with the kept tokens is {ratio:.1f} times faster."


def _answers(given: Mapping[str, tuple[int, str, float]]) -> str:
    """Write answers side by side; given by name are visual tokens, answer, seconds."""
    lines = [["", "visual tokens", "answer", "seconds"]]
    lines += [[name, str(n), text, f"{s:.2f}"] for name, (n, text, s) in given.items()]
    return _rows(lines)


def _rows(lines: list[list[str]]) -> str:
    head, *body = [[html.escape(text) for text in line] for line in lines]
    rows = ["".join(f"<th {_CELL}>{text}</th>" for text in head)]
    rows += ["".join(f"<td {_CELL}>{text}</td>" for text in line) for line in body]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"
