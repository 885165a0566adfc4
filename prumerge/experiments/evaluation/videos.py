"""Questions about videos: ``python -m prumerge.experiments.evaluation.videos``.

A model that is shown clips (Video-LLaVA, LLaVA-NeXT-Video, LLaVA-OneVision, InternVL, Qwen2-VL,
Qwen2.5-VL, Qwen3-VL), with reduced visual tokens, as a model of lmms-eval, and tasks in the form of
MSVD-QA, MSRVTT-QA and ActivityNet-QA (``video``, ``question``, ``answer``), which lmms-eval 0.7.3
has not, or, the last one, scores by a judge that wants a key. Here an answer is right if it is the
true one after lmms-eval's own normalisation of VQA answers. That is stricter than the judge of the
papers, who lets other words for the same thing pass: no number of this is to be held against
theirs.

    python -m prumerge.experiments.evaluation.videos method=prumerge budget=256 --tasks mini_videos
    python -m prumerge.experiments.evaluation.videos pretrained=LanguageBind/Video-LLaVA-7B-hf \\
        device=cuda method=prumerge --tasks prumerge_msvdqa

Prompts of Qwen2.5-VL and Qwen3-VL hold the times of frames: a GIF's own, or those of ``fps`` frames
per second (24 unless given), which the rows name where a clip told no times.

The drawn tasks are ready. The real ones read ``$PRUMERGE_DATA/MSVD-QA/test.json`` (a list of rows)
and the frames of each video in ``$PRUMERGE_DATA/MSVD-QA/videos/NAME``, a folder of pictures or a
GIF; likewise MSRVTT-QA and ActivityNet-QA. All questions that are published have to be there, and
all videos; ``--limit`` asks some, and rows name it. With ``answers=FOLDER`` a run that was stopped
and is started again asks only what is not answered yet.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from prumerge import attach
from prumerge.experiments.arguments import named_values
from prumerge.mini.clip_questions import ClipItem, held_out_clips
from prumerge.models.adapters import adapter_fingerprint, apply_adapter
from prumerge.models.asking import Answer
from prumerge.models.checks import needs
from prumerge.models.clip_files import (
    FRAMES,
    SHOWN_MS,
    FrameFiles,
    evenly_spaced,
    open_frames,
    tells_times,
)
from prumerge.models.loading import fingerprint
from prumerge.models.videos import VideoProcessor, clip_inputs, frame_rate, load_video
from prumerge.paths import DATA, written_whole
from prumerge.roofline import shown_by

with needs("eval"):
    import datasets  # noqa: F401  lmms_eval imported first prints of a circular import
    import lmms_eval.api.task  # noqa: F401
    import pandas as pd
    from lmms_eval import evaluator
    from lmms_eval.api.instance import Instance
    from lmms_eval.api.model import lmms
    from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor
    from loguru import logger

    from prumerge.experiments.evaluation.answering import Journal, ended, key_of, picture_hash
    from prumerge.experiments.evaluation.harness import generation_of, no_bar
    from prumerge.experiments.evaluation.tasks import (
        FOLDER_VARIABLE,
        REAL_PREFIX,
        task_manager,
        tasks_named,
    )
    from prumerge.experiments.rows import provenance, write_csv
    from prumerge.experiments.statistics import wilson

TASKS = Path(__file__).parent / "video_tasks"
DRAWN = {
    "mini_msvdqa": ("appearance", "motion"),
    "mini_msrvttqa": ("order", "sign"),
    "mini_activitynetqa": ("blinks", "arrivals"),
}
"""Drawn tasks, and the families of questions in each."""

REAL = {"MSVD-QA": "msvdqa", "MSRVTT-QA": "msrvttqa", "ActivityNet-QA": "activitynetqa"}
PUBLISHED = {"MSVD-QA": 13_157, "MSRVTT-QA": 72_821, "ActivityNet-QA": 8_000}
"""Questions that the publishers state, of the test split."""

SHOWN = "task items limit mean low high tokens_mean fps".split()
PER_FAMILY = 20
FULL = "full"  # no reduction
_NORMALISED = EvalAIAnswerProcessor()


class PruMergeVideo(lmms):
    """A model that answers lmms-eval's requests, each about one video of equally many frames.

    ``method`` and its settings are those of :func:`prumerge.attach`; ``full`` sends all tokens. A
    budget is a video's. To an InternVL each frame is a picture: all get the same part of a budget
    in tokens, rounded down, at least 1. ``frames`` and ``fps`` are as in
    :func:`prumerge.models.videos.clip_inputs`; ``adapter`` is a tuned one, see
    :func:`prumerge.models.adapters.apply_adapter`. Answers found in the folder ``answers`` are not
    asked for again; ``identity`` is all that an answer depends on but the question.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = "mini-video",
        method: str = FULL,
        device: str = "cpu",
        dtype: str | None = None,
        frames: int = FRAMES,
        fps: int | float | None = None,
        adapter: str | None = None,
        answers: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        if not isinstance(frames, int) or isinstance(frames, bool) or frames < 1:
            raise ValueError(f"frames={frames!r}: give how many of a clip are shown, such as 8")
        if method == FULL and settings:
            raise ValueError(f"method='full' sends all tokens and takes no {', '.join(settings)}")
        self.model, self.processor = load_video(pretrained, device, dtype, any_family=True)
        if adapter:
            self.model = apply_adapter(self.model, adapter, do_pad=None)
        self.frames, self.fps = frames, frame_rate(self.processor, fps)
        self.kept, self.rates = [], []
        self.reducer = None if method == FULL else attach(self.model, method, **settings)
        self._apart = self.model.config.model_type == "internvl"  # frames are pictures of their own
        self.identity = {
            "model": str(pretrained),
            "weights": fingerprint(pretrained, self.model),
            "adapter": f"{adapter} ({adapter_fingerprint(adapter)})" if adapter else None,
            "method": method,
            **(vars(self.reducer.settings) if self.reducer else {}),
            "frames": frames,
            "fps": self.fps,
            "dtype": str(self.model.dtype).removeprefix("torch."),
        }
        self.journal = Journal(answers)

    @property
    def batch_size(self) -> int:
        return 1

    def clean(self) -> None:
        """Keep the model for the next task; the harness drops it after each."""

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answer requests in their order; what cannot be answered is named at once."""
        bar = tqdm(requests, desc=self.identity["method"], unit="question", leave=False)
        return [self._answer(*request.args) for request in bar]

    def _answer(
        self, context: str, raw: dict, visual: Any, item: int, task: str, split: str
    ) -> str:
        options, until = generation_of(raw)
        try:
            (shown,) = visual(self.task_dict[task][split][item])
            asked = {"task": task, "split": split, "item": item, "prompt": context}
            count = min(self.frames, len(shown))
            clip = [(picture_hash(f), f.info.get(SHOWN_MS)) for f in evenly_spaced(shown, count)]
            asked |= {"clip": clip, "of": len(shown)}
            key = key_of(model=self.identity, generation=options, **asked)
            answer = self.journal.find(key)
            if answer is None:
                inputs = clip_inputs(self.processor, context, shown, self.frames, self.fps)
                answer = self._ask(inputs, count, options)
                self.journal.keep([(key, answer, {"task": task, "item": item})])
        except ValueError as error:
            raise ValueError(f"{task}, item {item}: {error}") from error
        self.kept.append(answer.visual_tokens)
        self.rates.append(None if tells_times(shown) else self.fps)
        return ended(answer.text, until)

    @torch.no_grad()
    def _ask(self, inputs: Mapping[str, Any], frames: int, options: dict[str, Any]) -> Answer:
        reducer = self.reducer
        if self._apart and reducer and isinstance(budget := reducer.settings.budget, int):
            reducer = attach(self.model, reducer.method, budget=max(budget // frames, 1))
        output = self.model.generate(**inputs.to(self.model.device), **options, do_sample=False)
        ids = inputs["input_ids"]
        new = output[:, ids.shape[1] :]
        text = self.processor.batch_decode(new, skip_special_tokens=True)[0]
        kept = sum(reducer.kept) if reducer else self._tokens(ids, frames)
        read = reducer.prompts.input_ids if reducer else ids
        return Answer(text, kept, read.shape[1], new.shape[1])

    def told(self) -> dict[str, Any]:
        """Return what the task's answers took and depend on, as columns of a row."""
        # Clips that tell their times need none assumed.
        assumed = {"fps": max(filter(None, self.rates), default=None)}
        came_from = provenance(str(self.model.device)) | {"lmms_eval": version("lmms-eval")}
        mean = sum(self.kept) / len(self.kept)
        return {"tokens_mean": mean, **self.identity, **assumed, **came_from}

    def _tokens(self, ids: Int[Tensor, "1 length"], frames: int) -> int:
        """Count visual tokens: placeholders without markers."""
        config, markers = self.model.config, 0
        if isinstance(self.processor, VideoProcessor):
            markers = shown_by(config, frames=frames).markers
        token = config.image_token_id if self._apart else config.video_token_id
        return int((ids == token).sum()) - markers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not offered."""
        raise NotImplementedError("videos are asked about; no given answers are scored")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not offered."""
        raise NotImplementedError("videos are asked about in one round")


