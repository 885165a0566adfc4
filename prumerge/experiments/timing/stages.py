"""What is timed: a model, and the stages of one answer as calls, one after another.

Speed does not depend on the values of weights, so LLaVA-1.5 can be timed without its checkpoint. In
shapes, ``prompts`` are answered together, and ``length`` is the tokens of one full prompt. Pictures
are squares: of 2 x 2 tiles where a model cuts them, five with the whole picture; of 24 x 24 visual
tokens where it takes any number, or what its processor makes of them. Clips have 8 frames.
"""

import dataclasses
import functools
from itertools import cycle, islice
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from prumerge.encoder import Encoded
from prumerge.methods import Method, resolve
from prumerge.mini.pictures import load_pictures
from prumerge.models.attachment import attach
from prumerge.models.canvases import reduce_packed, sent_by
from prumerge.models.clip_files import FRAMES
from prumerge.models.families import family_of
from prumerge.models.inputs import ShortInputs, pictures_sent, shorten_inputs
from prumerge.models.placeholders import CUT, shown_of
from prumerge.models.preprocessing import of_pictures
from prumerge.models.random_weights import SHAPES, build, known_name
from prumerge.models.slots import Packed
from prumerge.models.videos import open_model
from prumerge.reduction import Reduction
from prumerge.roofline import Shown, shown_by
from prumerge.roofline.shapes import sides
from prumerge.scores import encode
from prumerge.settings import suggestion

FULL = "full"
"""The method's name for the stock model, with nothing attached."""

DRAWN = 12  # different pictures in a batch: scenes with 1 to 12 objects
GRID = 24  # visual tokens along an edge where a model takes any number, as LLaVA-1.5 has

