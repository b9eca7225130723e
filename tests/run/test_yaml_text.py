"""YAML of values of known types: merge keys, numbers, empty sections, and what is refused in one line."""

import math
import time
from pathlib import Path

import pytest
import yaml

from steper_ray.errors import ConfigError
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config
from steper_ray.run.yaml_text import dump_yaml, load_yaml, yaml_reason


def load(folder: Path, text: str) -> RunConfig:
    file = folder / "run.yaml"
    file.write_text(text, encoding="utf-8")
    return load_config(file)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{folder / 'run.yaml'}: ")


@pytest.mark.parametrize(
    ("text", "lr", "epochs"),
    [
        ("x-d: &d {lr: 0.1}\ntrain:\n  <<: *d\n", 0.1, 2),
        ("x-d: &d {lr: 0.1, epochs: 3}\ntrain:\n  lr: 0.2\n  <<: *d\n", 0.2, 3),
        ("x-d: &d {lr: 0.1}\nx-e: &e {lr: 0.2, epochs: 3}\ntrain: {<<: [*d, *e]}\n", 0.1, 3),
        ("x-d: &d {lr: 0.1}\nx-e: &e {<<: *d, epochs: 3}\ntrain: {<<: *e}\n", 0.1, 3),
        ("x-e: &e {<<: &d {lr: 0.1}, epochs: 3}\ntrain: {<<: *e, lr: 0.2}\n", 0.2, 3),
        ("<<: {train: {lr: 0.1}}\n", 0.1, 2),
        ("train: &d {lr: 0.1}\n", 0.1, 2),
    ],
)
def test_merge_keys(tmp_path: Path, text: str, lr: float, epochs: int) -> None:
    config = load(tmp_path, text)
    assert (config.train.lr, config.train.epochs) == (lr, epochs)


def test_what_is_merged_has_the_type_of_where_it_stands(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "x-d: &d {teacher: no, revision: 017}\n"
        "build: {<<: *d, ensemble: [{<<: *d, name: a}]}\n"
        "engine: {args: {<<: {a: no}, b: &b [1], c: *b}}\n",
    )
    assert (config.build.teacher, config.build.revision) == ("no", "017")
    assert (config.build.ensemble[0].teacher, config.build.ensemble[0].revision) == ("no", "017")
    assert config.engine.args == {"a": False, "b": [1], "c": [1]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("train:\n  <<: 3\n", "line 2, column 7: << takes keys with values, or a list of such"),
        ("train:\n  <<: {lr: 1}\n  <<: {lr: 2}\n", "line 3, column 3: '<<' is given twice"),
        ("train:\n  <<: {lr: 1}\n  lr: 2\n  lr: 3\n", "line 4, column 3: 'lr' is given twice"),
        ("eval:\n  models:\n    1: a\n    '1': b\n", "line 4, column 5: '1' is given twice"),
        ("engine:\n  args: &a {x: *a}\n", "line 2, column 9: a value that holds itself"),
        ("train:\n\tlr: 1\n", "not valid YAML: line 2, column 1: found character '\\t'"),
        ("train:\n\tlr: 1\n", "; indent and separate with spaces, not tabs"),
        (
            "reasoning:\n  instruction: Answer: x\n",
            "line 2, column 22: mapping values are not allowed",
        ),
        ("reasoning:\n  instruction: Answer: x\n", "; put a text with a colon in quotes"),
        ("corpus:\n  passages: *.jsonl\n", "; put a text that begins with * in quotes"),
        ("corpus:\n  passages: *a\n", "line 2, column 13: found undefined alias 'a'; "),
        ("run:\n  dir: @a\n", "; put a text that begins with this sign in quotes"),
        ("run:\n  dir: 'it's'\n", "line 2, column 12: "),
        (
            "run: {dir: !ENV x}\n",
            "line 1, column 12: could not determine a constructor for the tag '!ENV'; ",
        ),
        ("run: {dir: !!binary aGk=}\n", "could not determine a constructor"),
        ("train: {use_gpu: !!bool maybe}\n", "line 1, column 18: maybe is neither true nor false"),
        ("run: {seed: 1}\n---\nrun: {seed: 2}\n", "line 2, column 1: "),
        ("a: " + "[" * 5000, "not valid YAML: nested too deeply"),
        (
            'reasoning: {instruction: "\\ud800"}',
            "line 1, column 26: '\\ud800' holds half a character",
        ),
        ("run: {dir: \0}", "not valid YAML: unacceptable character #x0000"),
        ("~: 3", "None: "),
        ("run: {seed: 0x_}", "line 1, column 13: 0x_ cannot be read as a number"),
        ('run: {seed: !!int ""}', "line 1, column 13: nothing cannot be read as a number"),
        ('train: {lr: !!float ""}', "line 1, column 13: nothing cannot be read as a number"),
        ("run: {seed: !!int +}", "line 1, column 13: + cannot be read as a number"),
        ("run: {seed: !!int [1]}", "line 1, column 13: expected a scalar node"),
        ("train: {use_gpu: !!bool {a: b}}", "line 1, column 18: expected a scalar node"),
        ("run: {dir: !!str [a]}", "line 1, column 12: expected a scalar node"),
        ("engine: {args: {[a]: b}}", "line 1, column 17: a key is a name"),
    ],
)
def test_what_is_refused_names_its_line_and_a_way_out(
    tmp_path: Path, text: str, reason: str
) -> None:
    assert reason in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("number", "value"),
    [
        *(
            ("1e-5", 1e-5),
            ("5E-1", 0.5),
            (".5e1", 5.0),
            ("1.0e5", 1e5),
            ("-2e+1", -20.0),
            ("0o17", 15),
        ),
        *(("0x1F", 31), ("1_000", 1000), ("0", 0), ("-7", -7), ("1.5", 1.5), ("'1e-5'", "1e-5")),
        *(("1e", "1e"), ("e5", "e5"), ("2026-11-27", "2026-11-27"), ("1e-5x", "1e-5x")),
    ],
)
def test_numbers_of_unknown_type(number: str, value: object) -> None:
    read = load_yaml(f"engine: {{args: {{a: {number}}}}}", RunConfig)["engine"]["args"]["a"]
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize("number", ["010", "-017", "08", "00", "0_7", "1:30", "1:30.5", "12:30:00"])
def test_a_number_that_is_read_in_two_ways_is_refused(tmp_path: Path, number: str) -> None:
    for text in (f"run:\n  seed: {number}\n", f"engine:\n  args: [{number}]\n"):
        assert refusal(tmp_path, text).startswith(f"line 2, column {9 + ('[' in text)}: {number} ")
    assert load(tmp_path, f"train: {{model: {number}}}").train.model == number


