"""Timing: the stages are those of a real answer, rows survive, tables say what rows hold."""

import time

import pandas as pd
import pytest
import torch
from samples import encoded
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from toy import PATCHES, tiny_llava
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from prumerge import PRESETS, reduce_tokens
from prumerge.experiments import timing
from prumerge.experiments.evaluation.options import Options
from prumerge.experiments.timing.__main__ import main, parse
from prumerge.experiments.timing.peaks import SIDE, known_card
from prumerge.experiments.timing.runs import answer_in_stages
from prumerge.experiments.timing.stages import Answering, check_attention
from prumerge.experiments.timing.tables import KIND, per_token
from prumerge.paths import RESULTS, RUNS
from prumerge.roofline import NAMED, Precision, estimate_costs


@pytest.fixture(scope="module")
def subject():
    size = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    return timing.Subject("toy", "random", tiny_llava(), CLIPImageProcessorPil(**size))


@pytest.fixture(autouse=True)
def small_products(monkeypatch):
    """Seconds of multiplying for the peaks are not what is tested here."""
    monkeypatch.setitem(SIDE, "cpu", 64)


def small(**changes):
    usual = {"budgets": (PATCHES, 5), "batches": (1, 2), "new_tokens": (1, 3), "text_tokens": 4}
    return timing.Grid(**usual | {"repeats": 1} | changes)


# The clock


def test_a_call_is_timed_as_often_as_asked_after_warming_up():
    calls = []
    spread = timing.measure(lambda: calls.append(time.sleep(0.002)), repeats=3, warm_ups=2)
    assert len(calls) == 5 and spread.repeats == 3
    assert 2 <= spread.min_ms <= spread.low_ms <= spread.median_ms <= spread.high_ms
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        timing.measure(print, repeats=0)


def test_peak_memory_counts_what_is_held_at_one_time():
    def one_after_another():
        for _ in range(5):
            torch.zeros(2**20)  # 4 MiB, freed at once

    assert timing.peak_mib(one_after_another) == pytest.approx(4, abs=0.1)
    assert timing.peak_mib(lambda: [torch.zeros(2**20) for _ in range(5)]) == pytest.approx(20, 0.1)


# The stages


@pytest.mark.parametrize(("method", "budget"), [("full", None), ("prumerge+", 5), ("divprune", 3)])
def test_the_stages_one_after_another_give_the_answer_of_generate(subject, method, budget):
    answering = Answering(subject, timing.Case(method, budget, batch=2, text_tokens=4))
    made = answering.encode(answering.preprocess())
    state = answering.prefill(answering.method(made) if answering.method else made)
    once, again = (answering.decode(state, 6) for _ in range(2))
    assert torch.equal(once, again)  # decoding leaves its start as it was
    whole = answering.whole(6)
    assert torch.equal(whole[:, answering.input_ids.shape[1] :], once)


@pytest.mark.parametrize(("method", "extra"), [("full", []), ("top_k", [("reduce", None)])])
def test_stages_come_in_the_order_of_an_answer(subject, method, extra):
    case = timing.Case(method, 4 if extra else None, text_tokens=4, new_tokens=(1, 2))
    found = []

    def observe(stage, length, call):
        found.append((stage, length))
        return call()

    answer_in_stages(Answering(subject, case), observe)
    ends = [("prefill", None), ("decode", 2), ("whole", 1), ("whole", 2)]
    assert found == [("preprocess", None), ("encode", None), *extra, *ends]


def test_decoding_of_each_length_is_seen_to_hold_its_own_tokens(subject):
    """Room that an earlier, longer decoding left in the cache would make it look like nothing."""

    def held(*lengths):
        grid = small(budgets=(PATCHES,), batches=(1,), new_tokens=lengths)
        rows = timing.time_grid(subject, grid).set_index(["stage", "new_tokens"])
        return rows.loc["decode", "peak_mib"]

    assert held(40, 3)[3] == pytest.approx(held(3)[3])
    assert held(40, 3)[40] > 2 * held(3)[3] > 0