STAGES = ("preprocess", "encode", "reduce", "prefill", "decode", "whole")
ATTENTION = ("sdpa", "eager", "flash_attention_2")


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model to time, on its device; ``weights`` are called ``trained`` or ``random``."""

    name: str
    weights: str
    model: PreTrainedModel
    processor: Any

    @property
    def device(self) -> str:
        """Where the model lives."""
        return str(self.model.device)

    @property
    def frames(self) -> int:
        """Frames of a clip, 0 where pictures are shown."""
        return frames_of(self.model.config)

    @functools.cached_property
    def shown(self) -> Shown:
        """What a prompt shows of one picture or clip."""
        return usual(self.model.config, self.processor)

    @property
    def patches(self) -> int:
        """Visual tokens of one picture or clip."""
        return self.shown.tokens

    def use_attention(self, name: str) -> None:
        """Switch encoder and language model to one of :data:`ATTENTION`, or refuse it."""
        check_attention(name, self.device, self.model.dtype)
        try:
            self.model.set_attn_implementation(name)
        except ImportError as error:
            raise ValueError(
                f"{name} cannot run here ({str(error).splitlines()[0]}): install flash-attn or "
                "use attention sdpa"
            ) from error


def frames_of(config: Any) -> int:
    """Return the frames of the clips that a model is timed with, 0 for pictures."""
    return FRAMES if config.model_type == "video_llava" else 0


def edge_of(config: Any) -> int:
    """Return the edge in pixels of the square pictures that a model is timed with."""
    vision = config.vision_config
    if hasattr(vision, "spatial_merge_size"):  # Qwen: pictures of any size
        return GRID * vision.patch_size * vision.spatial_merge_size
    cut = hasattr(config, "image_grid_pinpoints") or config.model_type == "internvl"
    return sides(vision.image_size)[0] * (1 + cut)


def usual(config: Any, processor: Any = None) -> Shown:
    """Return what a prompt shows of the pictures or clips that a model is timed with.

    ``processor`` may be None where the config alone decides about it.
    """
    if frames := frames_of(config):
        return shown_by(config, frames=frames)
    return shown_of(config, processor, (edge_of(config),) * 2)


def check_attention(name: str, device: str, dtype: torch.dtype) -> None:
    """Refuse an unknown attention implementation, or one for another device or precision."""
    if name not in ATTENTION:
        raise ValueError(f"unknown attention {name!r}: {suggestion(name, ATTENTION)}")
    if name != "flash_attention_2":
        return
    if not device.startswith("cuda"):
        raise ValueError("flash_attention_2 needs a CUDA device: use attention sdpa")
    if dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"flash_attention_2 needs bfloat16 or float16, not {str(dtype).removeprefix('torch.')}:"
            " use --dtype bfloat16 or attention sdpa"
        )


def load_subject(
    name: str = "mini", device: str = "cpu", dtype: str | None = None, layers: int | None = None
) -> Subject:
    """Load or make a model to time.

    ``name`` is ``mini``, a folder or hub id, or ``random-7b`` or ``random-13b``: LLaVA-1.5's shape
    with random weights, nothing downloaded (``random-7b-cut`` has few and narrow layers, to try a
    command); likewise ``random-next-7b`` and ``random-video-7b``, LLaVA-NeXT's and Video-LLaVA's.
    ``mini-next`` and ``mini-video`` are trained ones of these kinds; a folder or hub id may be of
    any family that is known. ``dtype`` of None is float32
    on a CPU, bfloat16 elsewhere. ``layers`` cuts random weights to so many language layers (and
    vision layers, at least 3), to try the path where the whole does not fit; such rows say so.
    ValueError tells what does not exist.
    """
    name = known_name(name)
    if not (name.startswith("random-") or name.endswith("-random")):
        if layers is not None:
            raise ValueError(f"layers={layers} cuts random weights only, such as random-7b")
        return Subject(name, "trained", *open_model(name, device, dtype))
    shape = name.removeprefix("random-").removesuffix("-random")
    if name not in SHAPES:
        raise ValueError(f"no shape {name!r}: {suggestion(f'random-{shape}', list(SHAPES))}")
    model, processor = build(name, device, dtype, layers)
    # Rows call it as those do that are committed.
    return Subject(f"{shape}-random", "random", model, processor)


@dataclasses.dataclass(frozen=True)
class Case:
    """What is asked of a model: a registered method, or ``full`` for the stock model.

    ``budget`` is None with ``full``, or to let the picture decide; ``text_tokens`` count the
    opening one; ``new_tokens`` are output lengths, of which decoding starts with the second token.
    ``pictures``, or clips, stand in each prompt, ``budget`` being of one of them: five pictures at
    576 tokens cost a LLaVA-1.5 what LLaVA-NeXT's 2,880 of a picture and its four tiles do.
    """

    method: str = FULL
    budget: int | None = None
    batch: int = 1
    text_tokens: int = 40
    new_tokens: tuple[int, ...] = (64,)
    pictures: int = 1


Made = Encoded | Float[Tensor, "pictures patches width"]
ABOUT = ("image_sizes", "image_grid_thw")
"""What a model must know about pictures besides their pixels."""
UNMARKED = {"markers": "none"}
"""Where pictures or clips are several tiles or frames a method sends its budget and nothing else:
rows then say how long prompts are."""


class Answering:
    """One case on one model: its pictures, prompts and method."""

    changed: dict[str, Any] = {}  # noqa: RUF012  # settings besides the budget

    def __init__(self, subject: Subject, case: Case) -> None:
        self.subject, self.model, self.case = subject, subject.model, case
        count = case.batch * case.pictures
        drawn = [picture.image for picture in load_pictures(None, min(count, DRAWN))]
        self.images = list(islice(cycle(drawn), count))
        self.input_ids = prompts(subject, case).to(subject.model.device)
        self.method = None
        if case.method != FULL:
            method = resolve(case.method, budget=case.budget, **self.changed)
            self.settings, self.method = method.settings, functools.partial(self.reduce, method)

    def reduce(self, method: Method, seen: Encoded) -> Reduction:
        """Reduce; a method that works behind the projector gets it, as it does inside attach."""
        projector = self.model.model.multi_modal_projector
        return method(dataclasses.replace(seen, project=projector))

    def preprocess(self) -> Float[Tensor, "pictures 3 rows columns"]:
        """Turn pictures into pixel values on the device."""
        prepare = of_pictures(self.subject.processor)
        pixels = prepare(self.images, return_tensors="pt")["pixel_values"]
        return pixels.to(self.model.device, self.model.dtype)

    @torch.no_grad()
    def encode(self, pixels: Float[Tensor, "pictures 3 rows columns"]) -> Made:
        """Encode as the stock model does, or as far as the method needs, with scores."""
        core, layer = self.model.model, self.model.config.vision_feature_layer
        if self.method is not None:
            return encode(core.vision_tower, pixels, self.settings, layer)
        hidden = core.vision_tower(pixels, output_hidden_states=True).hidden_states[layer]
        return hidden[:, 1:] if hidden.shape[1] > self.subject.patches else hidden

    def stock(self, made: Any) -> dict[str, Any]:
        """What the stock model reads of full prompts."""
        embeddings = self.model.get_input_embeddings()(self.input_ids)
        here = (self.input_ids == placeholder(self.subject))[..., None]
        visual = self.model.model.multi_modal_projector(made)
        return {"inputs_embeds": embeddings.masked_scatter(here, visual.to(embeddings.dtype))}

    def shortened(self, made: Any) -> tuple[ShortInputs, dict[str, Any]]:
        """Prompts with what is sent of the pictures, and what the model reads of them."""
        sent = pictures_sent(self.model, made, self.subject.patches)
        short = shorten_inputs(self.model, self.full, [sent], self.settings.positions)
        return short, {"inputs_embeds": short.embeddings}

    @property
    def full(self) -> dict[str, Tensor]:
        """Full prompts."""
        mask = torch.ones_like(self.input_ids)
        return {"input_ids": self.input_ids, "attention_mask": mask}

    def places(self, mask: Tensor) -> Int[Tensor, "*three prompts length"]:
        """The stock model's position ids."""
        return (mask.cumsum(dim=1) - 1).clamp(min=0)

    @torch.no_grad()
    def prefill(self, made: Any) -> dict[str, Any]:
        """Read the prompt; what decoding goes on from: mask, cache, first new token and its id."""
        if self.method is None:
            mask, fed = self.full["attention_mask"], self.stock(made)
            places = self.places(mask)
        else:
            short, fed = self.shortened(made)
            mask, places = short.arguments["attention_mask"], short.arguments.get("position_ids")
            places = self.places(mask) if places is None else places
        following = places.amax(dim=-1, keepdim=True) + 1
        if places.ndim > 2:  # under M-RoPE the next word has the same id three times
            following = following.amax(dim=0, keepdim=True).expand_as(following)
        return self._step(mask, position_ids=places, **fed) | {"following": following}

    @torch.no_grad()
    def decode(self, state: dict[str, Any], new_tokens: int) -> Int[Tensor, "prompts new_tokens"]:
        """Go on to ``new_tokens`` tokens, greedily; leave ``state`` as it was."""
        mask, cache, tokens = state["mask"], state["cache"], [state["token"]]
        for step in range(new_tokens - 1):
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            given = {"position_ids": state["following"] + step, "past_key_values": cache}
            tokens.append(self._step(mask, input_ids=tokens[-1], **given)["token"])
        cache.crop(1 - new_tokens)  # by so many tokens
        return torch.cat(tokens, dim=1)

    def _step(self, mask: Tensor, **inputs: Any) -> dict[str, Any]:
        output = self.model(attention_mask=mask, use_cache=True, logits_to_keep=1, **inputs)
        token = output.logits[:, -1:].argmax(dim=-1)
        return {"mask": mask, "cache": output.past_key_values, "token": token}

    def whole(self, new_tokens: int) -> Int[Tensor, "prompts generated"]:
        """Answer as a user would: preprocess, then ``generate`` of the stock or attached model."""
        inputs = self.named(self.preprocess()) | {"input_ids": self.input_ids}
        inputs["attention_mask"] = torch.ones_like(self.input_ids)
        lengths = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}
        if self.method is None:
            return self.model.generate(**inputs, **lengths)
        with attach(self.model, self.case.method, budget=self.case.budget, **self.changed):
            return self.model.generate(**inputs, **lengths)

    def named(self, pixels: Any) -> dict[str, Any]:
        """Name what is preprocessed, as ``generate`` takes it."""
        return {"pixel_values": pixels}


