"""``model(...)`` while attached: shortened logits, labels alike, gradients as ever."""

import pytest
import torch
from test_generate import PROMPTS, SHOWN, attached, inputs_of
from torch.nn.functional import cross_entropy
from toy import IMAGE, PATCHES, batch, pictures, prompt, tiny_llava

import prumerge


def labels_of(inputs):
    """Train on words only, as usual: not on placeholders, padding and the beginning."""
    return inputs["input_ids"].masked_fill(inputs["input_ids"] <= IMAGE, -100)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_keeping_all_tokens_is_the_stock_model(side, attention):
    model, inputs = tiny_llava(attention=attention), inputs_of(0, 1, 2, 3, side=side)
    inputs["labels"] = labels_of(inputs)
    stock = model(**inputs)
    with prumerge.attach(model, "all", order="raster"):
        ours = model(**inputs)
    assert torch.equal(ours.logits, stock.logits)
    assert torch.equal(ours.loss, stock.loss)
    shown, expected = ours.image_hidden_states, stock.image_hidden_states
    if isinstance(expected, list):  # one entry per picture, from transformers 5.24 on
        shown, expected = torch.cat(shown), torch.cat(expected)
    assert torch.equal(shown, expected.flatten(0, -2))


@pytest.mark.parametrize("positions", ["compact", "original"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_a_batch_are_those_of_each_prompt(side, positions):
    model = tiny_llava()
    with attached(model, positions=positions) as reducer:
        together = model(**inputs_of(0, 1, 2, 3, side=side)).logits
        real = reducer.prompts.attention_mask.bool()
        assert together.shape[:2] == real.shape
        assert bool(real[:, -1 if side == "left" else 0].all())
        for row in range(4):
            alone = model(**inputs_of(row)).logits[0]
            torch.testing.assert_close(together[row, real[row]], alone, atol=2e-4, rtol=1e-4)


def test_the_next_token_is_the_one_generate_takes():
    model, inputs = tiny_llava(), inputs_of(0, 1, 2, 3)
    with attached(model):
        new = model.generate(**inputs, max_new_tokens=1)[:, -1]
        assert torch.equal(model(**inputs).logits[:, -1].argmax(dim=-1), new)
        last = model(**inputs, logits_to_keep=1).logits
        assert last.shape[1] == 1 and torch.equal(last[:, 0].argmax(dim=-1), new)


@pytest.mark.parametrize("side", ["left", "right"])
def test_loss_is_that_of_the_words_counted_by_hand(side):
    model = tiny_llava()
    inputs = inputs_of(0, 1, 2, 3, side=side)
    total, words = torch.zeros(()), 0
    with attached(model) as reducer:
        loss = model(**inputs, labels=labels_of(inputs)).loss
        for row, ids in enumerate(PROMPTS[:4]):
            logits = model(**inputs_of(row)).logits[0]
            own = reducer.kept if SHOWN[row] else []
            short, picture, column = [], 0, 0
            while column < len(ids):
                if ids[column] == IMAGE:
                    short += [-100] * own[picture]
                    picture, column = picture + 1, column + PATCHES
                else:
                    short.append(ids[column] if column else -100)
                    column += 1
            targets = torch.tensor(short[1:])
            total += cross_entropy(logits[:-1], targets, ignore_index=-100, reduction="sum")
            words += int((targets != -100).sum())
    torch.testing.assert_close(loss, total / words)


def test_padding_in_front_does_not_predict_the_first_token():
    """Rows of equal length get padding only because they lose different numbers of tokens."""
    model = tiny_llava()
    rows = [batch(prompt(3, 5)) | {"pixel_values": pictures(6)[[index]]} for index in (0, 5)]
    both = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    with attached(model) as reducer:
        loss = model(**both, labels=both["input_ids"]).loss
        assert len(set(reducer.kept)) == 2
        total, words = 0, 0
        for row in rows:
            own = model(**row, labels=row["input_ids"]).loss
            count = reducer.prompts.input_ids.shape[1] - 1
            total, words = total + own * count, words + count
    torch.testing.assert_close(loss, total / words)


def test_labels_on_placeholders_stay_with_their_patches():
    model = tiny_llava()
    inputs = batch(prompt(1, 1)) | {"pixel_values": pictures(1)}
    labels = torch.arange(inputs["input_ids"].shape[1])[None]
    with attached(model, order="attention") as reducer:
        loss = model(**inputs, labels=labels).loss
        logits = model(**inputs).logits[0]
    places = [0, 1, *(2 + reducer.reduction.positions[0]).tolist(), 2 + PATCHES]
    assert places != sorted(places)
    torch.testing.assert_close(loss, cross_entropy(logits[:-1], torch.tensor(places[1:])))


def test_gradients_reach_projector_words_and_encoder():
    model, inputs = tiny_llava().train(), inputs_of(0, 1, 2, 3)
    with attached(model):
        model(**inputs, labels=labels_of(inputs)).loss.backward()
        wanted = {
            "projector": model.model.multi_modal_projector.linear_1.weight,
            "words": model.get_input_embeddings().weight,
            "first block": model.model.vision_tower.encoder.layers[0].mlp.fc1.weight,
            "language model": model.model.language_model.layers[0].self_attn.q_proj.weight,
        }
        assert all(float(weight.grad.abs().sum()) > 0 for weight in wanted.values()), wanted
        assert model.model.vision_tower.encoder.layers[-1].mlp.fc1.weight.grad is None


def test_gradients_with_all_tokens_are_the_stock_ones():
    model, inputs = tiny_llava(), inputs_of(0, 1)
    labels = labels_of(inputs)
    model(**inputs, labels=labels).loss.backward()
    stock = {name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None}
    model.zero_grad()
    with prumerge.attach(model, "all", order="raster"):
        model(**inputs, labels=labels).loss.backward()
    assert stock
    for name, weight in model.named_parameters():
        if name in stock:
            torch.testing.assert_close(weight.grad, stock[name], atol=1e-5, rtol=1e-4)


def test_arguments_by_place_and_tuples_out():
    model, inputs = tiny_llava(), inputs_of(0, 1)
    with attached(model):
        expected = model(**inputs).logits
        pixels, mask = inputs["pixel_values"], inputs["attention_mask"]
        assert torch.equal(model(inputs["input_ids"], pixels, mask).logits, expected)
        assert torch.equal(model.forward(inputs["input_ids"], pixels, mask).logits, expected)
        assert torch.equal(model(**inputs, return_dict=False)[0], expected)


@pytest.mark.parametrize("positions", ["compact", "original"])
def test_position_ids_handed_in_are_closed_up_or_kept(positions):
    model = tiny_llava()
    inputs = batch(prompt(2, 1), prompt(3, 2), side="right") | {"pixel_values": pictures(2)}
    ids = torch.arange(inputs["input_ids"].shape[1])[None]
    seen = []
    model.model.language_model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["position_ids"].tolist()), with_kwargs=True
    )
    with prumerge.attach(model, "paper", budget=2, positions=positions) as reducer:
        model(**inputs, position_ids=ids + 7)
    first, second = (kept.tolist() for kept in reducer.reduction.positions)
    assert seen[0][0][:6] == (
        [7, 8, 9, 10, 11, 12]
        if positions == "compact"
        else [7, 8, 9, 10 + first[0], 10 + first[1], 10 + PATCHES]
    )
    assert seen[0][1] == (
        [7, 8, 9, 10, 11, 12, 13, 14]
        if positions == "compact"
        else [7, 8, 9, 10, 11 + second[0], 11 + second[1], 11 + PATCHES, 12 + PATCHES]
    )


