"""From a finished training to a checkpoint that stock transformers loads."""

import os
import shutil
from pathlib import Path

from prumerge.mini.architecture import Pretraining, build_processor
from prumerge.mini.vocabulary import END, IDS, PAD, START


def export(model: Pretraining, folder: Path, card: str) -> None:
    """Write weights, config, processor and model card; ``folder`` is replaced as a whole.

    Args:
        model: The trained parts; only the LLaVA is shipped.
        folder: Its new home. What stands there already is kept until the new one is complete.
        card: Text of the model card, in Markdown.
    """
    llava = model.llava
    llava.generation_config.update(
        bos_token_id=IDS[START], eos_token_id=IDS[END], pad_token_id=IDS[PAD]
    )
    fresh, former = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for left_over in (fresh, former):
        shutil.rmtree(left_over, ignore_errors=True)
    llava.save_pretrained(fresh)
    build_processor(model.size.grid).save_pretrained(fresh)
    (fresh / "README.md").write_text(card)
    if folder.exists():
        os.replace(folder, former)
    os.replace(fresh, folder)
    shutil.rmtree(former, ignore_errors=True)