class PackedAnswering(Answering):
    """One case on a model of another family than LLaVA-1.5, or with clips.

    The stock model projects and packs what it shows while it encodes.
    """

    changed = UNMARKED

    def __init__(self, subject: Subject, case: Case) -> None:
        self.family, self.kind = family_of(subject.model), "video" if subject.frames else "image"
        self.changed = self.family.defaults | UNMARKED
        if self.family.places is not None and case.pictures > 1:
            raise ValueError(
                f"pictures={case.pictures}: prompts of a {type(subject.model).__name__} are timed "
                "with one picture each"
            )
        super().__init__(subject, case)

    def preprocess(self) -> dict[str, Tensor]:
        """Turn pictures into tiles, or clips into frames, on the device."""
        frames, model = self.subject.frames, self.model
        prepare = functools.partial(of_pictures(self.subject.processor), return_tensors="pt")
        if frames:
            shown = [own for own in self.images for _ in range(frames)]
            pixels = prepare(shown)["pixel_values"]
            given = {"pixel_values_videos": pixels.unflatten(0, (len(self.images), frames))}
        else:
            shown = [own.resize((edge_of(model.config),) * 2) for own in self.images]
            given = dict(prepare(shown, **(CUT if model.config.model_type == "internvl" else {})))
            given = {n: v for n, v in given.items() if n in (*self.family.names, *ABOUT)}
        self.about = {name: given[name] for name in ABOUT if name in given}
        floating = {name: v for name, v in given.items() if v.is_floating_point()}
        given |= {name: v.to(dtype=model.dtype) for name, v in floating.items()}
        return {name: v.to(model.device) for name, v in given.items()}

    @torch.no_grad()
    def encode(self, pixels: dict[str, Tensor]) -> Any:
        """Encode as the stock model does, or as far as the method needs, with scores."""
        if self.method is None:
            return getattr(self.model.model, f"get_{self.kind}_features")(**pixels)
        return self.family.pack(self.model, pixels | self.full, self.settings)[self.kind]

    def reduce(self, method: Method, seen: Packed) -> tuple[Packed, Reduction]:
        """Reduce tile by tile, or frame by frame; what was encoded knows how to project it."""
        parts = (dataclasses.replace(part, project=seen.project) for part in seen.parts)
        return seen, reduce_packed(dataclasses.replace(seen, parts=tuple(parts)), method)

    def stock(self, made: Any) -> dict[str, Any]:
        """The stock model reads what it encoded."""
        return {"input_ids": self.input_ids, "mm_encoder_outputs": {self.kind: made}}

    def shortened(self, made: tuple[Packed, Reduction]) -> tuple[ShortInputs, dict[str, Any]]:
        """Prompts with what is sent of tiles or frames, and what the model reads of them."""
        sent = sent_by(made[1], made[0], placeholder(self.subject), self.kind)
        places = functools.partial(self.places, self.full["attention_mask"])
        short = shorten_inputs(
            self.model, self.full, [sent], self.settings.positions,
            places=None if self.family.places is None else places,
        )  # fmt: skip
        prompts = short.prompts
        ids, visual = prompts.input_ids, prompts.visual
        return short, self.family.feed(self.model, ids, short.embeddings, visual)

    def places(self, mask: Tensor) -> Int[Tensor, "*three prompts length"]:
        """The stock model's position ids, of three rows under M-RoPE."""
        if self.family.places is None:
            return super().places(mask)
        return self.family.places(self.model, self.full | self.about, None)

    def named(self, pixels: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is preprocessed has names; under M-RoPE ``generate`` asks what each token is."""
        if self.family.places is None:
            return pixels
        return pixels | {"mm_token_type_ids": (self.input_ids == placeholder(self.subject)).int()}


def answering_of(subject: Subject, case: Case) -> Answering:
    """Make what answers a case."""
    plain = subject.model.config.model_type == "llava"
    return (Answering if plain else PackedAnswering)(subject, case)


def placeholder(subject: Subject) -> int:
    """Return the id of the placeholders of pictures or clips."""
    config = subject.model.config
    return config.video_token_id if subject.frames else config.image_token_id


def prompts(subject: Subject, case: Case) -> Int[Tensor, "prompts length"]:
    """Make full prompts: an opening token, the pictures' placeholders, words drawn at random."""
    for name in ("text_tokens", "batch", "pictures"):
        if (value := getattr(case, name)) < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    config = subject.model.config
    text, picture = config.text_config, placeholder(subject)
    marks = {getattr(config, f"{name}_token_id", None) for name in ("image", "video")}
    marks |= {value for name, value in vars(config).items() if name.endswith("_token_id")}
    special = marks | {text.pad_token_id, text.bos_token_id, text.eos_token_id}
    ordinary = torch.tensor([i for i in range(text.vocab_size) if i not in special])
    generator, size = torch.Generator().manual_seed(0), (case.batch, case.text_tokens)
    words = ordinary[torch.randint(len(ordinary), size, generator=generator)]
    words[:, 0] = words[:, 0] if text.bos_token_id is None else text.bos_token_id
    pictures = torch.full((case.batch, case.pictures * subject.shown.slots), picture)
    return torch.cat([words[:, :1], pictures, words[:, 1:]], dim=1)
