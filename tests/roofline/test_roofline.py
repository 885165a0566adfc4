"""The cost model: closed forms, the paper's tool digit by digit, scaling, real weights."""

import pandas as pd
import pytest
import torch
from roofline_samples import small_clip, small_llama
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from prumerge.experiments.printed import read_printed
from prumerge.roofline import (
    CONVENTIONS,
    HARDWARE,
    NAMED,
    PRECISIONS,
    Hardware,
    LanguageShape,
    ModelShape,
    estimate_costs,
    estimate_memory,
    kv_cache_bytes,
    list_operations,
    read_shape,
    weight_bytes,
)

COUNTS = ["operations", "traffic_bytes", "time_ms", "weight_bytes", "activation_read_bytes"]
COUNTS += ["activation_write_bytes", "cache_read_bytes", "cache_write_bytes"]
# Two layers, four heads that share two key heads, nothing a power of another.
SMALL = LanguageShape(
    width=12, layers=2, heads=4, key_heads=2, head_width=3, inner_width=20, vocabulary=50
)
SLOW = Hardware("slow", 1e9, 1e9, 2e9, 1e9)


def by_name(**arguments) -> pd.DataFrame:
    """Operations of the small language model, by name."""
    model = ModelShape("small", SMALL)
    settings = {"prompt_tokens": 7, "hardware": SLOW} | arguments
    return list_operations(model, **settings).set_index("operation")


# The paper's tool, run apart from this package (commit d903231, stubbed configs, V100): tokens ->
# operations in T, time in ms, traffic in GB, activations stored in GB.
TOOL = {
    ("7b", "fp16"): {
        700: "9.328 88.61 23.348 4.645",
        70: "0.910 15.28 13.748 0.284",
        616: "8.181 77.53 21.69 3.876",
        80: "1.040 15.39 13.85 0.328",
    },
    ("7b", "int4"): {
        700: "9.328 151.64 5.935 1.161",
        70: "0.910 14.87 3.535 0.071",
        616: "8.181 132.96 5.52 0.969",
        80: "1.040 16.98 3.56 0.082",
    },
    ("13b", "fp16"): {
        700: "18.171 170.53 41.589 7.265",
        70: "1.781 29.53 26.580 0.444",
        616: "15.948 149.35 39.00 6.062",
        80: "2.036 29.71 26.74 0.513",
    },
    ("13b", "int4"): {
        700: "18.171 294.90 10.520 1.816",
        70: "1.781 28.99 6.768 0.111",
        616: "15.948 258.76 9.87 1.516",
        80: "2.036 33.12 6.81 0.128",
    },
}
TOOL_CASES = [(*key, tokens, told) for key, rows in TOOL.items() for tokens, told in rows.items()]


@pytest.mark.parametrize(("model", "precision", "tokens", "told"), TOOL_CASES)
def test_the_tools_convention_gives_the_tools_numbers(model, precision, tokens, told):
    row = estimate_costs(model, tokens, "V100", precision, convention="llm-viewer").iloc[0]
    ours = [row["operations"] / 1e12, row["time_ms"]]
    ours += [row["traffic_bytes"] / 1e9, row["activation_write_bytes"] / 1e9]
    for value, printed in zip(ours, told.split(), strict=True):
        last_digit = 10.0 ** -len(printed.partition(".")[2])
        assert value == pytest.approx(float(printed), abs=last_digit)


def test_the_tools_convention_gives_its_operations_for_pruned_prompts():
    rows = estimate_costs("7b", [185], "V100", convention="llm-viewer")
    assert rows["operations"][0] == pytest.approx(2.415e12, rel=3e-4)
    assert rows["time_ms"][0] == pytest.approx(22.7, abs=0.05)
    rows = estimate_costs("13b", [185], "V100", convention="llm-viewer")
    assert rows["operations"][0] == pytest.approx(4.72e12, rel=1e-3)
    assert rows["time_ms"][0] == pytest.approx(43.9, abs=0.06)


