"""Try a method on a picture and see at once what it keeps: the widgets of ``explorer.ipynb``.

    Explorer    holds what is chosen, and has pictures and words follow; ``controls`` are its
                sliders and lists, ``words`` what it says
    open_model  a model of any family, to be shown in it

Needs the extra ``notebooks``.
"""

import base64
import dataclasses
import html
import io
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from ipywidgets import HTML, HBox, Image, Layout, VBox
from PIL import Image as Pillow
from transformers import PreTrainedModel

import prumerge
from prumerge.draw import words
from prumerge.draw.controls import GIVEN, METHOD, OWN_TOWER, PICTURE, ROW, Controls
from prumerge.draw.figures import small_png
from prumerge.draw.looking import Film, Look, View, draw_film, draw_picture, look, prefill
from prumerge.draw.pictures import mosaic, paint_attention, paint_kept, paint_origin, to_png
from prumerge.encoder import Encoded
from prumerge.methods import Method
from prumerge.mini.pictures import (
    Picture,
    as_seen,
    encode_pictures,
    read_photograph,
    read_picture,
    to_pixels,
)
from prumerge.mini.styles import style_of
from prumerge.models.asking import answer, generate_answers
from prumerge.models.clip_files import FRAMES, evenly_spaced, open_frames
from prumerge.models.families import family_of
from prumerge.models.loading import Processor
from prumerge.models.placeholders import place_of, shown_of
from prumerge.models.preprocessing import prepare
from prumerge.models.slots import Packed
from prumerge.models.towers import GRID, LoadedTower, load_tower
from prumerge.models.videos import VideoProcessor, open_model, video_prompt
from prumerge.roofline import read_shape, shown_by
from prumerge.roofline.shapes import sides
from prumerge.settings import Settings

PANELS = ("kept patches", "attention", "merged into the token")
TEXT_TOKENS = 40  # of the prompt whose cost is shown
# What stays as it was where a choice does not work.
SHOWN = ("model", "processor", "picture", "pixels", "seen", "_encodings", "_tower_name")
SHOWN += ("_shown_model",)
CLIP_WANTED = "a Video-LLaVA is shown clips: draw one, or give a folder of frames or a GIF as file"


def drawn_grid(model: PreTrainedModel) -> int:
    """Return the patches along an edge of a drawn scene: of one tile, or as LLaVA-1.5 has."""
    vision = model.config.vision_config
    if not hasattr(vision, "image_size"):
        return GRID
    return sides(vision.image_size)[0] // sides(vision.patch_size)[0]


def most_patches(model: PreTrainedModel, processor: Processor | VideoProcessor) -> int:
    """Return the visual tokens of the largest picture, or of a clip, that a model is shown."""
    if isinstance(processor, VideoProcessor):
        return shown_by(model.config, frames=FRAMES).tokens
    return shown_of(model.config, processor).tokens


