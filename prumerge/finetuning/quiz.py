"""Held-out questions about scenes that are encoded once, for many models with one vision tower."""

from transformers import LlavaForConditionalGeneration, LlavaProcessor

from prumerge.asking import Answer, ask, prompt_of
from prumerge.methods import Method
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
        self.prompts = [prompt_of(processor, item.question.text) for item in items]
        self.processor, self.batch_size = processor, batch_size

    def ask(self, model: LlavaForConditionalGeneration, method: Method) -> tuple[list[int], int]:
        """Ask a model; return 1 or 0 per answer, right or wrong, and visual tokens sent."""
        answers: list[Answer] = []
        for start in range(0, len(self.prompts), self.batch_size):
            chosen = slice(start, start + self.batch_size)
            prompts, pictures = self.prompts[chosen], self.encoded.at(chosen)
            pictures = pictures.to(model.device, model.dtype)
            how = (pictures, prompts, range(len(prompts)), method)
            answers += ask(model, self.processor, *how, max_new_tokens=8)
        pairs = zip(answers, self.truth, strict=True)
        return [int(is_right(reply.text, truth)) for reply, truth in pairs], answers[
            0
        ].visual_tokens