def test_operations_that_another_paper_prints_are_those_of_the_stated_lengths():
    printed = read_printed("others_efficiency").set_index(["row", "column"])["value"]
    rows = estimate_costs("7b", [616, 185], convention="llm-viewer")["operations"] / 1e12
    assert rows.round(2)[0] == printed["AIM, LLaVA-1.5 7B, full", "operations"]
    assert abs(rows[1] - printed["AIM, LLaVA-1.5 7B, PruMerge+", "operations"]) < 0.01


def test_an_a100_table_of_another_paper_follows_at_638_tokens():
    printed = read_printed("others_efficiency").set_index(["row", "column"])["value"]
    for precision, divisor in (("fp16", 1), ("int8", 2), ("int4", 4)):
        row = estimate_costs("7b", 638, "A100-40GB", precision, convention="llm-viewer").iloc[0]
        told = printed[f"Recoverable Compression, {precision.upper()}, full"]
        assert row["operations"] / divisor / 1e12 == pytest.approx(told["operations"], rel=0.02)
        assert row["time_ms"] == pytest.approx(told["prefill time"], rel=0.01)
        assert row["traffic_bytes"] / 1e9 == pytest.approx(told["total memory"], rel=0.015)
        stored = row["activation_write_bytes"] / 1e9
        assert stored == pytest.approx(told["storing activation"], rel=0.03)


def test_the_prompts_footprint_is_hardly_smaller_than_the_tools_figures_for_both_lengths():
    """The tool's footprint: weights of the layers, KV cache, what one layer writes."""
    for tokens, told in ((700, 13.46e9), (70, 13.00e9)):
        rows = list_operations("7b", tokens, "V100", convention="llm-viewer")
        layers = rows[rows["operation"] != "logits"]
        footprint = layers["weight_bytes"].sum() + layers["cache_write_bytes"].sum()
        footprint += layers["activation_write_bytes"].sum() / 32
        assert footprint == pytest.approx(told, abs=0.006e9)


def test_every_operation_of_a_small_model_by_hand():
    rows = by_name(convention="llm-viewer")
    count = rows["operations"]
    assert count["query"] == count["attention_output"] == 2 * (2 * 12 * 12 * 7)
    assert count["key"] == count["value"] == 2 * (2 * 12 * 6 * 7)
    assert count["gate"] == count["up"] == count["down"] == 2 * (2 * 12 * 20 * 7)
    assert count["query_key"] == count["weighted_values"] == 2 * (2 * 12 * 7 * 7)
    assert count["softmax"] == 2 * (5 * 4 * 7 * 7)
    assert count["norms"] == 4 * (7 * 12 * 7) and count["residuals"] == 4 * (12 * 7)
    assert count["activation"] == 2 * (2 * 12 * 7)  # as wide as the hidden state
    assert count["logits"] == 12 * 50  # a multiply-add counts one here
    assert rows.loc["query", "weight_bytes"] == 2 * 12 * 12 * 2
    assert rows.loc["query", "activation_read_bytes"] == 2 * 12 * 7 * 2
    assert rows.loc["key", "activation_write_bytes"] == 0
    assert rows.loc["key", "cache_write_bytes"] == 2 * 6 * 7 * 2
    assert rows.loc["query_key", "cache_read_bytes"] == 2 * 6 * 7 * 2
    assert rows.loc["query_key", "activation_write_bytes"] == 2 * 4 * 49 * 2
    assert rows.loc["logits", "weight_bytes"] == 12 * 50  # one byte each
    assert len(rows) == 14


