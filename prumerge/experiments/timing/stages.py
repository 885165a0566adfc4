"""What is timed: a model, and the stages of one answer as calls, one after another.

Speed does not depend on the values of weights, so LLaVA-1.5 can be timed without its checkpoint. In
shapes, ``prompts`` are answered together, and ``length`` is the tokens of one full prompt.
"""

import dataclasses
from itertools import cycle, islice
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from prumerge.encoder import Encoded
from prumerge.methods import resolve
from prumerge.mini.pictures import load_pictures
from prumerge.models import load
from prumerge.models.attachment import attach
from prumerge.models.inputs import pictures_sent, shorten_inputs
from prumerge.models.loading import patches_of
from prumerge.models.random_weights import RANDOM, build, known_name
from prumerge.reduction import Reduction
from prumerge.scores import encode
from prumerge.settings import suggestion

FULL = "full"
"""The method's name for the stock model, with nothing attached."""

DRAWN = 12  # different pictures in a batch: scenes with 1 to 12 objects

STAGES = ("preprocess", "encode", "reduce", "prefill", "decode", "whole")
ATTENTION = ("sdpa", "eager", "flash_attention_2")


@dataclasses.dataclass(frozen=True)
class Subject:
    """A LLaVA to time, on its device; ``weights`` are called ``trained`` or ``random``."""

    name: str
    weights: str
    model: LlavaForConditionalGeneration
    image_processor: Any

    @property
    def device(self) -> str:
        """Where the model lives."""
        return str(self.model.device)

    @property
    def patches(self) -> int:
        """Visual tokens of one picture."""
        return patches_of(self.model)

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
    command). ``dtype`` of None is float32 on a CPU, bfloat16 elsewhere. ``layers`` cuts random
    weights to so many language layers (and vision layers, at least 3), to try the path where the
    whole does not fit; such rows say so. ValueError tells what does not exist.
    """
    name = known_name(name)
    if not (name.startswith("random-") or name.endswith("-random")):
        if layers is not None:
            raise ValueError(f"layers={layers} cuts random weights only, such as random-7b")
        model, processor = load(name, device, dtype)
        return Subject(name, "trained", model, processor.image_processor)
    shape = name.removeprefix("random-").removesuffix("-random")
    if name not in RANDOM:
        raise ValueError(f"no shape {name!r}: {suggestion(f'random-{shape}', list(RANDOM))}")
    model, processor = build(name, device, dtype, layers)
    # Rows call it as those do that are committed.
    return Subject(f"{shape}-random", "random", model, processor.image_processor)


@dataclasses.dataclass(frozen=True)
class Case:
    """What is asked of a model: a registered method, or ``full`` for the stock model.

    ``budget`` is None with ``full``, or to let the picture decide; ``text_tokens`` count the
    opening one; ``new_tokens`` are output lengths, of which decoding starts with the second token.
    ``pictures`` stand in each prompt, ``budget`` being of one of them: five pictures at 576 tokens
    cost what LLaVA-NeXT's 2,880 of a picture and its four tiles do.
    """

    method: str = FULL
    budget: int | None = None
    batch: int = 1
    text_tokens: int = 40
    new_tokens: tuple[int, ...] = (64,)
    pictures: int = 1


Made = Encoded | Float[Tensor, "pictures patches width"]


class Answering:
    """One case on one model: its pictures, prompts and method."""

    def __init__(self, subject: Subject, case: Case) -> None:
        self.subject, self.model, self.case = subject, subject.model, case
        count = case.batch * case.pictures
        drawn = [picture.image for picture in load_pictures(None, min(count, DRAWN))]
        self.images = list(islice(cycle(drawn), count))
        self.input_ids = prompts(subject, case).to(subject.model.device)
        self.method = None
        if case.method != FULL:
            method = resolve(case.method, budget=case.budget)
            # A method that works behind the projector gets it, as it does inside attach.
            projector = self.model.model.multi_modal_projector
            self.method = lambda seen: method(dataclasses.replace(seen, project=projector))
            self.settings = method.settings

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

    @torch.no_grad()
    def prefill(self, made: Reduction | Float[Tensor, "pictures patches width"]) -> dict[str, Any]:
        """Read the prompt; what decoding goes on from: its mask, cache and first new token."""
        mask = torch.ones_like(self.input_ids)
        if isinstance(made, Reduction):
            arguments = {"input_ids": self.input_ids, "attention_mask": mask}
            sent = pictures_sent(self.model, made, self.subject.patches)
            short = shorten_inputs(self.model, arguments, [sent], self.settings.positions)
            embeddings, mask = short.embeddings, short.arguments["attention_mask"]
        else:
            visual = self.model.model.multi_modal_projector(made)
            embeddings = self.model.get_input_embeddings()(self.input_ids)
            here = (self.input_ids == self.model.config.image_token_id)[..., None]
            embeddings = embeddings.masked_scatter(here, visual.to(embeddings.dtype))
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
        inputs = {"pixel_values": self.preprocess(), "input_ids": self.input_ids}
        inputs["attention_mask"] = torch.ones_like(self.input_ids)
        lengths = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}
        if self.method is None:
            return self.model.generate(**inputs, **lengths)
        with attach(self.model, self.case.method, budget=self.case.budget):
            return self.model.generate(**inputs, **lengths)


def prompts(subject: Subject, case: Case) -> Int[Tensor, "prompts length"]:
    """Make full prompts: an opening token, the pictures' placeholders, words drawn at random."""
    for name in ("text_tokens", "batch", "pictures"):
        if (value := getattr(case, name)) < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    config = subject.model.config
    text, picture = config.text_config, config.image_token_id
    special = {picture, text.pad_token_id, text.bos_token_id, text.eos_token_id}
    ordinary = torch.tensor([i for i in range(text.vocab_size) if i not in special])
    generator, size = torch.Generator().manual_seed(0), (case.batch, case.text_tokens)
    words = ordinary[torch.randint(len(ordinary), size, generator=generator)]
    words[:, 0] = words[:, 0] if text.bos_token_id is None else text.bos_token_id
    pictures = torch.full((case.batch, case.pictures * subject.patches), picture)
    return torch.cat([words[:, :1], pictures, words[:, 1:]], dim=1)