def test_numbers_of_a_sweep_and_of_variants(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "sweep: {parameters: {sigma_init: {choice: [5e-1, 1]}, lr: {log: [1e-6, 1e-4]}}}\n"
        "compare: {variants: {a: {lr: 5e-6}}, learning_rates: [1e-5]}\n"
        "train: {micro_batch_tokens: 1e4}\n",
    )
    assert config.sweep.parameters["sigma_init"].choice == (0.5, 1)
    assert config.sweep.parameters["lr"].log == (1e-6, 1e-4)
    assert config.compare.variants == {"a": {"lr": 5e-6}}
    assert config.train.micro_batch_tokens == 10_000
    assert "choice has a value twice" in refusal(
        tmp_path, "sweep: {parameters: {lr: {choice: [5e-1, 0.5]}}}"
    )


TYPED = {
    "train.lr": "train: {{lr: {}}}",
    "train.fixed_weights.1": "train: {{fixed_weights: [1, {}, 1]}}",
    "select.min_logprob": "select: {{min_logprob: {}}}",
    "serve.request_timeout_s": "serve: {{request_timeout_s: {}}}",
    "engine.gpus": "engine: {{gpus: {}}}",
    "toy.scale": "toy: {{scale: {}}}",
    "compare.learning_rates.0": "compare: {{learning_rates: [{}]}}",
    "build.endpoint.requests_per_minute": (
        "build: {{endpoint: {{base_url: http://h/v1, requests_per_minute: {}}}}}"
    ),
}
UNTYPED = {
    "engine.args.a.0": "engine: {{args: {{a: [{}]}}}}",
    "train.deepspeed.a": "train: {{deepspeed: {{a: {}}}}}",
    "build.endpoint.extra_body.a.b.1": (
        "build: {{endpoint: {{base_url: http://h/v1, extra_body: {{a: {{b: [1, {}]}}}}}}}}"
    ),
    "compare.variants.a.lr": "compare: {{variants: {{a: {{lr: {}}}}}}}",
    "sweep.parameters.lr.choice.0": "sweep: {{parameters: {{lr: {{choice: [{}]}}}}}}",
    "sweep.parameters.lr.range.1": "sweep: {{parameters: {{lr: {{range: [1, {}]}}}}}}",
    "run.seed": "run: {{seed: {}}}",
}
"""Key path of a number → a run file that gives it."""


