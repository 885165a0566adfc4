"""Questions about pictures, answered in batches of unequal visual token counts; each answer kept.

The harness's own response cache (lmms-eval 0.7.3) stores answers after the last one is given, and
drops what a killed process had stored. Here each batch is on disk before the next begins.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from prumerge import attach
from prumerge.encoder import device_of
from prumerge.experiments.evaluation.options import Options
from prumerge.models.adapters import adapter_fingerprint, apply_adapter
from prumerge.models.asking import Answer, ask, ask_whole, prompt_of
from prumerge.models.attachment import Attachment
from prumerge.models.loading import fingerprint
from prumerge.models.preprocessing import prepare
from prumerge.models.random_weights import RANDOM, build
from prumerge.models.videos import open_model

VICUNA_V1 = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. "
)
"""What LLaVA-1.5 was trained and evaluated with in front of each conversation."""


class Answerer:
    """A loaded model with its method, None for stock; equal ``identity`` means equal answers."""

    def __init__(self, options: Options, device: str) -> None:
        self.options = options
        if options.pretrained in RANDOM:
            self.model, self.processor = build(options.pretrained, device, options.dtype)
        else:
            own = (options.pretrained, device, options.dtype)
            self.model, self.processor = open_model(*own)
        adapter = options.adapter
        if adapter:
            self.model = apply_adapter(self.model, adapter, options.do_pad)
        with self._attached() as reducer:  # or tell at once that the method cannot work
            settings = vars(reducer.settings) if reducer else None
        self.identity: dict[str, Any] = {
            "pretrained": options.pretrained,
            "weights": fingerprint(options.pretrained, self.model),
            "method": options.method,
            "settings": settings,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "do_pad": options.do_pad,
            "conversation": options.conversation,
            "adapter": f"{adapter} ({adapter_fingerprint(adapter)})" if adapter else None,
        }
        if options.module:  # another version of the method gives other answers
            self.identity["module"] = Path(options.module).read_text(encoding="utf-8")

    def _attached(self) -> AbstractContextManager[Attachment | None]:
        own = self.options
        if own.reducer() is None:
            return nullcontext()
        return attach(self.model, own.method, **own.settings)

    def prompt(self, question: str) -> str:
        """Put a question into the model's conversation; ValueError unless it shows one picture."""
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
        """Answer one prompt about each picture, greedily, up to the first of ``until``.

        Which questions share a batch matters only to ``pooling="batch"`` and to half precision. A
        LLaVA-1.5 or LLaVA-NeXT reads a picture once for all that is asked about it.
        """
        shared = self.model.config.model_type in ("llava", "llava_next")
        shown, places = distinct(pictures) if shared else (pictures, [])
        shown = prepare(self.processor, shown, self.options.do_pad)
        if shared:
            seen = self.processor.image_processor(shown, return_tensors="pt")
            seen = seen.to(device_of(self.model.get_input_embeddings()), self.model.dtype)
            with torch.inference_mode(), self._attached() as reducer:
                if reducer is not None:
                    seen = reducer.encode(**seen)
            how = (seen, prompts, places, reducer and reducer.method)
            answers = ask(self.model, self.processor, *how, **generation)
        else:
            with self._attached():
                answers = ask_whole(self.model, self.processor, shown, prompts, **generation)
        return [dataclasses.replace(a, text=ended(a.text, until)) for a in answers]


def distinct(pictures: Sequence[Image.Image]) -> tuple[list[Image.Image], list[int]]:
    """Find the pictures asked about several times, and which of them each question is about."""
    first: dict[str, int] = {}
    places = [first.setdefault(picture_hash(picture), len(first)) for picture in pictures]
    return [pictures[places.index(place)] for place in range(len(first))], places


def picture_hash(picture: Image.Image) -> str:
    """Name a picture by its pixels."""
    return hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()[:16]


def ended(text: str, until: Sequence[str]) -> str:
    """Cut an answer at the first of the texts that end it."""
    for stop in until:
        text = text.split(stop)[0] if stop else text
    return text.strip()


def key_of(**parts: Any) -> str:
    """Name a question so that only the same question to the same model shares the name."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Journal:
    """Answers by key, from all files of a folder, added to ``writer``'s; torn ends are dropped."""

    def __init__(self, folder: str | Path | None = None, writer: str = "answers-0") -> None:
        self._answers: dict[str, Answer] = {}
        self._file = None
        if folder is None:
            return
        folder = Path(folder)
        own = folder / f"{writer}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = own.open("ab")
        except OSError as error:
            raise ValueError(f"answers={folder} is no folder to write into: {error}") from error
        for path in sorted(folder.glob("*.jsonl")):
            self._read(path, own=path == own)

    def __len__(self) -> int:
        return len(self._answers)

    def find(self, key: str) -> Answer | None:
        return self._answers.get(key)

    def keep(self, entries: Iterable[tuple[str, Answer, dict[str, Any]]]) -> None:
        """Store answers, each with what a reader of the file wants to see; on disk on return."""
        lines = []
        for key, answer, shown in entries:
            self._answers[key] = answer
            lines.append(json.dumps({"key": key, **shown, **dataclasses.asdict(answer)}) + "\n")
        if self._file is not None and lines:
            self._file.write("".join(lines).encode())
            self._file.flush()
            os.fsync(self._file.fileno())

    def _read(self, path: Path, own: bool) -> None:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ValueError(f"the answers in {path} cannot be read: {error}") from error
        whole, newline, torn = content.rpartition(b"\n")
        if torn and own:
            # Cut off, or the next answer would be glued to it. Another process may still be
            # writing the end of its own file.
            with path.open("r+b") as file:
                file.truncate(len(whole) + len(newline))
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            try:
                entry = json.loads(line)
                names = Answer.__dataclass_fields__
                self._answers[entry["key"]] = Answer(**{name: entry[name] for name in names})
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number}, is no answer ({error!r}): remove that line to have "
                    "its question asked again, or name another folder"
                ) from error
