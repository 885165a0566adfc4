"""A LLaVA, or a model of another family, with reduced visual tokens, as a model of lmms-eval.

    lmms-eval --model prumerge_llava --model_args method=prumerge+,budget=64 --tasks ...

The harness's own LLaVA answers one question at a time and turns any exception into an empty
answer. This one batches, and an item that cannot be answered is named when all others are done.
"""

import atexit
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Hashable, Sequence
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

from prumerge.experiments.evaluation.answering import Answerer, Journal, key_of, picture_hash
from prumerge.experiments.evaluation.memory import reset_peak
from prumerge.experiments.evaluation.options import read
from prumerge.experiments.processes import end_process_group
from prumerge.models.asking import Answer
from prumerge.models.loading import check_device
from prumerge.models.preprocessing import to_rgb, truncation_told

ImageFile.LOAD_TRUNCATED_IMAGES = False  # lmms_eval.api.task has Pillow fill up with grey

PATIENCE = InitProcessGroupKwargs(timeout=timedelta(weeks=52))
"""Processes wait for each other while one prepares a data set or scores; ten minutes are usual."""

DEFAULT_NEW_TOKENS = 128  # as LLaVA-1.5's own evaluation, where a task names no limit
_SHOWN_FAILURES = 5
PICTURE_COLUMNS = ("image_id", "image_source", "question_id")
"""Columns that name a picture: of VQAv2 and TextVQA, of POPE, of MME."""


def no_bar(*arguments: Any, **options: Any) -> tqdm:
    """Stand in for the bar of the harness's scoring, which shows even where TQDM_DISABLE is set."""
    return tqdm(*arguments, **options | {"disable": True})


@dataclasses.dataclass
class Effort:
    """What the answers of one task took: visual tokens by item, seconds, and the new items."""

    visual_tokens: dict[int, int] = dataclasses.field(default_factory=dict)
    fresh: set[int] = dataclasses.field(default_factory=set)
    seconds: float = 0.0

    def add(self, other: "Effort") -> None:
        """Add what another process did at the same time."""
        self.visual_tokens |= other.visual_tokens
        self.fresh |= other.fresh
        self.seconds = max(self.seconds, other.seconds)


def summary(efforts: Sequence[Effort]) -> dict[str, Any]:
    """Return tokens per picture and speed of some tasks together, as columns of a row.

    Answers from a journal count with the seconds they took when they were given.
    """
    tokens = [count for effort in efforts for count in effort.visual_tokens.values()]
    # The harness asks some items twice where they do not share out evenly between processes.
    fresh, seconds = sum(len(e.fresh) for e in efforts), sum(e.seconds for e in efforts)
    return {
        "items": len(tokens),
        "tokens_mean": statistics.fmean(tokens) if tokens else None,
        "tokens_min": min(tokens, default=None),
        "tokens_max": max(tokens, default=None),
        "fresh_items": fresh,
        "seconds": seconds,
        "images_per_s": len(tokens) / seconds if seconds else None,
    }


@dataclasses.dataclass(frozen=True)
class Question:
    """A request with its picture, ready to be asked; ``key`` names it in the journal."""

    key: str
    task: str
    item: int
    picture: Image.Image
    prompt: str
    generation: dict[str, Any]
    until: list[str]


class PruMergeLlava(lmms):
    """A model that answers lmms-eval's requests in batches, sorted by length.

    It takes what ``options.read`` does; ``efforts`` holds by task what its answers took.
    """

    is_simple = True

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.options = read(arguments)
        device = self.options.runs_on
        check_device(device)
        self.accelerator = Accelerator(cpu=device == "cpu", kwargs_handlers=[PATIENCE])
        self._rank = self.accelerator.process_index
        self._world_size = self.accelerator.num_processes
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
        return self.answerer.model.device

    @property
    def batch_size(self) -> int:
        return self.options.batch_size

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer requests, in their order; input tokens are those of the shortened prompt.

        A RuntimeError names those that cannot be answered, after all others are.
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
        asked = {"prompt": prompt, "generation": generation, "until": until}
        place = {"task": task, "split": split, "item": number}
        key = key_of(model=self.answerer.identity, picture=picture_hash(picture), **place, **asked)
        return Question(key, task, number, picture, **asked)

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


def in_colours(value: Any) -> Any:
    """Turn the pictures in a row into red, green and blue before a task of lmms-eval does.

    Its ``convert("RGB")`` lays transparent parts on black and makes 16-bit greys white.
    """
    if isinstance(value, Image.Image):
        return to_rgb(value)
    if isinstance(value, dict):
        return {name: in_colours(part) for name, part in value.items()}
    return [in_colours(part) for part in value] if isinstance(value, list) else value


def in_order(requests: Sequence[tuple[Any, ...]], data: dict[str, Any]) -> list[list[int]]:
    """Sort requests into groups of equal task, split and options, which can share batches.

    Questions about one picture stand together, so that it is encoded once, and pictures with long
    ones come first: too large a batch then fails at once, and the time left is overestimated.
    """
    groups: dict[tuple[str, str, str], list[int]] = {}
    for place, (_, raw, _, _, task, split) in enumerate(requests):
        options = json.dumps(raw, sort_keys=True, default=str)
        groups.setdefault((task, split, options), []).append(place)
    ordered = []
    for (task, split, _), places in sorted(groups.items()):
        names = picture_names(data[task][split])
        longest: dict[Hashable, int] = {}
        shown = {}
        for place in places:
            context, _, _, number, *_ = requests[place]
            shown[place] = name = number if names is None else names[number]
            longest[name] = max(longest.get(name, 0), len(context))
        # The name settles ties as text, since columns hold numbers or texts.
        ordered.append(sorted(places, key=lambda p: (-longest[shown[p]], str(shown[p]), p)))
    return ordered


def picture_names(rows: Any) -> list[Hashable] | None:
    """Name the picture of each row, without opening it; None where no column names them."""
    columns = getattr(rows, "column_names", ())
    column = next((name for name in PICTURE_COLUMNS if name in columns), None)
    return None if column is None else list(rows[column])


def generation_of(raw: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Turn a task's generation options into those of ``generate``, and the texts that end answers.

    Sampled answers would depend on the batch: wanting them is a ValueError.

    Example:
        >>> generation_of({"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "until": "\\n\\n"})
        ({'max_new_tokens': 16}, ['\\n\\n'])
    """
    options = dict(raw)
    if options.pop("do_sample", False) or (options.pop("temperature", 0) or 0) > 0:
        raise ValueError("sampled answers are not offered: set temperature: 0 and do_sample: false")
    until = options.pop("until", None) or []
    # Of no effect on a search without sampling, or meant for the authors' own LLaVA code.
    for name in ("top_p", "top_k", "temperature", "image_aspect_ratio"):
        options.pop(name, None)
    options.setdefault("max_new_tokens", DEFAULT_NEW_TOKENS)
    return options, [until] if isinstance(until, str) else list(until)


def report(failures: list[str], done: int, folder: str | None) -> str:
    """Put in words which items could not be answered, the first few with their reasons."""
    shown = "\n  ".join(failures[:_SHOWN_FAILURES])
    more = len(failures) - _SHOWN_FAILURES
    kept = f"kept in {folder}" if folder else "not kept: give answers=FOLDER"
    return (
        f"{len(failures)} of {len(failures) + done} items cannot be answered:\n  {shown}"
        + (f"\n  and {more} more" if more > 0 else "")
        + f"\nThe answers to the other {done} are {kept}."
    )