# The rows


def test_rows_hold_every_parameter_and_a_second_run_times_nothing_again(subject, tmp_path):
    path = tmp_path / "new" / "rows.csv"
    first = timing.time_grid(subject, small(), path)
    assert len(first) == 2 * (3 + 1 + 2) + 2 * (4 + 1 + 2)  # two batches without, two with method
    assert set(first["budget"]) == {PATCHES, 5} and set(first["prompt_tokens"]) == {20, 9}
    assert (first[["median_ms", "peak_gflop_per_s", "bandwidth_gb_per_s"]] > 0).all(axis=None)
    assert (first.loc[first["stage"] != "preprocess", "peak_mib"] > 0).all()
    assert list(tmp_path.iterdir()) == [path.parent] and list(path.parent.iterdir()) == [path]
    written = path.read_bytes()
    pd.testing.assert_frame_equal(timing.time_grid(subject, small(), path), pd.read_csv(path))
    assert path.read_bytes() == written
    more = timing.time_grid(subject, small(batches=(1, 2, 3)), path)
    assert path.read_bytes().startswith(written) and set(more["batch"]) == {1, 2, 3}


def interrupted(monkeypatch, calls):
    """Make the stage ``preprocess`` end the run after so many calls."""
    usual, made = Answering.preprocess, []

    def stop(answering):
        made.append(answering.case)
        if len(made) > calls:
            raise KeyboardInterrupt
        return usual(answering)

    monkeypatch.setattr(Answering, "preprocess", stop)
    return made


def test_a_stopped_run_keeps_finished_batches_and_goes_on(subject, tmp_path, monkeypatch):
    """The second batch is interrupted while it is timed; the file holds the first, whole."""
    path = tmp_path / "rows.csv"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        # Two budgets, each for memory (in stages and whole, for each of two lengths) and once more
        # (in stages, and whole at both lengths): one batch. Then one call more.
        interrupted(patch, 2 * (2 + 2 + 3) + 1)
        timing.time_grid(subject, small(), path)
    kept = pd.read_csv(path)
    assert set(kept["batch"]) == {1} and len(kept) == 6 + 7
    rest = timing.time_grid(subject, small(), path)
    pd.testing.assert_frame_equal(rest.iloc[:13], kept, check_dtype=False)
    assert set(rest["batch"]) == {1, 2}


def test_budgets_of_a_batch_take_turns(subject, monkeypatch):
    made = interrupted(monkeypatch, 1000)
    timing.time_grid(subject, small(repeats=2, new_tokens=(2,), memory=False))
    answers = [(case.batch, case.method) for case in made[::2]]  # in stages, and whole
    turn = ["full", "prumerge+"]
    assert answers == [(batch, method) for batch in (1, 2) for _ in range(3) for method in turn]


def test_what_takes_long_is_not_repeated_any_more(subject, monkeypatch):
    """Each answer takes two calls: for memory, and the only repeat that fits."""
    made = interrupted(monkeypatch, 1000)
    grid = small(repeats=5, most_s=0.0001, new_tokens=(2,), batches=(1,))
    rows = timing.time_grid(subject, grid)
    assert len(made) == 2 * (2 + 2) and set(rows["repeats"]) == {1}
    assert (rows.loc[rows["stage"] == "whole", "peak_mib"] > 0).all()


