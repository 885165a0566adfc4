"""Try a method on a picture and see at once what it keeps: the widgets of ``explorer.ipynb``.

    Explorer    holds what is chosen, and has pictures and words follow; ``controls`` are its
                sliders and lists, ``words`` what it says

Needs the extra ``notebooks``.
"""

import base64
import html
import io
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from ipywidgets import HTML, HBox, Image, Layout, VBox
from PIL import Image as Pillow
from transformers import LlavaForConditionalGeneration, LlavaProcessor

import prumerge
from prumerge.draw import words
from prumerge.draw.controls import METHOD, OWN_TOWER, PICTURE, ROW, Controls
from prumerge.draw.figures import small_png
from prumerge.draw.looking import Look, draw_picture, look, prefill
from prumerge.draw.pictures import paint_attention, paint_kept, paint_origin, to_png
from prumerge.encoder import Encoded
from prumerge.methods import Method
from prumerge.mini.pictures import (
    Picture,
    as_seen,
    encode_pictures,
    grid_of,
    read_photograph,
    read_picture,
    to_pixels,
)
from prumerge.mini.styles import style_of
from prumerge.models.asking import answer
from prumerge.models.towers import NAME, LoadedTower, load_tower
from prumerge.roofline import read_shape
from prumerge.settings import Settings

PANELS = ("kept patches", "attention", "merged into the token")
TEXT_TOKENS = 40  # of the prompt whose cost is shown
# What stays as it was where a choice does not work.
SHOWN = ("picture", "pixels", "seen", "_encodings", "_tower_name")


