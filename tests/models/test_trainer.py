"""The Hugging Face Trainer with an attached model: label smoothing, evaluation with predictions."""

import pytest
import torch
from test_forward import labels_of
from test_generate import inputs_of
from torch.nn.functional import cross_entropy, log_softmax
from toy import IMAGE, batch, pictures, prompt, tiny_llava
from transformers import Trainer, TrainingArguments

import prumerge

ROWS = [
    batch(prompt(3, 5 + index)) | {"pixel_values": pictures(index + 1)[[index]]}
    for index in range(4)
]


def collate(rows):
    ids = [row["input_ids"][0].tolist() for row in rows]
    together = batch(*ids, side="right")
    together["pixel_values"] = torch.cat([row["pixel_values"] for row in rows])
    return together | {"labels": labels_of(together)}


def trainer(model, folder, **options):
    arguments = TrainingArguments(
        str(folder), max_steps=2, per_device_train_batch_size=2, per_device_eval_batch_size=2,
        report_to=[], use_cpu=True, remove_unused_columns=False, learning_rate=0.0,
        logging_steps=1, save_strategy="no", disable_tqdm=True, max_grad_norm=0.0,
        train_sampling_strategy="sequential", label_smoothing_factor=options.pop("smoothing", 0.0),
    )  # fmt: skip
    data = {"train_dataset": ROWS, "eval_dataset": ROWS}
    return Trainer(model, arguments, data_collator=collate, **data, **options)


def alone(model, row):
    """Logits of each word but the first, which the slot before it predicts, and the words."""
    with torch.no_grad():
        logits = model(**row).logits[0]
    words = row["input_ids"][0]
    shown = int((words == IMAGE).nonzero()[-1]) + 1
    return logits, words, shown


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("order", ["raster", "attention"])
def test_logits_stand_where_they_predict_the_next_column(side, order):
    model, inputs = tiny_llava(), inputs_of(0, 1, 2, 3, side=side)
    labels = labels_of(inputs)
    with prumerge.attach(model, "prumerge", order=order):
        short = model(**inputs, labels=labels)
    with prumerge.attach(model, "prumerge", full_logits=True, order=order):
        full = model(**inputs, labels=labels)
        parts = model(**inputs, labels=labels, return_dict=False)
    assert full.logits.shape[:2] == labels.shape
    predicted = cross_entropy(full.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(predicted, short.loss)
    assert torch.equal(full.loss, short.loss) and torch.equal(parts[1], full.logits)


def test_all_tokens_have_the_stock_logits():
    model, inputs = tiny_llava(), inputs_of(0, 1, 2, 3)
    stock = model(**inputs).logits
    with prumerge.attach(model, "all", order="raster", full_logits=True):
        assert torch.equal(model(**inputs).logits, stock)


def test_labels_on_patches_that_were_not_sent_are_refused():
    model, inputs = tiny_llava(), inputs_of(0, 1)
    labels = inputs["input_ids"].clone()
    with prumerge.attach(model, "prumerge", full_logits=True):
        with pytest.raises(ValueError, match="labels must be -100 on image placeholders"):
            model(**inputs, labels=labels)
        logits = model(**inputs).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        with pytest.raises(ValueError, match="labels must be -100 on image placeholders"):
            loss.backward()


def test_label_smoothing_counts_the_words_of_the_shortened_prompts(tmp_path):
    model = tiny_llava()
    with prumerge.attach(model, "prumerge", full_logits=True) as reducer:
        losses = trainer(model, tmp_path, smoothing=0.1)
        losses.train()
        found = [row["loss"] for row in losses.state.log_history if "loss" in row]
    assert reducer.kept
    with prumerge.attach(model, "prumerge"):
        for step, loss in enumerate(found):
            total, smooth, count = 0.0, 0.0, 0
            for row in ROWS[2 * step : 2 * step + 2]:
                logits, words, shown = alone(model, row)
                # The Trainer compares without a shift for this model class, as for the stock one.
                kept = [*range(1, 4), *range(len(logits) - len(words) + shown, len(logits))]
                columns = [*range(1, 4), *range(shown, len(words))]
                logs = -log_softmax(logits[kept], dim=-1)
                total += logs.gather(1, words[columns, None]).sum()
                smooth += logs.mean(dim=-1).sum()
                count += len(kept)
            assert float(loss) == pytest.approx(float(0.9 * total + 0.1 * smooth) / count, rel=1e-4)


def test_evaluation_predicts_at_the_columns_of_the_labels(tmp_path):
    model, seen = tiny_llava(), []

    def compute_metrics(predicted):
        logits = predicted.predictions
        logits = logits[0] if isinstance(logits, tuple) else logits
        seen.append((torch.as_tensor(logits), torch.as_tensor(predicted.label_ids)))
        return {}

    with prumerge.attach(model, "prumerge", full_logits=True):
        told = trainer(model, tmp_path, compute_metrics=compute_metrics).evaluate()
    ((logits, labels),) = seen
    assert logits.shape[:2] == labels.shape
    with prumerge.attach(model, "prumerge"):
        for index, row in enumerate(ROWS):
            own, words, shown = alone(model, row)
            behind = len(words) - shown
            found = logits[index, shown - 1 : len(words) - 1]
            torch.testing.assert_close(found, own[-behind - 1 : -1], atol=2e-4, rtol=1e-4)
            assert torch.equal(labels[index, shown : len(words)], words[shown:])
        each = [float(model(**collate(ROWS[at : at + 2])).loss) for at in (0, 2)]
    assert told["eval_loss"] == pytest.approx(sum(each) / 2, rel=1e-4)