@pytest.mark.parametrize(
    ("place", "number"),
    [
        *(
            (place, number)
            for place in TYPED | UNTYPED
            for number in (".inf", "-.inf", ".NaN", "1e999")
        ),
        *((place, number) for place in TYPED for number in ("'inf'", "nan", "'1e999'")),
    ],
)
def test_infinity_and_what_is_no_number_are_refused(
    tmp_path: Path, place: str, number: str
) -> None:
    message = refusal(tmp_path, (TYPED | UNTYPED)[place].format(number))
    assert message.startswith(f"{place}: must be a finite number, got ")


@pytest.mark.parametrize("text", ["train:\nreasoning:\n", "run:\ntrain:\n  lora:\n  trackers:\n"])
def test_an_empty_section_is_the_default(tmp_path: Path, text: str) -> None:
    base = load(tmp_path, "")
    assert load(tmp_path, text) == base


def test_every_section_list_and_mapping_may_be_empty(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "corpus: {passages: , columns: , retriever: }\nengine: {args: }\nbuild: {ensemble: , endpoint: }\n"
        "eval: {models: }\nsweep: {parameters: }\ncompare: {variants: , seeds: }\n",
    )
    assert config == load(tmp_path, "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("train: {sigma_lr: }", "train.sigma_lr: expected a number, got None"),
        ("questions: {train: }", "questions.train: expected text, got None"),
        ("run: {dir: }", "run.dir: expected text, got None"),
        ("sweep: {parameters: {lr: }}", "sweep.parameters.lr: expected a section with keys"),
        ("build: {ensemble: [ , ]}", ""),
    ],
)
def test_what_is_named_and_holds_nothing_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    assert refusal(tmp_path, text).startswith(reason)


def test_aliases_of_aliases_do_not_multiply(tmp_path: Path) -> None:
    """Each line has the one before it ten times: 10 million values in 7 lines."""
    lines = ["x-0: &x0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"] + [
        f"x-{level}: &x{level} [{', '.join([f'*x{level - 1}'] * 10)}]" for level in range(1, 7)
    ]
    started = time.process_time()
    message = refusal(tmp_path, "\n".join([*lines, "engine: {args: {a: *x6}}"]))
    assert message.startswith("line 1, column 1: * repeats more than 10000 values; ")
    assert time.process_time() - started < 2
    few = load(tmp_path, "\n".join([*lines[:3], "engine: {args: {a: *x2}}"]))
    assert len(few.engine.args["a"]) == 10


def test_many_keys_take_time_by_their_number(tmp_path: Path) -> None:
    keys = "\n".join(f"    key_{number}: {number}" for number in range(20_000))
    text = f"engine:\n  args:\n{keys}\n"
    started = time.process_time()
    yaml.load(text, Loader=yaml.SafeLoader)
    plain = time.process_time() - started
    started = time.process_time()
    assert len(load(tmp_path, text).engine.args) == 20_000
    assert time.process_time() - started < 3 * plain


@pytest.mark.parametrize("start", ["\ufeff", "\ufeff# a comment\n", "\ufeff---\n"])
def test_a_byte_order_mark(tmp_path: Path, start: str) -> None:
    assert load(tmp_path, f"{start}run: {{seed: 3}}\r\n").run.seed == 3


def test_what_is_dumped_is_read_as_the_same_values() -> None:
    values = {
        "engine": {"args": {"a": "1e5", "b": "08", "c": "0o7", "d": 1e-5, "e": "no", "f": "~"}}
    }
    assert load_yaml(dump_yaml(values), RunConfig) == values
    assert math.isclose(load_yaml("a: 1e-5", dict[str, float])["a"], 1e-5)


def test_reasons_are_one_line() -> None:
    with pytest.raises(yaml.YAMLError) as caught:
        load_yaml("a: [1,\n  b: {", RunConfig)
    assert "\n" not in yaml_reason(caught.value)