def test_the_complete_convention_by_hand():
    rows = by_name(flash_attention=True)
    count = rows["operations"]
    pairs = 4 * (7 * 8 // 2)  # heads x tokens with themselves and earlier ones
    assert count["attention"] == 2 * (4 * 3 + 5) * pairs
    assert count["logits"] == 2 * 12 * 50
    assert count["activation"] == 2 * (5 * 20 * 7)
    assert count["rotary"] == 2 * (3 * (12 + 6) * 7)
    assert count["norms"] == 5 * (4 * 12 * 7)
    assert count["embedding"] == 0 and rows.loc["embedding", "weight_bytes"] == 7 * 12 * 2
    assert rows.loc["attention", "cache_read_bytes"] == 2 * 2 * (6 * 7 * 2)
    assert rows.loc["attention", "activation_write_bytes"] == 2 * (12 * 7 * 2)
    assert rows.loc["residuals", "activation_read_bytes"] == 4 * (2 * 12 * 7 * 2)
    assert rows.loc["logits", "weight_bytes"] == 12 * 50 * 2


def test_an_operation_takes_the_longer_of_its_two_times():
    rows = by_name()
    computing, moving = rows["operations"] / 1e9, rows["traffic_bytes"] / 1e9
    assert rows["time_ms"].tolist() == pytest.approx((1e3 * computing.clip(lower=moving)).tolist())
    assert set(rows["bound"]) == {"compute", "memory"}
    assert ((rows["bound"] == "compute") == (rows["intensity_per_byte"] > 1)).all()
    assert by_name(precision="int8")["operations"].equals(rows["operations"])


def test_stages_sum_up_their_operations():
    rows = by_name(batch=3)
    total = estimate_costs(ModelShape("small", SMALL), 7, SLOW, batch=3).iloc[0]
    for column in COUNTS:
        assert total[column] == pytest.approx(rows[column].sum()), column
    computing = rows.loc[rows["bound"] == "compute", "time_ms"].sum()
    assert total["compute_bound_share"] == pytest.approx(computing / rows["time_ms"].sum())
    kinds = [f"{kind}_bytes" for kind in ("weight", "activation_read", "activation_write")]
    kinds += ["cache_read_bytes", "cache_write_bytes"]
    assert total[kinds].sum() == total["traffic_bytes"]


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_batch_multiplies_everything_but_the_weights(convention):
    one, many = by_name(convention=convention), by_name(batch=5, convention=convention)
    inside = [name for name in one.index if name not in ("logits", "embedding")]
    assert (many["operations"] == 5 * one["operations"]).all()
    assert many.loc[inside, "weight_bytes"].equals(one.loc[inside, "weight_bytes"])
    for column in ("activation_read_bytes", "activation_write_bytes", "cache_write_bytes"):
        assert many.loc[inside, column].equals(5 * one.loc[inside, column])


def test_operations_grow_by_a_linear_and_a_square_part():
    s = [100, 200, 300, 400]
    count = estimate_costs("7b", s, convention="llm-viewer")["operations"]
    second = count.diff().diff().dropna()
    # 4 h + 5 heads operations for each pair of tokens, in each layer
    assert second.tolist() == [2 * 100**2 * 32 * (4 * 4096 + 5 * 32)] * 2


def test_flash_attention_keeps_scores_out_of_memory_and_halves_them():
    plain, flash = by_name(prompt_tokens=64), by_name(prompt_tokens=64, flash_attention=True)
    products = plain.loc[["query_key", "softmax", "weighted_values"]].sum()
    assert flash.loc["attention", "operations"] * 2 * 64 == products["operations"] * 65
    assert flash.loc["attention", "traffic_bytes"] < products["traffic_bytes"] / 5
    rest = flash.index.drop("attention")
    assert flash.loc[rest, COUNTS].equals(plain.loc[rest, COUNTS])


def test_decoding_streams_the_weights_and_the_cache_once_per_token():
    rows = by_name(stage="decode", convention="llm-viewer")
    assert rows.loc["query_key", "cache_read_bytes"] == 2 * 6 * 8 * 2  # 7 tokens and its own
    assert rows.loc["query", "operations"] == 2 * 2 * 12 * 12
    assert rows["weight_bytes"].equals(by_name(convention="llm-viewer")["weight_bytes"])
    assert (by_name(stage="decode")["bound"] == "memory").sum() >= 8


def test_decode_adds_up_its_steps():
    model = ModelShape("small", SMALL)
    steps = [list_operations(model, 7 + i, SLOW, stage="decode") for i in range(4)]
    rows = estimate_costs(model, 7, SLOW, new_tokens=5).set_index("stage")
    for column in COUNTS:
        assert rows.loc["decode", column] == pytest.approx(
            sum(step[column].sum() for step in steps)
        )
    assert rows.loc["prefill", "operations"] == by_name()["operations"].sum()
    assert list(estimate_costs(model, 7, SLOW, new_tokens=1)["stage"]) == ["prefill"]


def test_prefilling_in_two_goes_writes_the_same_cache():
    """One token after another or all at once: keys and values are written once per token."""
    whole = estimate_costs("7b", 65)["cache_write_bytes"].sum()
    parts = estimate_costs("7b", 1, new_tokens=65)["cache_write_bytes"].sum()
    assert whole == parts == kv_cache_bytes("7b", 65) == 65 * 2**19


def test_grouped_queries_shrink_cache_and_key_projections_only():
    full, grouped = small_llama(num_key_value_heads=4), small_llama()
    assert kv_cache_bytes(grouped, 10) * 2 == kv_cache_bytes(full, 10)
    rows = [list_operations(c, 10).set_index("operation")["operations"] for c in (full, grouped)]
    assert rows[1]["key"] * 2 == rows[0]["key"]
    assert rows[1].drop(["key", "value", "rotary"]).equals(rows[0].drop(["key", "value", "rotary"]))


def test_the_vision_tower_costs_the_same_whatever_is_kept():
    rows = estimate_costs("7b", [616, 185, 41], text_tokens=40).set_index("prompt_tokens")
    tower = rows[rows["stage"] == "vision_tower"]
    assert len(set(tower["operations"])) == 1
    # 24 blocks of 12 C^2 products per token and the scores, and the patch embedding
    products = 24 * (2 * 577 * 12 * 1024**2 + 4 * 1024 * 577**2) + 2 * 576 * 588 * 1024
    assert tower["operations"].iloc[0] == pytest.approx(products, rel=0.005)
    projector = rows[rows["stage"] == "projector"]["operations"]
    assert projector[616] == 576 * projector[41] and projector[185] == 145 * projector[41]
    assert projector[41] == 2 * (1024 * 4096 + 4096**2) + 5 * 4096
    assert (tower[["cache_read_bytes", "cache_write_bytes"]] == 0).all(axis=None)


def test_blocks_that_are_not_run_cost_nothing():
    settings = {"prompt_tokens": 616, "text_tokens": 40}
    rows = [estimate_costs("7b", vision_layers=n, **settings).iloc[0] for n in (1, 23, 24)]
    counts = [row["operations"] for row in rows]
    assert counts[2] - counts[1] == pytest.approx((counts[1] - counts[0]) / 22)
    assert estimate_costs("7b", **settings).iloc[0]["operations"] == counts[2]


def test_several_pictures_are_encoded_each():
    rows = [estimate_costs("7b", 616, text_tokens=40, pictures=n).iloc[0] for n in (1, 3)]
    assert rows[1]["operations"] == 3 * rows[0]["operations"]


def test_weights_are_counted_exactly():
    config = LlavaConfig(text_config=small_llama(), vision_config=small_clip(), image_token_index=5)
    with torch.device("meta"):
        llava = LlavaForConditionalGeneration(config)
        tied = AutoModelForCausalLM.from_config(small_llama(tie_word_embeddings=True))
    numbers = sum(weight.numel() for weight in llava.parameters())
    assert weight_bytes(config, "fp16") == 2 * numbers
    assert weight_bytes(config, "int4") == numbers / 2
    assert weight_bytes(tied.config, "int8") == sum(w.numel() for w in tied.parameters())


def test_named_models_are_llava_of_that_size():
    with torch.device("meta"):
        text = AutoModelForCausalLM.from_config(LlamaConfig())
    assert NAMED["7b"].language == read_shape(LlamaConfig()).language
    alone = ModelShape("text", NAMED["7b"].language)
    assert weight_bytes(alone, "int8") == sum(w.numel() for w in text.parameters())
    tower = CLIPVisionConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
        image_size=336, patch_size=14,
    )  # fmt: skip
    config = LlavaConfig(text_config=LlamaConfig(), vision_config=tower)
    assert read_shape(config).vision == NAMED["7b"].vision