class Explorer(VBox):
    """Widgets that choose a picture and a method, and show at once what is kept of it.

    What the encoder says is kept per picture, so only a new picture or tower makes it run again. A
    choice that does not work is told in a line; the last picture stays. Another tower than the
    model's own has no language model behind it: pictures follow, questions are refused.

    ``costed`` is whose prefill is estimated (:func:`prumerge.roofline.read_shape`), ``card`` a name
    of ``prumerge.roofline.HARDWARE``. ``do_pad=False`` crops pictures instead of padding them to
    squares. ``start`` gives values to begin with, by the name of a control; a ``file`` goes before
    a ``photograph``, and without both a scene is drawn, in the style that the model knows. A
    ``tower`` whose package is missing is told, and the model's own takes its place. ``look`` holds
    what the method does with the picture, ``painted`` the three pictures as pixels, and
    ``reaction_ms`` how long the last change took, from event to pictures.
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
        told = ("trouble", "tower", "counts", "origin", "costs", "answers")
        self.said = {name: HTML() for name in told}
        self.reaction_ms, self._held, self._encodings = 0.0, False, {}
        own = LoadedTower(model, processor, "")
        self._towers, self._tower_name = {OWN_TOWER: own}, OWN_TOWER
        super().__init__(self._lay_out())
        self._take_method()
        for name in start.keys() & set(METHOD):
            self.choose.give(name, start[name])
        self._begin()
        self._listen()

    def _begin(self) -> None:
        """Open the first picture with the first tower, or with the model's own where that fails."""
        try:
            self._take_tower()
        except ModuleNotFoundError as error:
            self._show_tower()
            self.said["trouble"].value = words.trouble(error)
        self._take_file()

    @property
    def method(self) -> Method:
        chosen = {name: getattr(self.choose, name).value for name in METHOD}
        return prumerge.resolve(
            self.choose.method.value, **chosen | {"budget": chosen["budget"] or None}
        )

    @property
    def tower(self) -> LoadedTower:
        """What looks at the picture; the whole model where that is the model's own tower."""
        return self._towers[self._tower_name]

    def _lay_out(self) -> list:
        frame = Layout(flex="1 1 15em", min_width="15em", max_width="24em", padding="0 0.5em")
        frames = [
            VBox([HTML(f"<b>{name}</b>"), picture], layout=frame)
            for name, picture in zip(PANELS, self.pictures, strict=True)
        ]
        choose, said = self.choose, self.said
        chosen = [choose.row(*PICTURE, "upload", "tower"), choose.row("method", *METHOD)]
        above = [*chosen, said["trouble"], said["tower"], said["counts"]]
        middle = [HBox(frames, layout=ROW), HTML(words.legend()), choose.token, said["origin"]]
        return [*above, *middle, said["costs"], choose.row("question", "ask"), said["answers"]]

    def _listen(self) -> None:
        act = {
            "photograph": self._take_photograph,
            "seed": self._take_scene,
            "objects": self._take_scene,
            "file": self._take_file,
            "upload": self._take_upload,
            "tower": lambda: (self._take_tower(), self._open(self.picture)),
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
        before = {name: getattr(self, name) for name in SHOWN}
        try:
            action()
            self.said["trouble"].value = ""
        except (ValueError, ModuleNotFoundError) as error:
            vars(self).update(before)
            self._show_tower()
            self.said["trouble"].value = words.trouble(error)
        finally:
            self._held = False
        self.reaction_ms = 1e3 * (time.perf_counter() - started)

    def _take_scene(self) -> None:
        choose, model = self.choose, self.model
        picture = draw_picture(
            choose.seed.value, choose.objects.value, grid_of(model), style_of(model)
        )
        self._open(picture)
        choose.photograph.value = choose.file.value = ""

    def _take_photograph(self) -> None:
        name = self.choose.photograph.value
        if not name:
            return self._take_scene()
        self._open(read_photograph(name))
        self.choose.file.value = ""

    def _take_file(self) -> None:
        path = self.choose.file.value
        if not path:
            return self._take_photograph()
        self._open(read_picture(path))
        self.choose.photograph.value = ""

    def _take_upload(self) -> None:
        for file in self.choose.upload.value:
            self._open(read_picture(io.BytesIO(bytes(file["content"])), file["name"]))
            self.choose.photograph.value = self.choose.file.value = ""

    def _take_tower(self) -> None:
        name = self.choose.tower.value
        if name not in self._towers:
            # The package's, so that the same is seen wherever it is installed.
            origin = "package" if name == NAME else "any"
            self._towers[name] = load_tower(name, str(self.model.device), origin=origin)
        self._tower_name = name
        self._show_tower()

    def _show_tower(self) -> None:
        """Say what looks at the picture, and close what needs a language model where none is."""
        choose, alone = self.choose, self._tower_name != OWN_TOWER
        choose.tower.value = self._tower_name
        for control in (choose.positions, choose.question, choose.ask):
            control.disabled = alone
        told = f"Seen by {self.tower.origin}. No language model is behind it that could be asked."
        self.said["tower"].value = html.escape(told) if alone else ""

    def _open(self, picture: Picture) -> None:
        pixels = to_pixels(self.tower.processor, [picture], self.do_pad)
        self.picture, self.pixels, self._encodings = picture, pixels, {}
        self.seen = as_seen(self.tower.processor, pixels)[0]
        self.choose.budget.max = self._encoded(self.method.settings).scores.shape[1]
        self._reduce()

    def _take_method(self) -> None:
        """Set the controls to the settings that the method comes with; the budget stays."""
        settings = prumerge.resolve(self.choose.method.value).settings
        for name in METHOD:
            control, value = getattr(self.choose, name), getattr(settings, name)
            if name != "budget":
                if hasattr(control, "max"):
                    control.max = max(control.max, value)
                self.choose.give(name, value)

    def _encoded(self, settings: Settings) -> Encoded:
        read = (settings.score, settings.softmax_class, settings.score_layer, settings.key_layer)
        if read not in self._encodings:
            self._encodings[read] = encode_pictures(self.tower.tower, self.pixels, settings)
        return self._encodings[read]

    def _reduce(self) -> None:
        method = self.method
        self.look: Look = look(self._encoded(method.settings), method)
        self.choose.token.max = self.look.kept
        grid = self.look.encoded.grid
        self.painted[0] = paint_kept(self.seen, self.look.reason, grid)
        self.painted[1] = paint_attention(self.seen, self.look.scores, grid)
        self.said["counts"].value = words.counts(self.look, self.picture, method.name)
        patches = self.look.encoded.scores.shape[1]
        table = prefill(self.shape, patches, self.look.kept, TEXT_TOKENS, self.card)
        self.said["costs"].value = words.costs(table, f"{self.shape.name} on one {self.card}")
        self.said["answers"].value = ""
        self._show_token()

    def _show_token(self) -> None:
        token, grid = self.choose.token.value - 1, self.look.encoded.grid
        weights, place = self.look.origin(token), self.look.place(token)
        self.painted[2] = paint_origin(self.seen, weights, place, grid)
        self.said["origin"].value = words.origin(self.look, token)
        for picture, canvas in zip(self.pictures, self.painted, strict=True):
            picture.value = to_png(canvas)

    def _answer(self) -> None:
        if self._tower_name != OWN_TOWER:
            raise ValueError(
                f"{self._tower_name} has no language model behind it: choose {OWN_TOWER} as tower"
            )
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
        self.said["answers"].value = words.answers(given)

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