def test_several_pictures_in_a_prompt_are_tiles_of_one(subject):
    grid = small(pictures=5, batches=(2,), new_tokens=(3,))
    rows = timing.time_grid(subject, grid)
    assert set(rows["prompt_tokens"]) == {4 + 5 * PATCHES, 4 + 5 * 5}
    answering = Answering(subject, timing.Case("prumerge+", 5, 2, text_tokens=4, pictures=5))
    state = answering.prefill(answering.method(answering.encode(answering.preprocess())))
    whole = answering.whole(6)[:, answering.input_ids.shape[1] :]
    assert torch.equal(whole, answering.decode(state, 6)) and state["mask"].shape[1] == 4 + 25
    row = {"model": "7b-random", "weights": "random", "layers": 2, "vision_layers": 3} | {
        "dtype": "bfloat16", "device": "NVIDIA H200", "attention": "sdpa", "method": "full",
        "budget": 576, "batch": 1, "text_tokens": 40, "pictures": 5, "new_tokens": None,
        "prompt_tokens": 40 + 2880, "stage": "encode", "median_ms": 10.0,
    }  # fmt: skip
    both = timing.beside_roofline(pd.DataFrame([row, row | {"pictures": 1, "prompt_tokens": 616}]))
    five, one = both["estimated_ms"]
    assert 3 < five / one <= 5  # weights are read once


def test_a_case_timed_anew_replaces_its_rows(subject, tmp_path):
    path = tmp_path / "rows.csv"
    timing.time_grid(subject, small(new_tokens=(3,)), path)
    more = timing.time_grid(subject, small(new_tokens=(3, 4)), path)
    assert not more.duplicated([*KIND, "stage", "new_tokens"]).any()
    assert set(more["new_tokens"].dropna()) == {3, 4} and len(timing.throughput(more)) == 8
    older = more.assign(torch="0.1")
    older.to_csv(path, index=False)
    anew = timing.time_grid(subject, small(new_tokens=(3, 4)), path)
    assert len(anew) == len(more) and set(anew["torch"]) == set(more["torch"])
    with pytest.raises(ValueError, match=r"several preprocess rows of model toy.*one file per"):
        timing.answer_times(pd.concat([older, more]))


def test_rows_from_before_memory_ended_are_still_read(subject, tmp_path):
    path = tmp_path / "rows.csv"
    rows = timing.time_grid(subject, small(batches=(1,)), path)
    rows.drop(columns="out_of_memory_at").to_csv(path, index=False)
    again = timing.time_grid(subject, small(batches=(1,)), path)
    assert len(again) == len(rows) and again["out_of_memory_at"].isna().all()
    assert timing.throughput(timing.read_rows(tmp_path))["out_of_memory_at"].isna().all()


class RoomFor(TorchDispatchMode):
    """Tensors of more than so many MiB are refused, by torch's own error for want of memory.

    A limit of the process's memory would not do: now and then other allocations fail first, and
    some libraries do not recover from that.
    """

    def __init__(self, mib):
        super().__init__()
        self.most = mib * 2**20

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if any(
            isinstance(own, torch.Tensor) and own.nbytes > self.most for own in tree_leaves(made)
        ):
            torch.empty(2**60)
        return made


def test_memory_that_runs_out_is_told_noted_and_not_tried_again(subject, tmp_path, capsys):
    how = {"batches": (1,), "text_tokens": 200, "attention": ("eager",), "until_full": True}
    path = tmp_path / "rows.csv"
    with RoomFor(2):
        rows = timing.time_grid(subject, small(**how), path)
    peaks, *told = capsys.readouterr().err.splitlines()
    assert peaks == "out of memory: peaks are not measured, so rows have no roofline"
    ended = rows[rows["stage"] == "encode"].dropna(subset="out_of_memory_at").set_index("budget")
    assert set(ended.index) == {PATCHES, 5}  # each budget ends by itself, and all batches before
    for budget, row in ended.iterrows():
        assert row["out_of_memory_at"] == 2 * row["batch"]
        batches = sorted(set(rows.loc[rows["budget"] == budget, "batch"]))
        assert (
            batches == [2**power for power in range(len(batches))] and batches[-1] == row["batch"]
        )
    assert ended.loc[5, "batch"] >= ended.loc[PATCHES, "batch"]
    sentence = (
        f"out of memory: batch {2 * ended.loc[PATCHES, 'batch']} with 16 visual tokens (eager)"
    )
    assert len(told) == 2 and any(line.startswith(sentence) and str(path) in line for line in told)
    written = path.read_bytes()
    timing.time_grid(subject, small(**how), path)  # with all memory, but nothing is left to try
    assert path.read_bytes() == written


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        ([], RESULTS),
        (["--budgets", "576", "144", "64", "32", "--repeats", "5"], RESULTS),
        (["--repeats", "1"], RUNS),
        (["--model", "random-7b"], RUNS),
    ],
)
def test_only_a_run_with_the_defaults_joins_the_committed_rows(arguments, folder):
    assert parse(arguments).folder == folder / "timing"


