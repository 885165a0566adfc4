"""``model.generate`` while attached: the same call, fewer visual tokens, the right answer."""

import pytest
import torch
from toy import IMAGE, PATCHES, VOCABULARY, batch, pictures, prompt, tiny_llava
from transformers import GenerationConfig, StaticCache

import prumerge

NEW = 8
METHODS = {
    "prumerge": {},
    "prumerge+": {"spatial_factor": 1},
    "paper": {"order": "attention"},
    "random": {"budget": 5},
}
PROMPTS = [prompt(3, 5), prompt(2, 0, 9), prompt(7), prompt(1, 3, 2)]
SHOWN = [[0], [1, 2], [], [3, 4]]  # pictures of each prompt


def inputs_of(*rows, side="left"):
    chosen = [picture for row in rows for picture in SHOWN[row]]
    drawn = {"pixel_values": pictures(5)[chosen]} if chosen else {}
    return batch(*(PROMPTS[row] for row in rows), side=side) | drawn


def generate(model, inputs, **options):
    options = {"max_new_tokens": NEW, "do_sample": False} | options
    return model.generate(**inputs, **options)


@torch.no_grad()
def by_hand(model, reducer, row, positions):
    """One prompt through the bare language model: loops, no padding, no cache, no generate()."""
    ids, embed = PROMPTS[row], model.get_input_embeddings()
    parts, places = [], []
    reduction = None
    if SHOWN[row]:
        reduction = reducer.method(reducer.encode(pictures(5)[SHOWN[row]]))
    picture = column = 0
    while column < len(ids):
        if ids[column] != IMAGE:
            parts.append(embed(torch.tensor([ids[column]])))
            places.append(column)
            column += 1
            continue
        parts.append(model.model.multi_modal_projector(reduction.tokens[picture]))
        places += [column + int(patch) for patch in reduction.positions[picture]]
        picture, column = picture + 1, column + PATCHES
    sequence, answer, scores = torch.cat(parts)[None], [], []
    if positions == "compact":
        places = list(range(len(places)))
        column = len(places)
    for _ in range(NEW):
        hidden = model.model.language_model(
            inputs_embeds=sequence,
            attention_mask=torch.ones(sequence.shape[:2], dtype=torch.long),
            position_ids=torch.tensor([places]),
            use_cache=False,
        ).last_hidden_state
        scores.append(model.lm_head(hidden[0, -1]))
        answer.append(int(scores[-1].argmax()))
        sequence = torch.cat([sequence, embed(torch.tensor([[answer[-1]]]))], dim=1)
        places.append(column)
        column += 1
    return answer, torch.stack(scores)


@pytest.mark.parametrize("positions", ["compact", "original"])
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_answers_as_each_prompt_does_by_hand(method, positions):
    model = tiny_llava()
    reducer = prumerge.attach(model, method, positions=positions, **METHODS[method])
    inputs = inputs_of(0, 1, 2, 3)
    output = generate(model, inputs, return_dict_in_generate=True, output_logits=True)
    if method != "random":
        assert len(set(reducer.kept)) > 1
    length = inputs["input_ids"].shape[1]
    assert torch.equal(output.sequences[:, :length], inputs["input_ids"])
    logits = torch.stack(output.logits, dim=1)
    for row in range(4):
        if method == "random":  # draws anew for each picture of a call
            continue
        answer, scores = by_hand(model, reducer, row, positions)
        torch.testing.assert_close(logits[row], scores, atol=2e-4, rtol=1e-4)
        assert output.sequences[row, length:].tolist() == answer
        alone = inputs_of(row)
        assert generate(model, alone)[0, alone["input_ids"].shape[1] :].tolist() == answer
