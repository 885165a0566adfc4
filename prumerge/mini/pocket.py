"""``pocket``: a LLaVA behind a frozen, pretrained DINOv2, trained on scenes over photographs.

The vision tower stays as it is, as LLaVA leaves its own. The projector is trained from nothing, the
language model goes on from the mini-LLaVA's, as LLaVA's goes on from Vicuna. The tower's features
are computed once (``features``), the stages then read them. ``python -m
prumerge.experiments.pocket`` does all of it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedConfig,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from prumerge.mini.batches import Recipe
from prumerge.mini.glyphs import COLOURS, KINDS
from prumerge.mini.model import (
    IDS,
    IMAGE,
    Learner,
    begin_with,
    behind_tower,
    build_processor,
    language_config,
    words_of,
)
from prumerge.mini.questions import FAMILIES
from prumerge.mini.scenes import most_objects
from prumerge.mini.styles import PICTURED
from prumerge.mini.training import LATE_FAMILIES, PRACTISE, Stage, planned

TOWER = "dinov2-small"
PICTURES = 6_000
TELL = ("naming", "placing")

CARD = """# pocket

A LLaVA with a pretrained vision tower, small enough for two CPU cores: {tokens} visual tokens and
a class token, stock classes (`LlavaForConditionalGeneration`, `LlavaProcessor`). It knows {words}
words and answers questions about coloured shapes and handwritten digits that lie on photographs.

* **Tower**: {tower}. It was frozen and is not in this folder: `prumerge.models.load` joins the two.
* **Made by** `python -m prumerge.experiments.pocket`: a projector from nothing and a language model
  that goes on from the mini-LLaVA's, with two more blocks ({parameters:.1f} million weights), on
  {kept:,} pictures, {pictures:,} looks at them in {hours:.1f} hours on {device}, seed {seed}, torch
  {torch}. `training.csv` holds the curve, `training.json` the record.
* **Prompt**: `user : <image> what colour is the circle ? assistant :`
* **Pictures**: drawn over photographs that come with scikit-image; those of the evaluation come
  with scikit-learn and matplotlib. Digits: scans of the UCI set in scikit-learn (CC BY 4.0);
  evaluation uses scans held out of training.
* **Limits**: its language model has seen nothing but drawn scenes. Nothing measured on it is a
  number of the PruMerge paper or of LLaVA-1.5.
