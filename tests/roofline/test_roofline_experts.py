"""The cost model's mixtures of experts against the stock models: weights, operations, reading."""

import pytest
import torch
from roofline_samples import MIXTURES, QWEN, products_of
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GptOssConfig,
    Qwen2MoeConfig,
)

from prumerge.roofline import (
    CONVENTIONS,
    PRECISIONS,
    estimate_costs,
    estimate_memory,
    estimate_prefill,
    list_operations,
    read_shape,
    weight_bytes,
)
from prumerge.roofline.operations import language_operations, layered_operations

HOW = (PRECISIONS["fp16"], CONVENTIONS["complete"], False)
TRIED = MIXTURES | {"Qwen3-VL-MoE": QWEN["Qwen3-VL-MoE"]}
each_mixture = pytest.mark.parametrize("config", TRIED.values(), ids=TRIED)


def built(config):
    kind = AutoModelForImageTextToText if config in QWEN.values() else AutoModelForCausalLM
    return kind.from_config(config, attn_implementation="eager")


@each_mixture
def test_operations_are_those_that_torch_counts(config):
    """Of two prompts of seven tokens; torch counts the scores of later tokens too."""
    model = built(config)
    model.set_experts_implementation("eager")
    ids = torch.arange(14).view(2, 7)
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        model(input_ids=ids, logits_to_keep=1)
    listed = language_operations(read_shape(config).language, 7, 7, 2, *HOW)
    assert products_of(listed) == counted.get_total_flops()


@pytest.mark.parametrize("config", MIXTURES.values(), ids=MIXTURES)
def test_weights_are_those_of_all_experts_and_the_router(config):
    with torch.device("meta"):
        model = built(config)
    loose = ("q_norm.weight", "k_norm.weight", "norm.bias")  # the latter is PhiMoE's
    numbers = sum(w.numel() for name, w in model.named_parameters() if not name.endswith(loose))
    assert weight_bytes(config) == 2 * numbers


def test_which_experts_are_read_follows_from_uniform_routing():
    language = read_shape(MIXTURES["Qwen3-MoE"]).language
    assert language.experts_read(1) == pytest.approx(2)
    assert language.experts_read(1000) == pytest.approx(5)
    drawn = torch.rand(4000, 3, 5, generator=torch.Generator().manual_seed(0)).topk(2).indices
    distinct = torch.nn.functional.one_hot(drawn, 5).amax(dim=(1, 2)).sum(dim=1).double()
    error = distinct.std() / len(distinct) ** 0.5
    assert abs(distinct.mean() - language.experts_read(3)) < 3 * error < 0.1


def test_decoding_reads_the_experts_of_the_batch_and_computes_those_of_each_token():
    config = MIXTURES["Qwen3-MoE"]
    how = {"prompt_tokens": 5, "stage": "decode"}
    one, three = (list_operations(config, batch=n, **how).set_index("operation") for n in (1, 3))
    matrix, layers = 32 * 20, 3
    for name in ("expert_gate", "expert_up", "expert_down"):
        assert one.loc[name, "weight_bytes"] == pytest.approx(layers * 2 * matrix * 2)
        read = 5 * (1 - (1 - 2 / 5) ** 3)
        assert three.loc[name, "weight_bytes"] == pytest.approx(layers * read * matrix * 2)
        assert three.loc[name, "operations"] == 3 * one.loc[name, "operations"]
        assert one.loc[name, "operations"] == layers * 2 * (2 * matrix)
    assert one.loc["router", "weight_bytes"] == layers * 32 * 5 * 2
    assert one.loc["routing", "operations"] == layers * 5 * 5
    assert one.loc["mixing", "operations"] == layers * 2 * 2 * 32


def test_layers_without_experts_are_where_the_config_has_them():
    config = MIXTURES["some dense"]
    assert read_shape(config).language.dense == (0, 1, 2)
    listed = layered_operations(read_shape(config).language, [7, 7, 7, 3], 1, *HOW)
    gates = {(each.name, each.operations, each.repeats) for each in listed if "gate" in each.name}
    assert gates == {("gate", 2 * 32 * 48 * 7, 3), ("expert_gate", 2 * 32 * 20 * 2 * 3, 1)}
    listed = layered_operations(read_shape(config).language, [9, 7, 7, 7], 1, *HOW)
    gates = [(each.name, each.repeats) for each in listed if "gate" in each.name]
    assert gates == [("gate", 1), ("gate", 2), ("expert_gate", 1)]
    whole = estimate_costs(config, 7).iloc[0]
    assert estimate_prefill(config, [7] * 4)["time_ms"] == pytest.approx(whole["time_ms"])


def test_live_activations_are_those_of_all_experts_of_a_token():
    mixtral, sparse = (MIXTURES[name] for name in ("mixtral", "Qwen3-MoE"))
    for config, inner in ((mixtral, 2 * 48), (sparse, 2 * 20)):
        row = estimate_memory(config, 100, flash_attention=True).iloc[0]
        assert row["activation_bytes"] == 2 * 100 * (2 * 32 + 3 * inner)


@pytest.mark.parametrize("config", [Qwen2MoeConfig(), GptOssConfig()])
def test_other_mixtures_are_refused(config):
    with pytest.raises(
        ValueError, match=r"'\w+' is not Llama-shaped: it has experts unlike those of"
    ):
        read_shape(config)


def test_the_papers_tool_knows_no_experts():
    with pytest.raises(ValueError, match="'llm-viewer' knows no mixture of experts: pass conv"):
        estimate_costs(MIXTURES["mixtral"], 80, convention="llm-viewer")