class Explorer(VBox):
    """Widgets that choose a picture and a method, and show at once what is kept of it.

    What the encoder says is kept per picture, so only a new picture or tower makes it run again. A
    choice that does not work is told in a line; the last picture stays. Another tower than the
    model's own has no language model behind it: pictures follow, questions are refused. A
    model in tiles is shown the whole picture above its crops, an InternVL tile by tile, a
    Video-LLaVA the frames of a clip; all but LLaVA-1.5 look with their own tower.

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
        model: PreTrainedModel,
        processor: Processor | VideoProcessor,
        costed: str = "7b",
        card: str = "H100",
        do_pad: bool = True,
        **start: object,
    ) -> None:
        self.model, self.processor, self.do_pad = model, processor, do_pad
        self.shape, self.card = read_shape(costed), card
        self.choose = Controls(drawn_grid(model), most_patches(model, processor), **start)
        self.pictures = [Image(format="png", layout=Layout(width="100%")) for _ in PANELS]
        self.painted = [np.zeros((1, 1, 3), np.uint8)] * len(PANELS)
        told = ("trouble", "tower", "counts", "origin", "costs", "answers")
        self.said = {name: HTML() for name in told}
        self.reaction_ms, self._held, self._encodings = 0.0, False, {}
        self._models, self._shown_model = {GIVEN: (model, processor)}, GIVEN
        self._towers, self._tower_name = {}, OWN_TOWER
        super().__init__(self._lay_out())
        self._take_method()
        for name in start.keys() & set(METHOD):
            self.choose.give(name, start[name])
        self._begin()
        self._listen()

    def _begin(self) -> None:
        """Open the first picture with the first tower, or with the model's own where that fails."""
        if self.choose.which.value != GIVEN:
            return self._take_model()
        if not self._whole:
            self.choose.tower.value = OWN_TOWER
        try:
            self._take_tower()
        except ModuleNotFoundError as error:
            self._show_tower()
            self.said["trouble"].value = words.trouble(error)
        return self._take_file()

    @property
    def method(self) -> Method:
        chosen = {name: getattr(self.choose, name).value for name in METHOD}
        return self._resolved(**chosen | {"budget": chosen["budget"] or None})

    def _resolved(self, **chosen: object) -> Method:
        """The method, in the settings of the model's family where no others are chosen."""
        family = family_of(self.model) if self._tower_name == OWN_TOWER else None
        return prumerge.resolve(
            self.choose.method.value, **(family.defaults if family else {}) | chosen
        )

    @property
    def tower(self) -> LoadedTower:
        """What looks at the picture; the whole model where that is the model's own tower."""
        if self._tower_name == OWN_TOWER:
            return LoadedTower(self.model, self.processor, "")
        return self._towers[self._tower_name]

    @property
    def _whole(self) -> bool:
        """Whether the model takes pictures as they are, of one tile."""
        return type(self.model).__name__ == "LlavaForConditionalGeneration"

    @property
    def _moving(self) -> bool:
        """Whether the model is shown clips."""
        return isinstance(self.processor, VideoProcessor)

    def _lay_out(self) -> list:
        frame = Layout(flex="1 1 15em", min_width="15em", max_width="24em", padding="0 0.5em")
        frames = [
            VBox([HTML(f"<b>{name}</b>"), picture], layout=frame)
            for name, picture in zip(PANELS, self.pictures, strict=True)
        ]
        choose, said = self.choose, self.said
        shown = choose.row("which", *PICTURE, "upload", "tower")
        chosen = [shown, choose.row("method", *METHOD)]
        above = [*chosen, said["trouble"], said["tower"], said["counts"]]
        middle = [HBox(frames, layout=ROW), HTML(words.legend()), choose.token, said["origin"]]
        return [*above, *middle, said["costs"], choose.row("question", "ask"), said["answers"]]

    def _listen(self) -> None:
        act = {
            "which": self._take_model,
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

    def _take_model(self) -> None:
        """Show another model's picture, or clip, with its own tower."""
        name = self.choose.which.value
        if name not in self._models:
            self._models[name] = open_model(name, str(self.model.device))
        self.model, self.processor = self._models[name]
        self._shown_model, self._tower_name = name, OWN_TOWER
        self._take_scene()
        self._show_tower()

    def _take_scene(self) -> None:
        choose, model = self.choose, self.model
        chosen = choose.seed.value, choose.objects.value
        if self._moving:
            self._open(draw_film(*chosen, FRAMES))
        else:
            self._open(draw_picture(*chosen, drawn_grid(model), style_of(model)))
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
        if self._moving:
            frames = open_frames(path)
            frames = tuple(evenly_spaced(frames, min(FRAMES, len(frames))))
            self._open(Film(path, frames[0], frames=frames))
        else:
            self._open(read_picture(path))
        self.choose.photograph.value = ""

    def _take_upload(self) -> None:
        for file in self.choose.upload.value:
            self._open(read_picture(io.BytesIO(bytes(file["content"])), file["name"]))
            self.choose.photograph.value = self.choose.file.value = ""

    def _take_tower(self) -> None:
        name = self.choose.tower.value
        if name != OWN_TOWER and not self._whole:
            raise ValueError(
                f"{type(self.model).__name__} looks with its own tower: choose {OWN_TOWER!r}, or a "
                "LLaVA-1.5 as model"
            )
        if name not in self._towers and name != OWN_TOWER:
            # The package's, so that the same is seen wherever it is installed.
            self._towers[name] = load_tower(name, str(self.model.device), origin="package")
        self._tower_name = name
        self._show_tower()

    def _show_tower(self) -> None:
        """Say what looks at the picture, and close what needs a language model where none is."""
        choose, alone = self.choose, self._tower_name != OWN_TOWER
        choose.tower.value, choose.which.value = self._tower_name, self._shown_model
        for control in (choose.positions, choose.question, choose.ask):
            control.disabled = alone
        told = f"Seen by {self.tower.origin}. No language model is behind it that could be asked."
        self.said["tower"].value = html.escape(told) if alone else ""

    def _open(self, picture: Picture) -> None:
        if self._moving and not isinstance(picture, Film):
            raise ValueError(CLIP_WANTED)
        processor = self.tower.processor
        if self._whole:
            pixels = to_pixels(processor, [picture], self.do_pad)
            seen = as_seen(processor, pixels)
        elif isinstance(picture, Film):
            pixels = {"pixel_values_videos": processor.video_pixels([picture.frames])}
            seen = as_seen(processor.image_processor, pixels["pixel_values_videos"][0])
        else:
            (shown,) = prepare(processor, [picture.image], self.do_pad)
            ids, pixels = place_of(processor, picture.image, self.do_pad)
            pixels["input_ids"] = torch.tensor([ids])
            if self.model.config.model_type == "internvl":  # tiles side by side
                seen = as_seen(processor, pixels["pixel_values"])
            else:  # the whole of it, small, and in crops where there are some
                cut = hasattr(self.model.config, "image_grid_pinpoints")
                seen = [np.asarray(shown)] * (1 + cut)
        self.picture, self.pixels, self._encodings, self.seen = picture, pixels, {}, list(seen)
        self._reduce()

    def _take_method(self) -> None:
        """Set the controls to the settings that the method comes with; the budget stays."""
        settings = self._resolved().settings
        for name in METHOD:
            control, value = getattr(self.choose, name), getattr(settings, name)
            if name != "budget":
                if hasattr(control, "max"):
                    control.max = max(control.max, value)
                self.choose.give(name, value)

    def _encoded(self, settings: Settings) -> Encoded | Packed:
        read = (settings.score, settings.softmax_class, settings.score_layer, settings.key_layer)
        if read not in self._encodings:
            self._encodings[read] = self._encode(settings)
        return self._encodings[read]

    def _encode(self, settings: Settings) -> Encoded | Packed:
        if self._whole:
            return encode_pictures(self.tower.tower, self.pixels, settings)
        method = dataclasses.replace(self.method, settings=settings)
        pixels = {name: value.to(self.model.device) for name, value in self.pixels.items()}
        with torch.no_grad(), prumerge.attach(self.model, method) as reducer:
            packed = reducer.encode(**pixels)
        if isinstance(packed, Encoded):
            return packed.to("cpu", torch.float32)
        parts = tuple(part.to("cpu", torch.float32) for part in packed.parts)
        return dataclasses.replace(packed, parts=parts)

    def _reduce(self) -> None:
        method = self.method
        part = "frame" if self._moving else "tile"
        self.look: Look = look(self._encoded(method.settings), method, part)
        patches = self.look.reason.size
        self.choose.budget.max, self.choose.token.max = patches, self.look.kept
        self.painted[0] = self._paint(paint_kept, self.look.reason)
        self.painted[1] = self._paint(paint_attention, self.look.scores)
        self.said["counts"].value = words.counts(self.look, self.picture, method.name)
        table = prefill(self.shape, patches, self.look.kept, TEXT_TOKENS, self.card)
        self.said["costs"].value = words.costs(table, f"{self.shape.name} on one {self.card}")
        self.said["answers"].value = ""
        self._show_token()

    def _paint(self, paint: Callable[..., np.ndarray], values: np.ndarray) -> np.ndarray:
        """Paint all patches view by view: the base above the crops, four frames in a line."""
        pairs = list(zip(self.seen, self.look.views, strict=True))
        parts = [paint(pixels, values[view.patches], view.grid) for pixels, view in pairs]
        return mosaic(parts, 4 if self._moving else 1)

    def _origin(self, token: int) -> np.ndarray:
        weights, place = self.look.origin(token), self.look.place(token)

        def paint(pixels: np.ndarray, view: View) -> np.ndarray:
            at = np.flatnonzero(view.patches == place)
            own = (pixels, weights[view.patches])
            if at.size:
                return paint_origin(*own, int(at[0]), view.grid)
            return paint_attention(*own, view.grid)

        pairs = zip(self.seen, self.look.views, strict=True)
        return mosaic([paint(*pair) for pair in pairs], 4 if self._moving else 1)

    def _show_token(self) -> None:
        token = self.choose.token.value - 1
        self.painted[2] = self._origin(token)
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
        if isinstance(self.picture, Film):
            ask = partial(self._answer_on_film, self.picture.frames, self.choose.question.value)
        for name in ("all tokens", method.name):
            started = time.perf_counter()
            if name == "all tokens":
                text, sent = ask(), self.look.reason.size
            else:
                with prumerge.attach(self.model, method) as reducer:
                    text, (sent,) = ask(), reducer.kept
            given[name] = (sent, text[0], time.perf_counter() - started)
        self.said["answers"].value = words.answers(given)

    def _answer_on_film(self, frames: Sequence[Pillow.Image], question: str) -> list[str]:
        inputs = self.processor([video_prompt(self.processor, question)], [frames])
        return generate_answers(self.model, self.processor, inputs.to(self.model.device))

    def still(self) -> bytes:
        """Return the three pictures side by side as one small PNG."""
        gap = np.full((len(self.painted[0]), 8, 3), 255, np.uint8)
        row = [part for canvas in self.painted for part in (canvas, gap)][:-1]
        whole = Pillow.fromarray(np.hstack(row))
        if len(self.seen) > 1:  # as wide as a page
            whole.thumbnail((720, 720), Pillow.Resampling.LANCZOS)
        return small_png(whole)

    def _repr_mimebundle_(self, **kwargs: object) -> dict[str, object]:
        """Show widgets where there are any, else (on a page, in print) the pictures."""
        bundle = super()._repr_mimebundle_(**kwargs)
        bundle["text/plain"] = f"Explorer: {self.picture.name}, {self.look.kept} tokens"
        return bundle | {"image/png": base64.b64encode(self.still()).decode()}
