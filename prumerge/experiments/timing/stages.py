"""What is timed: a model, and the stages of one answer as calls, one after another.

Speed does not depend on the values of weights, so LLaVA-1.5 can be timed without its checkpoint. In
shapes, ``prompts`` are answered together, and ``length`` is the tokens of one full prompt. Pictures
in tiles are squares of 2 x 2 tiles, five with the whole picture; clips have 8 frames.
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
from prumerge.models import load
from prumerge.models.attachment import attach
from prumerge.models.canvases import reduce_packed, sent_by
from prumerge.models.families import family_of
from prumerge.models.inputs import Sent, pictures_sent, shorten_inputs
from prumerge.models.random_weights import SHAPES, build, known_name
from prumerge.models.slots import Packed
from prumerge.models.videos import FRAMES, load_video
from prumerge.reduction import Reduction
from prumerge.roofline import Shown, shown_by
from prumerge.scores import encode
from prumerge.settings import suggestion

FULL = "full"
"""The method's name for the stock model, with nothing attached."""

DRAWN = 12  # different pictures in a batch: scenes with 1 to 12 objects

STAGES = ("preprocess", "encode", "reduce", "prefill", "decode", "whole")
ATTENTION = ("sdpa", "eager", "flash_attention_2")


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model to time, on its device; ``weights`` are called ``trained`` or ``random``."""

    name: str
    weights: str
    model: PreTrainedModel
    image_processor: Any

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
        return usual(self.model.config)

    @property
    def packed(self) -> bool:
        """Whether pictures or clips are several tiles or frames."""
        return self.shown.tiles > 1

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
    """Return the edge in pixels of the square pictures in tiles that a model is timed with."""
    return 2 * config.vision_config.image_size


def usual(config: Any) -> Shown:
    """Return what a prompt shows of the pictures or clips that a model is timed with."""
    tiled = hasattr(config, "image_grid_pinpoints")
    size = (edge_of(config),) * 2 if tiled else None
    return shown_by(config, size, frames_of(config) or None)


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
    ``mini-next`` and ``mini-video`` are trained ones of these kinds. ``dtype`` of None is float32
    on a CPU, bfloat16 elsewhere. ``layers`` cuts random weights to so many language layers (and
    vision layers, at least 3), to try the path where the whole does not fit; such rows say so.
    ValueError tells what does not exist.
    """
    name = known_name(name)
    if not (name.startswith("random-") or name.endswith("-random")):
        if layers is not None:
            raise ValueError(f"layers={layers} cuts random weights only, such as random-7b")
        opened = load_video if name == "mini-video" else load
        model, processor = opened(name, device, dtype)
        return Subject(name, "trained", model, processor.image_processor)
    shape = name.removeprefix("random-").removesuffix("-random")
    if name not in SHAPES:
        raise ValueError(f"no shape {name!r}: {suggestion(f'random-{shape}', list(SHAPES))}")
    model, processor = build(name, device, dtype, layers)
    # Rows call it as those do that are committed.
    return Subject(f"{shape}-random", "random", model, processor.image_processor)


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
        pixels = self.subject.image_processor(self.images, return_tensors="pt")["pixel_values"]
        return pixels.to(self.model.device, self.model.dtype)

    @torch.no_grad()
    def encode(self, pixels: Float[Tensor, "pictures 3 rows columns"]) -> Made:
        """Encode as the stock model does, or as far as the method needs, with scores."""
        core, layer = self.model.model, self.model.config.vision_feature_layer
        if self.method is not None:
            return encode(core.vision_tower, pixels, self.settings, layer)
        hidden = core.vision_tower(pixels, output_hidden_states=True).hidden_states[layer]
        return hidden[:, 1:] if hidden.shape[1] > self.subject.patches else hidden

    def sent(self, made: Any) -> Sent:
        """Project what is sent of the pictures."""
        return pictures_sent(self.model, made, self.subject.patches)

    def visual(self, made: Tensor) -> Tensor:
        """Project all that the stock model encodes."""
        return self.model.model.multi_modal_projector(made)

    @torch.no_grad()
    def prefill(self, made: Any) -> dict[str, Any]:
        """Read the prompt; what decoding goes on from: its mask, cache and first new token."""
        mask = torch.ones_like(self.input_ids)
        if self.method is not None:
            arguments = {"input_ids": self.input_ids, "attention_mask": mask}
            short = shorten_inputs(
                self.model, arguments, [self.sent(made)], self.settings.positions
            )
            embeddings, mask = short.embeddings, short.arguments["attention_mask"]
        else:
            embeddings = self.model.get_input_embeddings()(self.input_ids)
            here = (self.input_ids == placeholder(self.subject))[..., None]
            embeddings = embeddings.masked_scatter(here, self.visual(made).to(embeddings.dtype))
        places = (mask.cumsum(dim=1) - 1).clamp(min=0)
        return self._step(mask, inputs_embeds=embeddings, position_ids=places)

    @torch.no_grad()
    def decode(self, state: dict[str, Any], new_tokens: int) -> Int[Tensor, "prompts new_tokens"]:
        """Go on to ``new_tokens`` tokens, greedily; leave ``state`` as it was."""
        mask, cache, tokens = state["mask"], state["cache"], [state["token"]]
        for _ in range(new_tokens - 1):
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            place = mask.sum(dim=1, keepdim=True) - 1
            step = {"input_ids": tokens[-1], "position_ids": place, "past_key_values": cache}
            tokens.append(self._step(mask, **step)["token"])
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
    """One case on a model whose pictures are tiles, or whose clips are frames.

    The stock model projects and packs them while it encodes.
    """

    changed = UNMARKED

    def preprocess(self) -> dict[str, Tensor]:
        """Turn pictures into tiles, or clips into frames, on the device."""
        frames, model = self.subject.frames, self.model
        if frames:
            shown = [own for own in self.images for _ in range(frames)]
            pixels = self.subject.image_processor(shown, return_tensors="pt")["pixel_values"]
            given = {"pixel_values_videos": pixels.unflatten(0, (len(self.images), frames))}
        else:
            shown = [own.resize((edge_of(model.config),) * 2) for own in self.images]
            given = dict(self.subject.image_processor(shown, return_tensors="pt"))
        floating = {name: v for name, v in given.items() if v.is_floating_point()}
        given |= {name: v.to(dtype=model.dtype) for name, v in floating.items()}
        return {name: v.to(model.device) for name, v in given.items()}

    @property
    def kind(self) -> str:
        """Whether pictures or clips are shown."""
        return "video" if self.subject.frames else "image"

    @torch.no_grad()
    def encode(self, pixels: dict[str, Tensor]) -> Packed | Float[Tensor, "slots width"]:
        """Encode as the stock model does, or as far as the method needs, with scores."""
        if self.method is None:
            stock = getattr(self.model.model, f"get_{self.kind}_features")(**pixels).pooler_output
            return torch.cat([own.flatten(0, -2) for own in stock])
        return family_of(self.model).pack(self.model, pixels, self.settings)[self.kind]

    def reduce(self, method: Method, seen: Packed) -> tuple[Packed, Reduction]:
        """Reduce tile by tile, or frame by frame; what was encoded knows how to project it."""
        parts = (dataclasses.replace(part, project=seen.project) for part in seen.parts)
        return seen, reduce_packed(dataclasses.replace(seen, parts=tuple(parts)), method)

    def sent(self, made: tuple[Packed, Reduction]) -> Sent:
        """Project what is sent of tiles or frames."""
        seen, reduction = made
        return sent_by(reduction, seen, placeholder(self.subject), self.kind)

    def visual(self, made: Tensor) -> Tensor:
        """All that the stock model shows is projected already."""
        return made

    def named(self, pixels: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is preprocessed has names."""
        return pixels


def answering_of(subject: Subject, case: Case) -> Answering:
    """Make what answers a case."""
    return (PackedAnswering if subject.packed else Answering)(subject, case)


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
    special = {
        picture,
        config.image_token_id,
        text.pad_token_id,
        text.bos_token_id,
        text.eos_token_id,
    }
    ordinary = torch.tensor([i for i in range(text.vocab_size) if i not in special])
    generator, size = torch.Generator().manual_seed(0), (case.batch, case.text_tokens)
    words = ordinary[torch.randint(len(ordinary), size, generator=generator)]
    words[:, 0] = words[:, 0] if text.bos_token_id is None else text.bos_token_id
    pictures = torch.full((case.batch, case.pictures * subject.shown.slots), picture)
    return torch.cat([words[:, :1], pictures, words[:, 1:]], dim=1)