def test_linear_operations_are_two_per_weight_and_token():
    """Against the real layers: every matrix of a Llama, its number of values, times two."""
    config = small_llama()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    matrices = sum(w.numel() for n, w in model.model.layers.named_parameters() if w.ndim == 2)
    rows = list_operations(config, 9).set_index("operation")["operations"]
    names = ["query", "key", "value", "attention_output", "gate", "up", "down"]
    assert rows[names].sum() == 2 * matrices * 9


def test_footprint_is_weights_cache_and_live_activations():
    rows = estimate_memory("7b", [616, 185], batch=[1, 8], new_tokens=11)
    assert list(rows["batch"]) == [1, 1, 8, 8]
    for _, row in rows.iterrows():
        parts = row["weight_bytes"] + row["kv_cache_bytes"] + row["activation_bytes"]
        assert row["footprint_bytes"] == parts
        assert row["kv_cache_bytes"] == row["batch"] * (row["prompt_tokens"] + 10) * 2**19
    small = ModelShape("small", SMALL)
    plain = estimate_memory(small, 100)["activation_bytes"][0]
    assert plain == 2 * 100 * (12 + 2 * 12) + 2 * 2 * 4 * 100 * 100
    flash = estimate_memory(small, 100, flash_attention=True)["activation_bytes"][0]
    assert flash == 2 * 100 * (2 * 12 + 3 * 20)