def test_cases_that_are_timed_already_are_counted(subject, tmp_path, capsys):
    timing.time_grid(subject, small(batches=(1,)), tmp_path / "rows.csv")
    assert "already" not in capsys.readouterr().out
    timing.time_grid(subject, small(batches=(1,)), tmp_path / "rows.csv")
    assert "batch 1, sdpa: 2 cases are timed already\n" in capsys.readouterr().out


# What rows say


def rows_by_hand():
    """Batch 2: full 10 + 40 ms, 5 per step; reduced 10 + 2 + 8 ms, 4 per step; 3 tokens."""
    constant = dict(zip(KIND[:7], ["m", "random", 2, "float32", "d", "sdpa", 40], strict=True))
    constant |= {"batch": 2, "pictures": 1, "out_of_memory_at": None}
    stages = {
        ("full", 576): {"encode": 10, "prefill": 40, "decode": 10, "whole": 80},
        ("top_k", 64): {"encode": 10, "reduce": 2, "prefill": 8, "decode": 8, "whole": 40},
    }
    return pd.DataFrame([
        constant | {"method": method, "budget": budget, "stage": stage, "median_ms": ms,
                    "new_tokens": 3 if stage in ("decode", "whole") else None}
        for (method, budget), times in stages.items() for stage, ms in times.items()
    ])  # fmt: skip


def test_times_of_an_answer_are_summed_from_its_stages():
    times = timing.answer_times(rows_by_hand()).droplevel([n for n in KIND if n != "budget"])
    assert times["sum"].to_dict() == {(64, 3.0): 28, (576, 3.0): 60}
    assert times.loc[(576, 3.0), "reduce"] == 0
    parts = per_token(rows_by_hand())
    assert parts["first_ms"].tolist() == [50, 20] and parts["step_ms"].tolist() == [5, 4]
    with pytest.raises(ValueError, match=r"no decode rows of .*method full.*--new-tokens 64"):
        per_token(rows_by_hand().query("stage != 'decode'"))


def test_throughput_counts_answers_per_second():
    found = timing.throughput(rows_by_hand()).set_index("budget")
    assert found["answers_per_s"].to_dict() == {576: 25.0, 64: 50.0}
    assert found["speed_up"].to_dict() == {576: 1.0, 64: 2.0} and found["largest"].all()


def test_throughput_compares_each_budget_at_its_own_largest_batch():
    """All tokens do not fit at batch 4; few do, in 64 ms."""
    rows = rows_by_hand()
    rows.loc[rows["method"] == "full", "out_of_memory_at"] = 4
    few = rows[(rows["method"] != "full") & (rows["stage"] == "whole")]
    rows = pd.concat([rows, few.assign(batch=4, median_ms=64)])
    found = timing.throughput(rows).set_index(["budget", "batch"])
    assert found["largest"].to_dict() == {(576, 2): True, (64, 2): False, (64, 4): True}
    assert found.loc[(64, 4), "answers_per_s"] == 62.5 and pd.isna(found.loc[(64, 4), "speed_up"])
    assert found.loc[(64, 4), "largest_speed_up"] == 2.5
    assert pd.isna(found.loc[(64, 2), "largest_speed_up"])
    assert found.loc[(576, 2), "out_of_memory_at"] == 4


