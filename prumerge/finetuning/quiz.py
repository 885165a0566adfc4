"""Held-out questions about scenes that are encoded once, for many models with one vision tower."""

import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from prumerge.asking import prompt_of
from prumerge.mini.benchmark import held_out, is_right
from prumerge.pictures import encode_pictures, grid_of, to_pixels

QUIZ_SEED = 6
"""Of the held-out questions: not those of the checkpoint's own scores."""


class Quiz:
    """Held-out questions, each about a picture of its own.

    Args:
        model: Encodes the pictures. Tuning leaves the tower alone, so that the result serves all
            models tuned from this one.
        processor: Its processor.
        per_family: Questions of each family.
        batch_size: Questions asked at a time.

    Attributes:
        families: Family of each question.
    """

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        processor: LlavaProcessor,
        per_family: int,
        batch_size: int = 25,
    ) -> None:
        grid = grid_of(model)
        items = held_out(per_family, grid, QUIZ_SEED)
        self.families = [item.question.family for item in items]
        self.truth = [item.question.answer for item in items]
        pixels = to_pixels(processor, [item.picture for item in items])
        self.encoded = encode_pictures(model, pixels)
        image = processor.image_token
        self.prompts = [
            prompt_of(processor, item.question.text).replace(image, image * grid**2)
            for item in items
        ]
        self.tokenizer, self.batch_size = processor.tokenizer, batch_size

    def ask(self, model: LlavaForConditionalGeneration) -> list[int]:
        """Ask a model with a reducer attached; return 1 for a right answer, 0 for a wrong one."""
        correct: list[int] = []
        for start in range(0, len(self.prompts), self.batch_size):
            chosen = slice(start, start + self.batch_size)
            inputs = self.tokenizer(self.prompts[chosen], return_tensors="pt", padding=True)
            with torch.no_grad():
                output = model.generate(
                    input_ids=inputs["input_ids"].to(model.device),
                    attention_mask=inputs["attention_mask"].to(model.device),
                    pixel_values=self.encoded.at(chosen).to(model.device, model.dtype),
                    max_new_tokens=8,
                    do_sample=False,
                )
            new = output[:, inputs["input_ids"].shape[1] :]
            given = self.tokenizer.batch_decode(new, skip_special_tokens=True)
            pairs = zip(given, self.truth[chosen], strict=True)
            correct += [int(is_right(text, truth)) for text, truth in pairs]
        return correct
