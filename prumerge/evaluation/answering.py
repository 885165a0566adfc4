"""Questions about pictures, answered in batches whose pictures send unequal numbers of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from prumerge.asking import prompt_of
from prumerge.attachment import Attachment
from prumerge.evaluation.options import Options
from prumerge.evaluation.sharing import distinct, picture_arguments
from prumerge.llava import attach
from prumerge.methods import Method
from prumerge.models import load
from prumerge.models.adapters import adapter_fingerprint, apply_adapter
from prumerge.models.loading import fingerprint
from prumerge.models.random_weights import RANDOM, build
from prumerge.preprocessing import prepare

VICUNA_V1 = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. "
)
"""What LLaVA-1.5 was trained and evaluated with in front of each conversation."""


@dataclass(frozen=True)
class Answer:
    """An answer and what it took.

    Attributes:
        text: The answer, stripped; may be empty where the model says nothing.
        visual_tokens: Visual tokens the language model saw.
        input_tokens: Length of the prompt that the language model read, visual tokens included.
        output_tokens: Tokens generated, the end token included.
        seconds: Its share of the time its batch took. Equal answers may have taken unequal times.
    """

    text: str
    visual_tokens: int
    input_tokens: int
    output_tokens: int
    seconds: float = field(default=0.0, compare=False)


class Answerer:
    """A loaded LLaVA with the method attached, ready for batches of questions.

    Args:
        options: Which model, how reduced, how asked.
        device: Where it runs.

    Attributes:
        model: The model.
        processor: Its processor.
        attachment: The reducer at work; None for the stock model.
        identity: What decides an answer besides the question: weights, method, settings, precision,
            picture handling. Equal identities may share a journal.
    """

    def __init__(self, options: Options, device: str) -> None:
        self.options = options
        make = build if options.pretrained in RANDOM else load
        self.model, self.processor = make(options.pretrained, device, options.dtype)
        adapter = options.adapter
        if adapter:
            self.model = apply_adapter(self.model, adapter, options.do_pad)
        self.attachment: Attachment | None = None
        reducer = self.use(options.reducer())
        self.identity: dict[str, Any] = {
            "pretrained": options.pretrained,
            "weights": fingerprint(options.pretrained, self.model),
            "method": options.method,
            "settings": vars(reducer.settings) if reducer else None,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "do_pad": options.do_pad,
            "conversation": options.conversation,
            "adapter": f"{adapter} ({adapter_fingerprint(adapter)})" if adapter else None,
        }
        if options.module:  # another version of the method gives other answers
            self.identity["module"] = Path(options.module).read_text(encoding="utf-8")

    def use(self, reducer: Method | None) -> Method | None:
        """Let a method reduce the pictures from now on, or none; hand it back."""
        if self.attachment is not None:
            self.attachment.detach()
        self.attachment = attach(self.model, reducer) if reducer else None
        return reducer

    def prompt(self, question: str) -> str:
        """Put a question into the model's conversation, one picture in front.

        Raises:
            ValueError: If the prompt does not show exactly one picture.
        """
        prompt = prompt_of(self.processor, question)
        if self.options.conversation == "vicuna_v1":
            prompt = VICUNA_V1 + prompt
        shown = prompt.count(self.processor.image_token)
        if shown != 1:
            raise ValueError(
                f"the prompt has {shown} {self.processor.image_token} instead of one: {prompt!r}"
            )
        return prompt

    def answer(
        self,
        pictures: Sequence[Image.Image],
        prompts: Sequence[str],
        generation: dict[str, Any],
        until: Sequence[str] = (),
    ) -> list[Answer]:
        """Answer one prompt about each picture, greedily.

        Args:
            pictures: Pictures, red green blue.
            prompts: As made by :meth:`prompt`.
            generation: For ``generate``, such as ``max_new_tokens``.
            until: Texts before which an answer ends.

        Returns:
            As many answers. They do not depend on which questions share a batch, except for
            methods that pool over it (``pooling="batch"``) and for rounding in half precision.
        """
        shown, places = distinct(pictures)
        shown = prepare(self.processor, shown, self.options.do_pad)
        inputs, pixels = self._prepare(shown, places.tolist(), prompts)
        with torch.inference_mode():
            inputs |= picture_arguments(self.model, self.attachment, pixels, places)
            output = self.model.generate(**inputs, do_sample=False, **generation)
        new = output[:, inputs["input_ids"].shape[1] :].cpu()
        if self.attachment is None:
            visual = (inputs["input_ids"] == self.model.config.image_token_id).sum(dim=1).tolist()
            mask = inputs["attention_mask"]
        else:
            visual, mask = self.attachment.kept, self.attachment.prompts.attention_mask
        texts = self.processor.batch_decode(new, skip_special_tokens=True)
        return [
            Answer(_ended(text, until), *counts)
            for text, *counts in zip(
                texts, visual, mask.sum(dim=1).tolist(), self._lengths(new), strict=True
            )
        ]

    def _prepare(
        self, shown: list[Image.Image], places: list[int], prompts: Sequence[str]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Prepare each picture once, and all prompts with a picture's room in each."""
        mark = self.processor.image_token
        # The processor wants as many prompts as pictures; it tells how much room one takes.
        first = [prompts[places.index(place)] for place in range(len(shown))]
        seen = self.processor(images=shown, text=first, padding=True, return_tensors="pt")
        room = int((seen["input_ids"][0] == self.model.config.image_token_id).sum())
        texts = [prompt.replace(mark, mark * room) for prompt in prompts]
        words = self.processor.tokenizer(texts, padding=True, return_tensors="pt")
        device = self.model.device
        inputs = {name: words[name].to(device) for name in ("input_ids", "attention_mask")}
        return inputs, seen["pixel_values"].to(device, self.model.dtype)

    def _lengths(self, new: torch.Tensor) -> list[int]:
        ends = self.model.generation_config.eos_token_id
        ends = torch.tensor([] if ends is None else ends).reshape(-1)
        ended = torch.isin(new, ends)
        # The end token counts; what follows it is padding.
        return (ended.cumsum(dim=1) - ended.int() == 0).sum(dim=1).tolist()


def _ended(text: str, until: Sequence[str]) -> str:
    for stop in until:
        text = text.split(stop)[0] if stop else text
    return text.strip()
