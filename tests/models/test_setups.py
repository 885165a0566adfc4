"""Models as they are offloaded, wrapped, compiled, copied and replicated: the stock way goes on."""

import copy

import pytest
import torch
from accelerate import Accelerator, cpu_offload, disk_offload, dispatch_model
from accelerate.state import AcceleratorState
from peft import LoraConfig, get_peft_model
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from toy import PATCHES, SIZE, batch, pictures, prompt, tiny_llava
from transformers import (
    Aimv2VisionConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MLCDVisionConfig,
    SiglipVisionConfig,
    ViTConfig,
)

import prumerge
from prumerge.models.attachment import attachment_of

LAYERS = {f"model.language_model.layers.{index}": "cpu" for index in range(3)}
PARTS = LAYERS | {
    "model.vision_tower": "cpu",
    "model.multi_modal_projector": "cpu",
    "model.language_model.embed_tokens": "cpu",
    "model.language_model.rotary_emb": "cpu",
    "model.language_model.norm": "cpu",
    "lm_head": "cpu",
}


def two_prompts():
    return batch(prompt(3, 5), prompt(2, 0, 9)) | {"pixel_values": pictures(3)}


@torch.no_grad()
def answers(model):
    """What ``generate`` and ``forward`` say; two set-ups agree on both."""
    inputs = two_prompts()
    new = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    return new, model(**inputs).logits


def assert_same(found, expected):
    assert torch.equal(found[0], expected[0])
    close(found[1], expected[1])


def close(found, expected):
    """Weights at other addresses are added up in another order."""
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


def on_disk(*parts):
    def place(model, folder):
        map_ = PARTS | dict.fromkeys(parts, "disk")
        dispatch_model(model, map_, main_device="cpu", offload_dir=folder, force_hooks=True)

    return place


OFFLOADED = {
    "all in memory": lambda model, _: cpu_offload(model, execution_device="cpu"),
    "all on disk": lambda model, folder: disk_offload(model, folder, execution_device="cpu"),
    "encoder": on_disk("model.vision_tower"),
    "words and projector": on_disk(
        "model.language_model.embed_tokens", "model.multi_modal_projector"
    ),
    "last layers": on_disk("model.language_model.layers.2", "lm_head"),
}


@pytest.mark.parametrize("attached_first", [True, False])
@pytest.mark.parametrize("place", OFFLOADED.values(), ids=OFFLOADED)
def test_offloaded_weights_are_brought_where_they_compute(place, attached_first, tmp_path):
    # Keys from a block that is run, and values beside them.
    how = {"key_layer": 0, "score": "value_weighted"}
    model = tiny_llava()
    with prumerge.attach(model, "prumerge", **how):
        expected = answers(model)
    if not attached_first:
        place(model, tmp_path)
    prumerge.attach(model, "prumerge", **how)
    if attached_first:
        place(model, tmp_path)
    assert any(weight.is_meta for weight in model.parameters())
    assert_same(answers(model), expected)


def test_smaller_pictures_need_an_encoder_in_memory():
    model = cpu_offload(tiny_llava(), execution_device="cpu")
    with pytest.raises(RuntimeError), torch.no_grad():  # why: the stock encoder cannot do it
        model.model.vision_tower(pictures(1)[..., :14, :14], interpolate_pos_encoding=True)
    with prumerge.attach(model, "small_picture", budget=4):
        with pytest.raises(ValueError, match=r"offloaded: keep model\.vision_tower"):
            answers(model)


def replica_of(model, factor):
    """What ``DataParallel`` makes for another card, its weights multiplied to tell them apart.

    ``torch.nn.parallel.replicate`` does the same, and moves the weights between cards.
    """
    modules = list(model.modules())
    replicas = {id(module): module._replicate_for_data_parallel() for module in modules}
    for module in modules:
        replica = replicas[id(module)]
        for name, child in module._modules.items():
            replica._modules[name] = replicas[id(child)]
        for name, weight in module._parameters.items():
            if weight is None:
                replica._parameters[name] = None
            else:
                setattr(replica, name, weight.detach() * (factor if module is model.lm_head else 1))
    return replicas[id(model)]


def test_a_replica_runs_itself_not_the_original():
    model, inputs = tiny_llava(), two_prompts()
    with prumerge.attach(model), torch.no_grad():
        replica = replica_of(model, 2)
        close(replica(**inputs).logits, 2 * model(**inputs).logits)
        assert replica.forward.__self__ is replica and model.forward.__self__ is model
    assert not [name for name in vars(model) if name.startswith("_replicate")]


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("detached", [True, False])
def test_what_accelerate_prepared_is_unwrapped(precision, detached):
    model = tiny_llava()
    stock = answers(model)
    reducer = prumerge.attach(model, "prumerge")
    expected = answers(model)
    assert not torch.equal(expected[0], stock[0])
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    prepared = accelerator.prepare(model)
    answers(prepared)
    if detached:
        reducer.detach()
    inside = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    assert inside is model
    assert_same(answers(inside), stock if detached else expected)
    reducer.detach()
    assert_same(answers(inside), stock)


