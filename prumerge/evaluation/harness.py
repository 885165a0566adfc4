"""LLaVA with reduced visual tokens, as a model of lmms-eval.

    lmms-eval --model prumerge_llava --model_args method=prumerge+,budget=64 --tasks ...

The harness's own LLaVA answers one question at a time and turns any exception into an empty
answer. This one batches, and an item that cannot be answered is named when all others are done.
"""

import atexit
import dataclasses
import sys
import time
from datetime import timedelta
from typing import Any

import datasets  # noqa: F401  lmms_eval imported first prints of a circular import
import lmms_eval.api.task  # noqa: F401  switches on what is switched off below
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, gather_object
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from PIL import Image, ImageFile
from tqdm import tqdm

from prumerge.asking import Answer
from prumerge.evaluation.answering import Answerer, picture_hash
from prumerge.evaluation.effort import Effort
from prumerge.evaluation.journal import Journal, key_of
from prumerge.evaluation.memory import reset_peak
from prumerge.evaluation.options import read
from prumerge.evaluation.requests import (
    Question,
    generation_of,
    in_colours,
    in_order,
    report,
)
from prumerge.models.loading import check_device
from prumerge.preprocessing import to_rgb, truncation_told
from prumerge.processes import end_process_group

ImageFile.LOAD_TRUNCATED_IMAGES = False  # lmms_eval.api.task has Pillow fill up with grey

PATIENCE = InitProcessGroupKwargs(timeout=timedelta(weeks=52))
"""Processes wait for each other while one prepares a data set or scores; ten minutes are usual."""


class PruMergeLlava(lmms):
    """A LLaVA that answers lmms-eval's requests in batches, sorted by length.

    Args:
        **arguments: Fields of :class:`prumerge.evaluation.options.Options` and of
            :class:`prumerge.Settings`, as texts or values.

    Attributes:
        options: The arguments, checked.
        answerer: The loaded model.
        efforts: By task, what its answers took.

    Raises:
        ValueError: If an argument is unknown or impossible.
    """

    is_simple = True

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.options = read(arguments)
        device = self.options.runs_on
        check_device(device)
        self.accelerator = Accelerator(cpu=device == "cpu", kwargs_handlers=[PATIENCE])
        self._rank, self._world_size = (
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        if self._world_size > 1:  # whoever launched them: our command, lmms-eval's, or a script
            atexit.register(end_process_group)
        if device == "cuda" and self._world_size > 1:
            device = f"cuda:{self.accelerator.local_process_index}"
        reset_peak(device)
        self.answerer = Answerer(self.options, device)
        self.journal = Journal(self.options.answers, f"{self.options.run}-{self._rank}")
        self.efforts: dict[str, Effort] = {}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.answerer.model.device

    @property
    def batch_size(self) -> int:
        """Questions answered at a time."""
        return self.options.batch_size

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer requests, in their order.

        Args:
            requests: As lmms-eval makes them for simple models.

        Returns:
            Text and token counts; the input tokens are those of the shortened prompt.

        Raises:
            RuntimeError: After all other requests are answered, if some could not be: each is
                named with its reason. With ``answers=FOLDER`` nothing done is lost.
        """
        answers: dict[int, Answer] = {}
        failures: list[str] = []
        known = 0
        named = {"desc": self.options.method, "unit": "question", "leave": False}
        # False would overrule the variable TQDM_DISABLE.
        bar = tqdm(total=len(requests), **named | ({"disable": True} if self._rank else {}))
        for chosen in in_order([r.args for r in requests], self.task_dict):
            for start in range(0, len(chosen), self.batch_size):
                batch = chosen[start : start + self.batch_size]
                found, fresh = self._answer({i: requests[i] for i in batch}, failures)
                answers |= found
                known += len(found) - fresh
                if known:
                    bar.set_postfix_str(f"{known} already answered", refresh=False)
                bar.update(len(batch))
        bar.close()
        if known and not self._rank:
            tqdm.write(
                f"{self.options.method}: {known} of {len(requests)} were already answered",
                file=sys.stderr,
            )
        if failures:
            raise RuntimeError(report(failures, len(answers), self.options.answers))
        return [
            GenerationResult(a.text, TokenCounts(a.input_tokens, a.output_tokens))
            for a in (answers[i] for i in range(len(requests)))
        ]

    def gather(self) -> None:
        """Bring the efforts of all processes together, on each of them."""
        if self._world_size > 1:
            mine, self.efforts = self.efforts, {}
            for efforts in gather_object([mine]):
                for task, effort in efforts.items():
                    self.efforts.setdefault(task, Effort()).add(effort)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not offered: the six benchmarks generate their answers."""
        raise NotImplementedError("prumerge_llava generates answers; it scores no given ones")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not offered: LLaVA-1.5's benchmarks have one round."""
        raise NotImplementedError("prumerge_llava answers in one round")

    def _answer(
        self, requests: dict[int, Instance], failures: list[str]
    ) -> tuple[dict[int, Answer], int]:
        """Answer requests of one task, those in the journal from there; count the new answers."""
        started = time.perf_counter()
        answers, waiting = {}, {}
        for index, request in requests.items():
            try:
                question = self._question(request)
            except Exception as error:  # whatever a broken item raises, the others go on
                context, _, _, number, task, split = request.args
                failures.append(
                    f"{task}, {split}, item {number} ({context[:60]!r}): "
                    f"{type(error).__name__}: {error}"
                )
                continue
            known = self.journal.find(question.key)
            if known is None:
                waiting[index] = question
            else:
                answers[index] = known
        if waiting:
            answers |= self._ask(waiting, started)
        for index, answer in answers.items():
            _, _, _, number, task, _ = requests[index].args
            effort = self.efforts.setdefault(task, Effort())
            effort.visual_tokens[number] = answer.visual_tokens
            effort.seconds += answer.seconds
            effort.fresh |= {number} if index in waiting else set()
        return answers, len(waiting)

    def _question(self, request: Instance) -> Question:
        context, raw, doc_to_visual, number, task, split = request.args
        with truncation_told():  # a data set decodes a row's pictures when the row is asked for
            row = self.task_dict[task][split][number]
            pictures = doc_to_visual(in_colours(row))
        if len(pictures) != 1 or not isinstance(pictures[0], Image.Image):
            raise ValueError(f"one picture is needed, the item has {len(pictures)}")
        prompt = self.answerer.prompt(context)
        generation, until = generation_of(raw)
        picture = to_rgb(pictures[0])
        key = key_of(
            model=self.answerer.identity,
            task=task,
            split=split,
            item=number,
            prompt=prompt,
            picture=picture_hash(picture),
            generation=generation,
            until=until,
        )
        return Question(key, task, number, picture, prompt, generation, until)

    def _ask(self, waiting: dict[int, Question], started: float) -> dict[int, Answer]:
        questions = list(waiting.values())
        first = questions[0]
        try:
            given = self.answerer.answer(
                [q.picture for q in questions],
                [q.prompt for q in questions],
                first.generation,
                first.until,
            )
        except Exception as error:
            items = [q.item for q in questions]
            note = f"while answering {len(questions)} items of {first.task}: {items}"
            if isinstance(error, MemoryError | torch.OutOfMemoryError):
                note += "; a smaller batch_size needs less memory"
            error.add_note(note)
            raise
        seconds = (time.perf_counter() - started) / len(questions)
        given = [dataclasses.replace(answer, seconds=seconds) for answer in given]
        self.journal.keep(
            (q.key, a, {"task": q.task, "item": q.item})
            for q, a in zip(questions, given, strict=True)
        )
        return dict(zip(waiting, given, strict=True))