def test_break_even_is_the_length_from_which_reduction_pays():
    (row,) = timing.break_even(rows_by_hand(), worth=2.0).to_dict("records")
    # 50 + 5 s >= 2 * (20 + 4 s) up to s = 3.33 steps, that is 4 tokens
    assert (row["break_even_tokens"], row["last_tokens"]) == (1, 4)
    slower = rows_by_hand().replace({"median_ms": {40: 9}})  # 19 ms to the first token against 20
    (row,) = timing.break_even(slower, longest=100).to_dict("records")
    assert (row["break_even_tokens"], row["last_tokens"]) == (2, 100)
    (row,) = timing.break_even(rows_by_hand(), worth=3.0).to_dict("records")
    assert pd.isna(row["break_even_tokens"])


def test_the_estimate_beside_a_measurement_is_the_rooflines():
    row = {
        "model": "7b-random", "weights": "random", "layers": 2, "vision_layers": 3,
        "dtype": "bfloat16", "device": "NVIDIA H100 80GB HBM3", "attention": "sdpa",
        "method": "prumerge+", "budget": 64, "batch": 4, "text_tokens": 40, "prompt_tokens": 104,
        "pictures": 1,
        "new_tokens": 8, "stage": "decode", "median_ms": 10.0,
    }  # fmt: skip
    (found,) = timing.beside_roofline(pd.DataFrame([row])).to_dict("records")
    shape = timing.peaks._shape(row)
    assert (shape.language.layers, shape.vision.layers) == (2, 3)
    assert shape.language.width == NAMED["7b"].language.width
    costs = estimate_costs(
        shape, 104, "H100", Precision("x", 16, 16, 16), 4, True, new_tokens=8
    ).set_index("stage")
    assert found["estimated_ms"] == costs.loc["decode", "time_ms"]
    assert found["share"] == found["estimated_ms"] / 10 and found["peaks_of"] == "H100"
    own = row | {"device": "CPU", "peak_gflop_per_s": 989.5e3, "bandwidth_gb_per_s": 3350.0}
    (measured,) = timing.beside_roofline(pd.DataFrame([own])).to_dict("records")
    assert measured["estimated_ms"] == pytest.approx(found["estimated_ms"])
    with pytest.raises(ValueError, match="unknown hardware 'H900': there are V100"):
        timing.beside_roofline(pd.DataFrame([row]), "H900")


def test_the_highest_peaks_of_a_device_are_the_roofline():
    row = {
        "model": "7b-random", "weights": "random", "layers": 2, "vision_layers": 3,
        "dtype": "float32", "device": "NVIDIA H100 80GB HBM3", "attention": "sdpa",
        "method": "full", "budget": 576, "batch": 1, "text_tokens": 40, "prompt_tokens": 616,
        "pictures": 1,
        "new_tokens": None, "stage": "encode", "median_ms": 10.0,
        "peak_gflop_per_s": 150.0, "bandwidth_gb_per_s": 30.0,
    }  # fmt: skip
    slow = timing.beside_roofline(pd.DataFrame([row]))
    assert slow["peaks_of"].item() == "measured here"  # 32 bits: the data sheet's are of 16
    faster = row | {"batch": 2, "peak_gflop_per_s": 300.0, "bandwidth_gb_per_s": 60.0}
    both = timing.beside_roofline(pd.DataFrame([row, faster]))
    assert both["estimated_ms"][0] == pytest.approx(slow["estimated_ms"][0] / 2)


@pytest.mark.parametrize(
    ("device", "card"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("Tesla V100-PCIE-32GB", "V100"),
        # Of the same chip, but slower or faster than the data sheets' cards.
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA A100 80GB PCIe", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("Tesla V100-SXM2-32GB", None),
        ("NVIDIA H20", None),
    ],
)
def test_cards_are_known_by_the_names_that_torch_gives_them(device, card):
    assert getattr(known_card(device), "name", None) == card
    assert known_card(device, "float32") is None


