"""One question of each task, asked before a run of hours: what would stop it stops this.

Question, prompt, processor, method and scoring are those of the run. The model is of the same class
and sizes of picture and vocabulary, with few and narrow layers of random weights, on the CPU.
"""

import contextlib
import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from lmms_eval.tasks import TaskManager
from transformers import GenerationConfig, LlavaConfig, LlavaForConditionalGeneration

from prumerge.evaluation.inventory import first_question
from prumerge.evaluation.options import Options
from prumerge.evaluation.results import benchmark_of, questions_of
from prumerge.evaluation.runs import evaluate
from prumerge.models.loading import find_source, load_processor, read_config
from prumerge.models.random_weights import RANDOM, build

_WIDTH, _HEADS, _LAYERS = 32, 2, 2
_TASK = """include: {include}
task: tried_{task}
dataset_path: parquet
dataset_name: null
dataset_kwargs: {{data_files: {{{split}: {file}}}, cache_dir: {cache}}}
test_split: {split}
process_docs: !function prumerge.evaluation.scoring.{benchmark}_check
"""


def ask_one_of_each(methods: Sequence[Options], tasks: Sequence[str], manager: TaskManager) -> None:
    """Ask the first question of each task with each method.

    Args:
        methods: Of one model, whose config and processor are here; its weights are not read.
        tasks: No groups; their questions are here.
        manager: That knows them.

    Raises:
        Exception: Whatever a run with these methods and tasks would raise.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_small(methods[0].pretrained, folder / "model")
        for task in tasks:
            _save_task(task, manager, folder)
        for options in methods:
            own = {"method": options.method, "module": options.module, "do_pad": options.do_pad}
            own |= {"conversation": options.conversation, **options.settings}
            asked = [f"tried_{task}" for task in tasks]
            small = {"pretrained": str(folder / "model"), "device": "cpu"}
            _, results = evaluate(asked, 1, [folder], **small, **own)
            questions_of(results, results["efforts"])


def save_small(pretrained: str, folder: Path) -> None:
    """Write a checkpoint like another one, of few and narrow layers, with its processor."""
    if pretrained in RANDOM:
        model, processor = build("random-7b-cut")
    else:
        processor, config = load_processor(pretrained), shrink(read_config(pretrained))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = LlavaForConditionalGeneration(config)
        source, revision = find_source(pretrained)
        with contextlib.suppress(OSError):  # early checkpoints have none, and run without
            model.generation_config = GenerationConfig.from_pretrained(source, revision=revision)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def shrink(config: LlavaConfig) -> LlavaConfig:
    """Make layers narrow, and the language model's few; patches and vocabulary stay."""
    config = copy.deepcopy(config)
    for part in (config.vision_config, config.text_config):
        part.hidden_size, part.intermediate_size = _WIDTH, 2 * _WIDTH
        part.num_attention_heads = _HEADS
    text = config.text_config
    text.num_hidden_layers, text.num_key_value_heads = _LAYERS, _HEADS
    if getattr(text, "head_dim", None):
        text.head_dim = _WIDTH // _HEADS
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:_LAYERS]
    return config


def _save_task(task: str, manager: TaskManager, folder: Path) -> None:
    """Write a task that has the first question of another one alone."""
    split, question = first_question(task, manager)
    file = folder / f"{task}.parquet"
    question.to_parquet(file)
    text = _TASK.format(
        include=manager.task_index[task]["yaml_path"],
        task=task,
        split=split,
        file=file,
        cache=folder / "cache",
        benchmark=benchmark_of(task),
    )
    (folder / f"{task}.yaml").write_text(text, encoding="utf-8")