def pack(*rows):
    """Several documents in one row: ids, restarting position ids, labels, all their pictures."""
    parts = [torch.tensor(PROMPTS[row]) for row in rows]
    ids, places = torch.cat(parts), torch.cat([torch.arange(len(part)) for part in parts])
    labels = ids.masked_fill((ids <= IMAGE) | (places == 0), -100)
    shown = pictures(6)[[picture for row in rows for picture in SHOWN[row]]]
    packed = {"input_ids": ids[None], "position_ids": places[None], "labels": labels[None]}
    return packed | {"pixel_values": shown, "use_cache": False}


@pytest.mark.parametrize("rows", [(0, 1, 3), (0, 2, 4)])
def test_packed_documents_do_not_see_each_other(rows):
    model, packed = tiny_llava(), pack(*rows)
    stock = model(**packed)
    with prumerge.attach(model, "all", order="raster"):
        ours = model(**packed)
    assert torch.equal(ours.logits, stock.logits) and torch.equal(ours.loss, stock.loss)
    with attached(model):
        together = model(**packed).logits[0]
        alone = torch.cat([model(**inputs_of(row)).logits[0] for row in rows])
        torch.testing.assert_close(together, alone, atol=2e-4, rtol=1e-4)


def test_packed_rows_that_lose_different_numbers_of_tokens():
    model = tiny_llava()
    rows = [pack(0), pack(4)]  # as many columns each, with another picture
    both = {name: torch.cat([row[name] for row in rows]) for name in ("input_ids", "pixel_values")}
    both = {name: torch.cat([part, part], dim=1) for name, part in both.items() if part.ndim == 2}
    both["pixel_values"] = pictures(6)[[0, 0, 5, 5]]
    places = torch.arange(len(PROMPTS[0])).repeat(2)[None]  # one row of ids for all
    with attached(model) as reducer:
        logits = model(**both, position_ids=places, use_cache=False).logits
        real = reducer.prompts.attention_mask.bool()
        assert not bool(real.all())
        for row, single in enumerate((inputs_of(0), inputs_of(4))):
            alone = model(**single).logits[0]
            expected = torch.cat([alone, alone])
            torch.testing.assert_close(logits[row, real[row]], expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("positions", "changes", "message"),
    [
        ("original", {}, r"positions='original' leaves gaps .* pass positions='compact'"),
        ("compact", {"use_cache": True}, "see each other while use_cache is on"),
        ("compact", {"use_cache": None}, "see each other while use_cache is on"),
        ("compact", {"cu_seq_lens_q": torch.tensor([0, 25])}, "cu_seq_lens_q counts columns"),
    ],
)
def test_packed_documents_that_cannot_be_kept_apart_are_refused(positions, changes, message):
    model = tiny_llava()
    with attached(model, positions=positions), pytest.raises(ValueError, match=message):
        model(**(pack(0, 1) | changes))


def test_token_types_are_shortened_alike():
    model, inputs = tiny_llava(), inputs_of(0, 1)
    types = {"mm_token_type_ids": (inputs["input_ids"] == IMAGE).long()}
    seen = []
    model.model.register_forward_pre_hook(lambda _, __, kw: seen.append(kw), with_kwargs=True)
    with attached(model) as reducer:
        model(**inputs, **types)
    assert torch.equal(seen[0]["mm_token_type_ids"].bool(), reducer.prompts.visual)


def test_decoding_by_hand_with_the_cache():
    model, inputs = tiny_llava(), inputs_of(0, 1)
    with attached(model) as reducer:
        expected = model.generate(**inputs, max_new_tokens=3)[:, -3:]
        output = model(**inputs, use_cache=True)
        mask, answer = reducer.prompts.attention_mask, []
        for _ in range(3):
            answer.append(output.logits[:, -1:].argmax(dim=-1))
            mask = torch.cat([mask, torch.ones_like(answer[-1])], dim=1)
            output = model(
                input_ids=answer[-1], attention_mask=mask, past_key_values=output.past_key_values
            )
    assert torch.equal(torch.cat(answer, dim=1), expected)