def test_sequences_are_crossed_and_rows_say_what_they_are():
    own = Hardware("mine", 1e12, 100e12, 200e12, 24e9)
    rows = estimate_costs(
        "13b", [80, 616], ["V100", own], ["fp16", "int8"], [1, 2], [False, True], text_tokens=40
    )
    key = ["hardware", "precision", "flash_attention", "batch", "prompt_tokens", "stage"]
    assert len(rows) == 2**5 * 3 and not rows.duplicated(key).any()
    assert set(rows["hardware"]) == {"V100", "mine"} and set(rows["model"]) == {"13b"}
    assert set(rows["visual_tokens"]) == {40, 576}
    assert not rows.isna().any(axis=None)


def test_faster_cards_and_smaller_numbers_never_take_longer():
    rows = estimate_costs("7b", [80, 616], ["A100-40GB", "A100", "H100", "H200"])
    times = rows.pivot_table(index="prompt_tokens", columns="hardware", values="time_ms")
    assert (times[["A100-40GB", "A100", "H100", "H200"]].diff(axis=1).iloc[:, 1:] < 0).all(
        axis=None
    )
    rows = estimate_costs("7b", 616, "H100", ["fp16", "w4a16", "int8", "int4"])
    assert rows["time_ms"].is_monotonic_decreasing
    # Small weights do not help arithmetic, but a decoding step they do.
    rows = estimate_costs("7b", 616, "H100", ["fp16", "w4a16"], new_tokens=2).set_index("stage")
    assert rows.loc["decode", "time_ms"].iloc[1] < rows.loc["decode", "time_ms"].iloc[0] / 3


def test_int8_arithmetic_is_slower_on_a_v100():
    rows = estimate_costs("7b", 616, "V100", ["fp16", "int8", "int4"])
    assert rows["time_ms"][1] > rows["time_ms"][0] and rows["time_ms"][2] > rows["time_ms"][0]


def test_names_in_any_case_and_objects_are_understood():
    rows = [estimate_costs("7b", 80, h, p) for h, p in (("V100", "fp16"), ("v100", "FP16"))]
    rows.append(estimate_costs(NAMED["7b"], 80, HARDWARE["V100"], PRECISIONS["fp16"]))
    rows.append(estimate_costs("7b", 80, "V100", convention=CONVENTIONS["complete"]))
    assert all(each.equals(rows[0]) for each in rows)
