"""A record as a training sample: token ids, labels of the answers, and the model's other inputs.

Source: LLaVA, ``llava/train/train.py`` and conversation ``v1``: ``USER: ... ASSISTANT: ...</s>USER:
...``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from prumerge.experiments.finetuning.data import Record, RecordError
from prumerge.models.inputs import IGNORED_LABEL
from prumerge.models.placeholders import place_of
from prumerge.models.videos import VIDEO, AnyProcessor, VideoProcessor, check_frames

TYPES, CLIPS = "mm_token_type_ids", "pixel_values_videos"


def to_sample(
    processor: AnyProcessor,
    record: Record,
    shown: Image.Image | Sequence[Image.Image] | None,
    patches: int,
    max_length: int | None = None,
    preface: str = "",
    do_pad: bool = True,
    clips: VideoProcessor | None = None,
) -> dict[str, Any]:
    """Make a sample: ``input_ids`` and ``labels`` as lists, and what the model needs of a picture.

    The picture's part is all that the model's processor returns of a batch of this one:
    ``pixel_values`` and, by family, ``image_sizes``, ``image_grid_thw``, ``mm_token_type_ids``; a
    clip's, given as frames, is ``pixel_values_videos``. Only answers have labels. ``preface`` is
    text in front of all; with ``do_pad=False`` the picture is cropped, where
    :func:`prumerge.models.preprocessing.prepare` can; frames always are. ``clips`` prepares clips
    where ``processor`` does not. All placeholders count for ``max_length``, since the reduction
    comes later; ``patches`` do where picture or clip is not there. A longer sample is a
    :class:`RecordError`, since to cut it would cut off answers; so is a clip that is not taken.
    """
    token, place, inputs = _placed(processor, record, shown, patches, do_pad, clips)
    text, learnt = _written(processor, record, preface)
    tokens = processor.tokenizer(text, return_offsets_mapping=True, verbose=False)
    ids = tokens["input_ids"]
    # A token is learnt with its last character; one of no characters never.
    places = zip(ids, tokens["offset_mapping"], strict=True)
    labels = [i if a < b and learnt[b - 1] else IGNORED_LABEL for i, (a, b) in places]
    _check_marks(record, ids, clips or processor)
    if record.kind:
        at = ids.index(token)
        ids[at : at + 1], labels[at : at + 1] = place, [IGNORED_LABEL] * len(place)
    if max_length is not None and len(ids) > max_length:
        raise RecordError(
            f"{record.where}: {len(ids)} tokens, more than max_length={max_length}: shorten the "
            "conversation or raise the limit"
        )
    if TYPES in inputs:
        inputs[TYPES] = [int(i == processor.image_token_id) for i in ids]
    return {"input_ids": ids, "labels": labels, **inputs}


def _placed(
    processor: AnyProcessor,
    record: Record,
    shown: Image.Image | Sequence[Image.Image] | None,
    patches: int,
    do_pad: bool,
    clips: VideoProcessor | None,
) -> tuple[int, list[int], dict[str, Any]]:
    """Return the id of a placeholder, what stands in the mark's place, and the model's inputs."""
    reader, token = processor, processor.image_token_id
    if record.video is not None:
        if not isinstance(reader := clips or processor, VideoProcessor):
            raise RecordError(
                f"{record.where}: a Video-LLaVA, LLaVA-NeXT-Video or LLaVA-OneVision is shown a "
                "video here, other models pictures: leave the record out, or name such a model"
            )
        token = reader.video_token_id
    if shown is None:
        return token, [token] * patches, {}
    return token, *place_of(reader, shown, do_pad)


def _check_marks(record: Record, ids: list[int], filmed: AnyProcessor) -> None:
    """Refuse a mark that a model of clips would read in a text, or a template that writes none."""
    wanted = int(record.video is not None)
    if isinstance(filmed, VideoProcessor) and (m := ids.count(filmed.video_token_id)) != wanted:
        raise RecordError(
            f"{record.where}: the model reads {m} {VIDEO} for {wanted} video"
            f"{'' if wanted == 1 else 's'}: name one as 'video', or take the mark out"
        )


def _written(processor: AnyProcessor, record: Record, preface: str) -> tuple[str, list[bool]]:
    """Write a conversation by the chat template; mark the answers, each with its end token.

    Each answer stands behind what the model is asked with. A template that ends answers itself, as
    ChatML does, writes the conversation so far in front. Behind any other each turn is written by
    itself and ended by the end token, as LLaVA was trained.
    """
    write, messages, done = processor.apply_chat_template, [], ""
    text, learnt = preface, [False] * len(preface)
    lead, end, behind = _around(processor)
    for number, (question, answer) in enumerate(record.turns):
        messages.append(_message("user", question, "" if number else record.kind))
        asked = write(messages, add_generation_prompt=True)
        if not asked.startswith(done):
            raise ValueError(
                f"{record.where}: the chat template writes {asked!r}, which does not begin with "
                f"the turns before, {done!r}: give the processor a template that adds turns alone"
            )
        if end:
            messages.append(_message("assistant", answer))
            asked, done = asked[len(done) :] + lead, write(messages)
        else:
            asked, messages = asked.rstrip() + " ", []
        said = answer + (end or processor.tokenizer.eos_token)
        text += asked + said + behind
        learnt += [False] * len(asked) + [True] * len(said) + [False] * len(behind)
    return text, learnt


def _message(role: str, text: str, shown: str = "") -> dict[str, Any]:
    content = [{"type": shown}] if shown else []
    return {"role": role, "content": [*content, {"type": "text", "text": text}]}


def _around(processor: AnyProcessor) -> tuple[str, str, str]:
    """Return what the chat template puts around answers: in front, as their end, and behind it."""
    write, asking = processor.apply_chat_template, [_message("user", "?")]
    asked = write(asking, add_generation_prompt=True)
    front, found, behind = write([*asking, _message("assistant", "!")]).rpartition("!")
    if not found:
        raise ValueError("the chat template leaves answers out: give the processor another")
    lead = front[len(asked) :] if front.startswith(asked) else ""
    ends = [behind.index(m) + len(m) for m in processor.tokenizer.all_special_tokens if m in behind]
    end = min(ends, default=0)
    return lead, behind[:end], behind[end:] if end else ""


def collate(
    samples: list[dict[str, Any]], pad_token_id: int
) -> dict[str, Int[Tensor, "..."] | Any]:
    """Pad samples on the right, unlabelled and unattended; lay what there is of pictures together.

    Where a picture is a row of tiles, those of fewer tiles than others get tiles of zeros behind
    theirs; what else a family has of each picture (patches, tiles, sizes) is laid end to end. Both
    are what its processor does. Clips of unequal numbers of frames are a ValueError.
    """
    fills = {"input_ids": pad_token_id, "labels": IGNORED_LABEL, "attention_mask": 0}
    rows = [{**sample, "attention_mask": [1] * len(sample["input_ids"])} for sample in samples]
    if any(TYPES in row for row in rows):
        fills[TYPES] = 0
        rows = [{TYPES: [0] * len(row["input_ids"])} | row for row in rows]
    batch = {
        name: pad_sequence([torch.tensor(row[name]) for row in rows], True, fill)
        for name, fill in fills.items()
    }
    for name in dict.fromkeys(name for row in rows for name in row if name not in fills):
        own = [row[name] for row in rows if name in row]
        if name == CLIPS:
            check_frames(video.shape[1] for video in own)
        in_tiles = own[0].ndim > 4 and name != CLIPS  # [1, tiles, 3, height, width]
        batch[name] = pad_sequence([v[0] for v in own], True) if in_tiles else torch.cat(own)
    return batch
