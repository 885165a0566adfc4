"""What a question has to do with each patch: CLIP's text tower, which no LLaVA carries.

    reader = read_text("mini")                        # or "openai/clip-vit-large-patch14-336@..."
    encoded = reader.ask(attachment.encode(pixel_values), questions)
    model.generate(pixel_values=encoded, ...)         # cdpruner now knows the questions

There is one question for each of the ``images``.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

from prumerge.encoder import Encoded
from prumerge.models.loading import find_source, load_whole, told
from prumerge.paths import MINI
from prumerge.tower import open_tower


@dataclasses.dataclass(frozen=True)
class TextReader:
    """CLIP's text tower with the two projections into the space it shares with the encoder."""

    clip: CLIPModel  # the one whose vision tower is the LLaVA's encoder
    tokenizer: Any

    def ask(self, encoded: Encoded, questions: Sequence[str]) -> Encoded:
        """Tell what the encoder says about pictures which question they are to answer.

        Questions come without the words of a prompt around them, one for each picture. What is
        returned may be passed to a model as ``pixel_values``. ValueError if there are more or fewer
        questions than pictures, or the features are not those of this CLIP's encoder.
        """
        if len(questions) != len(encoded.scores):
            raise ValueError(
                f"{len(encoded.scores)} pictures and {len(questions)} questions: one for each; "
                "encoded.at(...) hands a picture on several times"
            )
        found = self.relevance(encoded.features, questions)
        return dataclasses.replace(encoded, relevance=found.to(encoded.scores.device))

    @torch.no_grad()
    def relevance(
        self, features: Float[Tensor, "images patches width"], questions: Sequence[str]
    ) -> Float[Tensor, "images patches"]:
        """Compare each patch with a question: cosines from -1 to 1, in float32.

        A patch's feature goes through the encoder's last LayerNorm and projection, as the class
        token does in CLIP. A question longer than the text tower reads is cut into pieces, whose
        cosines are averaged. ValueError if the features have another width than the encoder.

        Source: CDPruner's released code.
        """
        weight = self.clip.visual_projection.weight
        if features.shape[-1] != weight.shape[1]:
            raise ValueError(
                f"features have width {features.shape[-1]}, this CLIP's encoder "
                f"{weight.shape[1]}: read the text tower of the CLIP that encoded the pictures"
            )
        norm = open_tower(self.clip.vision_model).module.post_layernorm
        patches = self.clip.visual_projection(norm(features.to(weight)))
        texts = torch.stack([self._read(question) for question in questions])
        return torch.einsum("ipw,iw->ip", normalize(patches.float(), dim=-1), texts)

    def _read(self, question: str) -> Float[Tensor, " width"]:
        """Return the mean direction of a question's pieces."""
        config, tokens = self.clip.config.text_config, self.tokenizer
        start = config.bos_token_id if tokens.bos_token_id is None else tokens.bos_token_id
        end = config.eos_token_id if tokens.eos_token_id is None else tokens.eos_token_id
        words = tokens(question, add_special_tokens=False)["input_ids"]
        room = config.max_position_embeddings - 2
        pieces = [words[at : at + room] for at in range(0, max(len(words), 1), room)]
        directions = []
        for piece in pieces:  # one at a time: no padding, whose place CLIPs disagree about
            ids = torch.tensor([[start, *piece, end]], device=self.clip.device)
            read = self.clip.text_projection(self.clip.text_model(ids).pooler_output)
            directions.append(normalize(read[0].float(), dim=-1))
        return torch.stack(directions).mean(dim=0)


def read_text(name: str | Path = "mini", device: str = "cpu") -> TextReader:
    """Load, in float32, the text tower of the CLIP that a LLaVA's encoder comes from.

    ``name`` is ``mini`` for the mini-LLaVA's, a folder with a CLIP in transformers' format, or a
    hub id such as ``openai/clip-vit-large-patch14-336`` for LLaVA-1.5, better with a revision
    behind an ``@``. ValueError says what to do where there is no such checkpoint.
    """
    if str(name) == "mini":
        from prumerge.mini.export import reopen
        from prumerge.mini.model import Pretraining, Size

        model = Pretraining(Size())
        reopen(model, MINI)
        tokenizer = AutoTokenizer.from_pretrained(MINI)
        return TextReader(model.clip.to(device).eval(), tokenizer)
    source, revision = find_source(name)
    with told(name):
        found, _ = CLIPConfig.get_config_dict(source, revision=revision)
    if (kind := found.get("model_type")) != CLIPConfig.model_type:
        raise ValueError(
            f"{str(name)!r} (model_type {kind!r}) holds no text tower of a CLIP: name the CLIP "
            "that its encoder comes from, or, without one, leave out methods that read questions"
        )
    with told(name):
        clip = load_whole(CLIPModel, source, revision=revision)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    return TextReader(clip.to(device).eval(), tokenizer)