def test_compiled_before_attaching():
    model, inputs = tiny_llava(), two_prompts()
    with prumerge.attach(model, "prumerge+"), torch.no_grad():
        expected = model(**inputs).logits
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph

    compiled = torch.compile(model, backend=count)
    with prumerge.attach(compiled, "prumerge+") as reducer, torch.no_grad():
        assert attachment_of(model) is attachment_of(compiled) is reducer
        close(compiled(**inputs).logits, expected)
        assert reducer.kept and graphs  # the stock pass is compiled all the same
    assert attachment_of(compiled) is None


def test_adapters_and_parallel_wrappers_are_attached_to_inside():
    model = tiny_llava()
    with prumerge.attach(model, "prumerge"):
        expected = answers(model)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=True)
    tuned = get_peft_model(model, config).eval()
    with prumerge.attach(tuned, "prumerge") as reducer:
        assert_same(answers(tuned), expected)
        assert attachment_of(tuned) is attachment_of(model) is reducer
    wrapped = torch.nn.DataParallel(tiny_llava())
    with prumerge.attach(wrapped, "prumerge") as reducer, torch.no_grad():
        close(wrapped(**two_prompts()).logits, expected[1])
        assert reducer.model is wrapped.module


def test_a_copy_has_an_attachment_and_weights_of_its_own():
    model = tiny_llava()
    reducer = prumerge.attach(model, "prumerge")
    twin = copy.deepcopy(model)
    expected = answers(model)
    with torch.no_grad():
        model.model.multi_modal_projector.linear_2.weight.zero_()
        model.model.vision_tower.encoder.layers[0].mlp.fc1.weight.zero_()
    reducer.detach()
    assert_same(answers(twin), expected)
    assert attachment_of(twin).model is twin and attachment_of(twin).kept


def llava_with(encoder, strategy):
    """A LLaVA with a tower of another build."""
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 4, "image_size": SIZE, "patch_size": SIZE // 4}
    like = tiny_llava().config
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=encoder(**small),
            text_config=like.text_config,
            image_token_id=like.image_token_id,
            image_seq_length=PATCHES,
            vision_feature_select_strategy=strategy,
        )
    ).eval()


@pytest.mark.parametrize("encoder", [MLCDVisionConfig, Aimv2VisionConfig])
@pytest.mark.parametrize("strategy", ["default", "full"])
def test_encoders_that_cannot_be_read_are_refused_when_attaching(encoder, strategy):
    with pytest.raises(ValueError, match="is not built like a vision tower"):
        prumerge.attach(llava_with(encoder, strategy), score="received")


@pytest.mark.parametrize("encoder", [SiglipVisionConfig, Dinov2Config, ViTConfig])
def test_all_tokens_of_other_towers_are_what_the_stock_model_reads(encoder):
    model = llava_with(encoder, "full" if encoder is SiglipVisionConfig else "default")
    with torch.no_grad():
        expected = model(**two_prompts()).logits
        with prumerge.attach(
            model, budget=PATCHES, score="received", neighbours=0, extra_token=False, order="raster"
        ) as reducer:
            found = model(**two_prompts()).logits
    assert reducer.kept == [PATCHES] * 3
    close(found, expected)


def test_registers_that_a_llava_would_send_are_refused_when_attaching():
    with pytest.raises(ValueError, match=r"4 register or distillation tokens.*encode and reduce"):
        prumerge.attach(llava_with(Dinov2WithRegistersConfig, "default"))


def test_a_layer_that_no_block_reads_is_refused_when_attaching():
    model = tiny_llava(vision_feature_layer=-1)
    with pytest.raises(ValueError, match="no block reads feature layer -1: set score_layer"):
        prumerge.attach(model)
    with prumerge.attach(model, score_layer=-1, key_layer=-1) as reducer:
        answers(model)
    assert max(reducer.kept) <= PATCHES


def test_a_list_of_one_layer_is_that_layer():
    one, number = tiny_llava(vision_feature_layer=[-2]), tiny_llava(vision_feature_layer=-2)
    stock = one(**two_prompts()).logits
    with prumerge.attach(one, "all", order="raster"):
        assert torch.equal(one(**two_prompts()).logits, stock)
    with prumerge.attach(one), prumerge.attach(number):
        assert_same(answers(one), answers(number))


@pytest.fixture
def mesh(tmp_path):
    """One process that shards with itself: its weights are as sharded as those of many."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1
    )
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.parametrize("first", ["generate", "forward"])
def test_sharded_layers_are_gathered_for_the_scores(first, mesh):
    model, inputs = tiny_llava().requires_grad_(False), two_prompts()
    with prumerge.attach(model, "prumerge", key_layer=0):
        expected = answers(model)
    for block in (*model.model.vision_tower.encoder.layers, *model.model.language_model.layers):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    with prumerge.attach(model, "prumerge", key_layer=0), torch.no_grad():
        if first == "forward":
            close(model(**inputs).logits, expected[1])
        assert_same(answers(model), expected)
        blocks = model.model.vision_tower.encoder.layers
        assert all(isinstance(weight, DTensor) for weight in blocks.parameters())  # sharded again
    blocks.requires_grad_(True)
    with prumerge.attach(model, "prumerge"), pytest.raises(ValueError, match="freeze model"):
        model(**inputs)