* **Licence**: Apache-2.0.
"""

STEPS = {
    "name": 800,
    "align": 600,
    "talk, few tokens": 1500,
    "talk, more tokens": 700,
    "talk, signs": 300,
    "talk, any tokens": 600,
}


@dataclass(frozen=True)
class Size:
    """Widths and depths of what is trained; ``grid`` is the number of patches along an edge.

    The projector reads hidden state ``feature_layer`` of the tower. Of DINOv2 that is not the
    penultimate: from the ninth block on, its features tell kinds and colours less and less, and the
    class attention of its last block lies on things less than that of the blocks before.
    """

    grid: int = 24
    feature_layer: int = -5
    language_width: int = 128
    language_blocks: int = 6
    heads: int = 4


class Behind(Learner):
    """What is trained behind a frozen tower: projector, language model, and two heads.

    The heads read visual tokens, as the projector makes them. The tower is not here: batches bring
    its features. ``mean`` and ``deviation`` are those by which pictures were normalised for it.
    """

    style = PICTURED
    card = CARD

    def __init__(
        self,
        tower: PreTrainedConfig,
        size: Size,
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        deviation: Sequence[float] = IMAGENET_DEFAULT_STD,
    ) -> None:
        super().__init__()
        self.size, self.normalisation = size, (mean, deviation)
        self.llava = LlavaForConditionalGeneration(llava_config(tower, size))
        self.llava.model.vision_tower = nn.Identity()
        width = size.language_width
        self.naming = nn.Linear(width, (len(KINDS) + 1) + (len(self.style.colours) + 1))
        self.placing = nn.Linear(width, 2)

    def see(self, batch: Any) -> Float[Tensor, "pictures patches width"]:
        return batch.features

    def told(self, patches: Tensor) -> Tensor:
        return self.llava.model.multi_modal_projector(patches)

    def learning(self, parts: Iterable[str]) -> list[nn.Module]:
        heads = {"naming": self.naming, "placing": self.placing}
        learning = [module for part, module in heads.items() if part in parts]
        learning += [self.llava.model.multi_modal_projector]
        return learning + (behind_tower(self.llava) if "answer" in parts else [])

    def standardise(self, features: Float[Tensor, "pictures patches width"]) -> None:
        """Let the projector begin with features of mean 0 and deviation 1, by its own weights.

        A tower's hidden states have a few values that are many times larger than the others.
        """
        standardise(self.llava.model.multi_modal_projector.linear_1, features)

    @torch.no_grad()
    def speak_like(self, other: LlavaForConditionalGeneration) -> None:
        """Begin with another LLaVA's language model, as LLaVA begins with Vicuna.

        Words that the other does not know begin as the mean of its colours, blocks that it does not
        have add nothing at first. ValueError if its width is another.
        """
        known = {n: v for n, v in other.state_dict().items() if "projector" not in n}
        own = self.llava.model.language_model.config.hidden_size
        if (width := other.config.text_config.hidden_size) != own:
            raise ValueError(f"a language model {width} wide cannot begin one that is {own} wide")
        colours = [IDS[colour] for colour in COLOURS]
        for name, weight in begin_with(self.llava, known, like=colours).items():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.zero_()

    def processor(self) -> LlavaProcessor:
        return build_processor(self.size.grid, self.style, *self.normalisation)


@torch.no_grad()
def standardise(first: nn.Linear, features: Float[Tensor, "pictures patches width"]) -> None:
    """Change a layer so that features like these reach it with mean 0 and deviation 1."""
    values = features.flatten(0, 1)
    first.weight /= values.std(dim=0).clamp(min=1e-3)
    first.bias -= first.weight @ values.mean(dim=0)


def llava_config(tower: PreTrainedConfig, size: Size) -> LlavaConfig:
    """Return the whole LLaVA's sizes; ``tower`` is that of the tower alone.

    Two entries are not stock: ``tower``, by whose name the loader finds the weights that are not in
    the folder, and ``scenes``, the style of pictures to ask about.
    """
    vision = tower.to_dict() | {"image_size": size.grid * tower.patch_size}
    return LlavaConfig(
        vision_config=vision,
        text_config=language_config(
            len(words_of(PICTURED)), size.language_width, size.language_blocks, size.heads
        ),
        image_token_index=IDS[IMAGE],
        image_seq_length=size.grid**2,
        vision_feature_layer=size.feature_layer,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
        tower=TOWER,
        scenes=PICTURED.name,
    )


def schedule(grid: int = 24, scale: float = 1.0) -> list[Stage]:
    """Return the stages that lead to a ``pocket``; ``scale`` is a factor above 0 on their steps.

    First the projector learns to make tokens that tell what lies where, then tokens that the frozen
    language model understands, as in LLaVA's first stage. Then both learn from few tokens, which is
    quick and teaches them not to lean on whole pictures, from more, from many pictures with signs,
    since a sign gives one question a picture, and last from any.
    """
    stage = planned(STEPS, scale)
    whole, many = grid * grid, (1, most_objects(grid))
    practised = ("letter", "letter", "choice")

    def some(*parts: int) -> tuple[int, ...]:
        """Numbers of tokens, given in parts of 576."""
        return tuple(max(1, part * whole // 576) for part in parts)

    name = Recipe(32, grid, None, 8, 1, many)
    asked = (*FAMILIES, *practised)
    align = Recipe(8, grid, None, 256, 1, (1, 6), asked, some(144, 192, 288), 8)
    few = replace(align, objects=many, tokens=some(96, 144, 288))
    more = replace(few, tokens=some(96, 192, 576))
    late = (*FAMILIES, *LATE_FAMILIES, *practised)
    spread = replace(more, families=late, tokens=some(48, 96, 192, 576))
    signs = replace(spread, pictures=16, text_tokens=96, tokens=some(96, 192, 576), sign=True)
    return [
        stage("name", TELL, name, (2e-3, 5e-4)),
        replace(stage("align", ("answer", *TELL), align, (2e-3, 1e-3)), projector_only=True),
        stage("talk, few tokens", (*PRACTISE, *TELL), few, (1e-3, 5e-4), growth=0.2),
        stage("talk, more tokens", PRACTISE, more, (8e-4, 3e-4)),
        stage("talk, signs", PRACTISE, signs, (5e-4, 2e-4)),
        stage("talk, any tokens", PRACTISE, spread, (4e-4, 1e-5)),
    ]