@cache
def _drawn() -> list[ClipItem]:
    return held_out_clips(PER_FAMILY)


def drawn_visual(row: dict[str, Any]) -> list[list[Image.Image]]:
    """Draw the clip that a row of a drawn task names by its number."""
    return [[Image.fromarray(frame) for frame in _drawn()[int(row["video"])].clip.pixels]]


def real_visual(row: dict[str, Any], name: str) -> list[Sequence[Any]]:
    """Find the frames of the video that a row names; a folder's are read when they are shown."""
    video = _folder(name) / "videos" / str(row["video"])
    return [FrameFiles(video) if video.is_dir() else open_frames(video)]


def to_text(row: dict[str, Any], lmms_eval_specific_kwargs: dict | None = None) -> str:
    """Return the question, with what a task puts behind it."""
    behind = (lmms_eval_specific_kwargs or {}).get("post_prompt", "")
    return f"{row['question']}{behind}"


def process(row: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score an answer: 1 if it is the true one after lmms-eval's normalisation of VQA answers."""
    said, truth = (_NORMALISED(str(text)) for text in (results[0], row["answer"]))
    return {"exact_match": float(said == truth)}


def _folder(name: str) -> Path:
    if not (folder := os.environ.get(FOLDER_VARIABLE)):
        raise ValueError(f"{name} is not here: {FOLDER_VARIABLE} names the folder that holds it")
    return Path(folder).resolve() / name


def _check_here(name: str) -> None:
    """Refuse a real data set of which a question, or a video, is missing or no row."""
    folder = _folder(name)
    file = folder / "test.json"
    if not file.exists():
        raise ValueError(f"there is no {file}: it lists video, question and answer of each")
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is cut off, or no list of rows ({error})") from error
    for number, row in enumerate(rows):
        for column in ("video", "question", "answer"):
            if not isinstance(row, dict) or row.get(column) in (None, ""):
                raise ValueError(f"{file}, row {number}, has no {column}: it cannot be scored")
    if len(rows) != PUBLISHED[name]:
        raise ValueError(
            f"{file} has {len(rows)} questions, {PUBLISHED[name]} are published: a part is "
            "missing, or it is another one"
        )
    named = sorted({str(row["video"]) for row in rows})
    if absent := [video for video in named if not (folder / "videos" / video).exists()]:
        raise ValueError(
            f"{folder / 'videos'} lacks {len(absent)} of {len(named)} videos, {absent[0]} among "
            "them: each is a folder of frames, or a GIF"
        )


def __getattr__(name: str) -> Any:
    """Find what task files name: MSVDQA_FILES and msvdqa_visual and so on."""
    for published, short in REAL.items():
        if name == f"{short}_visual":
            return lambda row: real_visual(row, published)
        if name == f"{short.upper()}_FILES":
            return {"data_files": {"test": str(_folder(published) / "test.json")}}
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def write_drawn(folder: Path = DATA / "mini-tasks") -> None:
    """Write the questions of the drawn tasks; the clips are drawn when they are asked about."""
    for task, families in DRAWN.items():
        rows = [
            {"video": str(number), "question": item.question.text, "answer": item.question.answer}
            for number, item in enumerate(_drawn())
            if item.question.family in families
        ]
        with written_whole(folder / f"{task.removeprefix('mini_')}.json") as partial:
            partial.write_text(json.dumps(rows, indent=0) + "\n")


def evaluate(tasks: Sequence[str], limit: int | None = None, **arguments: Any) -> pd.DataFrame:
    """Return a row per task: the share that is right with its interval, and tokens per video.

    Behind these stands what the score depends on, by column: ``limit``, model, settings, versions.
    """
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    manager = task_manager(TASKS)
    names = [own for name in tasks for own in (DRAWN if name == "mini_videos" else (name,))]
    known = sorted(path.stem for path in TASKS.glob("*.yaml"))
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"unknown task {unknown[0]!r}: there are {', '.join(known)} and mini_videos"
        )
    names = tasks_named(names, manager, limit)
    for published, short in REAL.items():
        if REAL_PREFIX + short in names:
            _check_here(published)
    model = PruMergeVideo(**arguments)
    rows = []
    for name in names:
        model.kept.clear()
        model.rates.clear()
        quiet = mock.patch.object(evaluator, "tqdm", no_bar)
        with contextlib.redirect_stdout(sys.stderr), quiet:
            results = evaluator.simple_evaluate(
                model=model, tasks=[name], task_manager=manager, limit=limit, batch_size=1,
                bootstrap_iters=0, log_samples=True,
            )  # fmt: skip
        right = [sample["exact_match"] for sample in results["samples"][name]]
        told = wilson(round(sum(right)), len(right))._asdict()
        rows.append({"task": name, "items": len(right), "limit": limit, **told} | model.told())
    return pd.DataFrame(rows)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 1 when something given cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m prumerge.experiments.evaluation.videos")
    parser.add_argument(
        "model", nargs="*", metavar="name=value", help="such as method=prumerge frames=8 fps=2"
    )
    parser.add_argument("--tasks", nargs="+", default=["mini_videos"])
    parser.add_argument("--limit", type=int, help="questions per task")
    parser.add_argument("--rows", type=Path, help="CSV file to write")
    parser.add_argument("--draw", action="store_true", help="write the drawn tasks' questions")
    chosen = parser.parse_intermixed_args(arguments)
    try:
        if chosen.draw:
            write_drawn()
            return 0
        rows = evaluate(chosen.tasks, chosen.limit, **named_values(chosen.model))
    except (ValueError, OSError) as error:
        print(f"videos: {error}", file=sys.stderr)
        return 1
    print(rows[SHOWN].dropna(axis=1, how="all").round(3).to_string(index=False))
    if chosen.rows:
        write_csv(rows, chosen.rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
