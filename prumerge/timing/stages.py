"""The stages of one answer as calls, one after another.

Shapes
    prompts  answered together
    length   tokens of one full prompt
"""

import dataclasses
from itertools import cycle, islice
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prumerge.encoder import Encoded
from prumerge.inputs import shorten_inputs
from prumerge.llava import attach
from prumerge.methods import resolve
from prumerge.pictures import load_pictures
from prumerge.reduction import Reduction
from prumerge.scores import encode
from prumerge.timing.subjects import Subject

FULL = "full"
"""The method's name for the stock model, with nothing attached."""

DRAWN = 12  # different pictures in a batch: scenes with 1 to 12 objects

STAGES = ("preprocess", "encode", "reduce", "prefill", "decode", "whole")


@dataclasses.dataclass(frozen=True)
class Case:
    """What is asked of a model.

    Args:
        method: A registered method, or ``full`` for the stock model.
        budget: Visual tokens sent per picture; None with ``full``, or to let the picture decide.
        batch: Prompts answered together, one picture each.
        text_tokens: Text tokens of a prompt, the opening one included.
        new_tokens: Output lengths to time; decoding starts with the second token.
    """

    method: str = FULL
    budget: int | None = None
    batch: int = 1
    text_tokens: int = 40
    new_tokens: tuple[int, ...] = (64,)


Made = Encoded | Float[Tensor, "pictures patches width"]


class Answering:
    """One case on one model: its pictures, prompts and method.

    Args:
        subject: The model.
        case: What is asked.
    """

    def __init__(self, subject: Subject, case: Case) -> None:
        self.subject, self.model, self.case = subject, subject.model, case
        drawn = [picture.image for picture in load_pictures(None, min(case.batch, DRAWN))]
        self.images = list(islice(cycle(drawn), case.batch))
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
            how = (self.subject.patches, self.settings.positions)
            short = shorten_inputs(self.model, arguments, made, *how)
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
    """Make full prompts: an opening token, a picture's placeholders, words drawn at random.

    Args:
        subject: Its vocabulary is used, special tokens left out.
        case: Batch and number of text tokens.

    Returns:
        Token ids.

    Raises:
        ValueError: If there is no text token or no prompt.
    """
    if case.text_tokens < 1 or case.batch < 1:
        raise ValueError(
            f"text_tokens and batch must be at least 1, got {case.text_tokens} and {case.batch}"
        )
    config = subject.model.config
    text, picture = config.text_config, config.image_token_id
    special = {picture, text.pad_token_id, text.bos_token_id, text.eos_token_id}
    ordinary = torch.tensor([i for i in range(text.vocab_size) if i not in special])
    drawn = torch.randint(
        len(ordinary),
        (case.batch, case.text_tokens),
        generator=torch.Generator().manual_seed(0),
    )
    words = ordinary[drawn]
    words[:, 0] = words[:, 0] if text.bos_token_id is None else text.bos_token_id
    pictures = torch.full((case.batch, subject.patches), picture)
    return torch.cat([words[:, :1], pictures, words[:, 1:]], dim=1)