def test_the_readmes_table_holds_what_is_printed_computed_and_measured(tmp_path):
    rows = rows_by_hand().assign(prompt_tokens=[616] * 4 + [104] * 5)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    lines = timing.efficiency_table(tmp_path)[2:]
    assert "10.2 times fewer" in lines[0] and "5.8 times less" in lines[0]
    assert "7.9 times fewer" in lines[1] and "5.0 times less" in lines[1]
    assert "616 and 104 | - | 5.0 times less | 2.0 times less (3 tokens)" in lines[2]
    with pytest.raises(ValueError, match=r"no timing rows in .*make timing"):
        timing.efficiency_table(tmp_path / "nowhere")


# Models, and what is refused


def test_random_weights_have_the_shape_of_llava():
    subject = timing.load_subject("random-7b", "meta", layers=1)  # no numbers, no memory
    text, vision = subject.model.config.text_config, subject.model.config.vision_config
    language = NAMED["7b"].language
    assert (text.hidden_size, text.intermediate_size) == (language.width, language.inner_width)
    assert (text.num_hidden_layers, vision.num_hidden_layers, subject.patches) == (1, 3, 576)
    assert subject.weights == "random" and vision.image_size == 336
    assert subject.name == "7b-random"  # as in the committed rows


def test_the_older_spelling_of_random_weights_is_one_sentence():
    with pytest.warns(FutureWarning, match="7b-random is called random-7b now"):
        subject = timing.load_subject("7b-random", "meta", layers=1)
    assert subject.name == "7b-random"
    with pytest.warns(FutureWarning, match="13b-random is called random-13b now"):
        assert Options("13b-random").pretrained == "random-13b"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--device", "cuda", "--model", "random-7b"], "no CUDA device"),
        (["--device", "cuda"], "no CUDA device"),
        (["--model", "8b-random"], "no shape '8b-random': did you mean 'random-7b'"),
        (["--model", "random-8b"], "no shape 'random-8b': did you mean 'random-7b'"),
        (["--model", "random-7b", "--layers", "33"], "layers must be 1 to 32, got 33"),
        (["--layers", "2"], "cuts random weights only"),
        (["--attention", "flash_attention_2"], "needs a CUDA device: use attention sdpa"),
        (["--device", "gpu"], "device='gpu' is none that torch knows: use 'cpu' or 'cuda'"),
        (["--model", "random-7b", "--device", "gpu"], "device='gpu' is none that torch knows"),
        (["--model", "random-7b", "--layers", "1", "--dtype", "bf16"], "dtype='bf16' is no prec"),
        (["--model", "random-7b", "--layers", "1", "--dtype", "int8"], "use 'float32', 'bfloat16'"),
        (["--attention", "spda"], "did you mean 'sdpa'"),
        (["--method", "prumrege"], "did you mean 'prumerge'"),
        (["--batches", "0"], "batches must be numbers of at least 1, got [0]"),
        (["--repeats", "0"], "repeats must be at least 1, got 0"),
        (["--pictures", "0"], "pictures must be at least 1, got 0"),
    ],
)
def test_bad_arguments_end_in_one_sentence(arguments, told, capsys, tmp_path):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert main([*arguments, "--rows", str(tmp_path / "rows.csv")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line and list(tmp_path.iterdir()) == []


def test_flash_attention_is_refused_where_it_cannot_run():
    check_attention("flash_attention_2", "cuda:0", torch.bfloat16)
    with pytest.raises(ValueError, match="needs bfloat16 or float16, not float32: use --dtype"):
        check_attention("flash_attention_2", "cuda", torch.float32)


# The reduction's own memory


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_reducing_holds_less_than_its_docstring_says(name):
    images, patches, width = 4, 576, 256
    features, keys, scores = encoded([24, 40, 40, 56], patches, width, width)
    reduction = reduce_tokens(features, keys, scores, name)
    longest = max(reduction.kept)
    stated = images * longest * (16 * patches + 12 * width) + images * (
        300 * longest + 100 * patches
    )
    peak = 2**20 * timing.peak_mib(lambda: reduce_tokens(features, keys, scores, name))
    assert peak < stated
