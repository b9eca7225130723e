"""`--set section.key=value`: the key's type decides what a value is, and mistakes name the argument."""

from pathlib import Path

import pytest

from steper_ray.errors import ConfigError
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config

SECRET = "hf_" + "a1" * 17


def load(folder: Path, *overrides: str, text: str = "") -> RunConfig:
    file = folder / "run.yaml"
    file.write_text(text, encoding="utf-8")
    return load_config(file, overrides)


def refusal(folder: Path, *overrides: str, text: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, *overrides, text=text)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    "given",
    [
        *(
            "Use #1 passages",
            "a # b",
            "# all",
            "Answer: {x}",
            "a: b",
            "[x]",
            "{x}",
            "{x: y}",
            "yes",
        ),
        *(
            "7",
            "2026-11-27",
            "1:30",
            "010",
            "1e5",
            ".inf",
            "*x",
            "&x 1",
            "!x",
            "%x",
            "@x",
            "`x`",
            "- a",
        ),
        *(
            "|",
            "? a",
            "a\nb",
            " between ",
            "",
            "~x",
            "'a' or 'b'",
            '"a": "b"',
            "'a' # b",
            "it's",
            '"',
        ),
        *("$HOME", "~/x", "{run.dir}", "null and void"),
    ],
)
def test_where_a_text_is_expected_it_is_the_text_as_given(tmp_path: Path, given: str) -> None:
    assert load(tmp_path, f"reasoning.instruction={given}").reasoning.instruction == given


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("null", None),
        ("~", None),
        ("'null'", "null"),
        ('"a\\nb: #c"', "a\nb: #c"),
        ("'it''s'", "it's"),
    ],
)
def test_null_and_what_is_quoted_as_a_whole(tmp_path: Path, given: str, value: str | None) -> None:
    config = load(tmp_path, f"reasoning.instruction={given}", text="reasoning: {instruction: a}")
    assert config.reasoning.instruction == value


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("[a, b]", ("a", "b")),
        ("[a, 017, no]", ("a", "017", "no")),
        ("a #1.jsonl", "a #1.jsonl"),
        ("a: b.jsonl", "a: b.jsonl"),
        ("[ab].jsonl", "[ab].jsonl"),  # a pattern
        ("[ab]/[cd]*.jsonl", "[ab]/[cd]*.jsonl"),
        ("{a}.jsonl", "{a}.jsonl"),
        ("", ""),
    ],
)
def test_a_text_or_a_list_of_texts(
    tmp_path: Path, given: str, value: str | tuple[str, ...]
) -> None:
    assert load(tmp_path, f"corpus.passages={given}").corpus.passages == value


def test_the_run_folder_needs_no_quotes(tmp_path: Path) -> None:
    overrides = ["run.dir=/r", "corpus.passages={run.dir}/p.jsonl", 'run.data="{run.dir}/../b"']
    config = load(tmp_path, *overrides, "engine.args.cache={run.dir}/c")
    assert config.corpus.passages == "/r/p.jsonl"
    assert config.run.data == "/r/../b"
    assert config.engine.args == {"cache": "/r/c"}


def test_values_of_other_types_are_what_yaml_says(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        *("run.seed=0o17", "train.lr=1e-5", "train.use_gpu=yes", "reasoning.chat=no"),
        *("select.per_hops=equal", "build.limit=null", "train.fixed_weights=[1, 2e0, 3]"),
        *("train.lora={rank: 8}", "train.trackers=[]", "train.lora.target_modules=[a, b]"),
        *("eval.models={a: b}", "eval.models.c=d #e", "corpus.retriever={type: none}"),
        *("reasoning.template_date=2025-01-31", "train.micro_batch_tokens=1_000"),
    )
    assert (config.run.seed, config.train.lr, config.train.use_gpu) == (15, 1e-5, True)
    assert (config.reasoning.chat, config.select.per_hops, config.build.limit) == (
        False,
        "equal",
        None,
    )
    assert config.train.fixed_weights == (1.0, 2.0, 3.0)
    assert config.train.lora is not None
    assert (config.train.lora.rank, config.train.lora.target_modules) == (8, ("a", "b"))
    assert config.train.trackers == ()
    assert config.eval.models == {"a": "b", "c": "d #e"}
    assert config.corpus.retriever.type == "none"
    assert str(config.reasoning.template_date) == "2025-01-31"
    assert config.train.micro_batch_tokens == 1000


def test_values_of_unknown_type_lose_nothing(tmp_path: Path) -> None:
    given = {"a": "7", "b": "no", "c": "Use #1", "d": "a: b", "e": "[1, {f: 1e-3}]", "g": "1e-3"}
    config = load(tmp_path, *(f"engine.args.{key}={value}" for key, value in given.items()))
    assert config.engine.args == {
        "a": 7,
        "b": False,
        "c": "Use #1",
        "d": "a: b",
        "e": [1, {"f": 0.001}],
        "g": 0.001,
    }


def test_null_gives_a_section_its_default_again(tmp_path: Path) -> None:
    text = "engine: {args: {a: 1}}\neval: {models: {a: b}}\ntrain: {trackers: []}"
    config = load(tmp_path, "engine.args=null", "eval.models=", "train.trackers=null", text=text)
    assert (config.engine.args, config.eval.models) == ({}, {})
    assert config.train.trackers == ("tensorboard",)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("train.lr=.nan", "train.lr: must be a finite number, got nan"),
        ("train.lr=5 # x", "train.lr: expected a number, got '5 # x'"),
        ("train.lr=yes", "train.lr: expected a number, got 'yes'"),
        ("run.seed=false", "run.seed: expected a whole number, got 'false'"),
        ("train.lr=2024-01-01", "train.lr: expected a number, got '2024-01-01'"),
        ("reasoning.max_steps=", "reasoning.max_steps: expected a whole number, got None"),
        ("reasoning.max_step=3", "reasoning.max_step: unknown key; did you mean max_steps?"),
        ("reasonin.max_steps=3", "reasonin: unknown key; did you mean reasoning?"),
        ("train.trackers=mlflow", "train.trackers: expected a list, got 'mlflow'"),
        ("run.dir={run.dir}/a", "run.dir: names itself by {run.dir}; write the folder"),
        ("train.lora={ranks: 3}", "train.lora.ranks: unknown key; did you mean rank?"),
        (
            "corpus.passages=[a, {run.dir}/b]",
            "not valid YAML: line 1, column 14: expected ',' or ']'",
        ),
        ("run.seed=010", "010 begins with a zero"),
        ("run.seed=1:30", "1:30 is a number to the base 60"),
        ("x-a.b=1", "x-a: unknown key"),
        ("train.lora={x-a: 1}", "train.lora.x-a: unknown key"),
        ("run.dir=", "run.dir: must not be empty, got ''; name a folder, or leave the key out"),
        ("run.dir=  ", "run.dir: must not be empty, got '  '; name"),
        ("run.data=", "run.data: must not be empty"),
        ('run.dir=""', "run.dir: must not be empty"),
        ('reasoning.instruction="\\ud800"', "line 1, column 1: '\\ud800' holds half a character"),
    ],
)
def test_a_bad_value_names_the_argument_as_given(
    tmp_path: Path, override: str, reason: str
) -> None:
    assert refusal(tmp_path, "train.epochs=3", override).startswith(f"--set {override}: {reason}")


def test_keys_inside_keys_have_a_limit(tmp_path: Path) -> None:
    deep = load(tmp_path, f"engine.args{'.a' * 48}=1")
    assert set(deep.engine.args) == {"a"}
    message = refusal(tmp_path, f"engine.args{'.a' * 3000}=1")
    assert message == f"--set engine.args{'.a' * 24}.…: has more than 50 keys; set it flatter"


@pytest.mark.parametrize("depth", [150, 200, 250, 300, 350, 1000])
def test_values_inside_values_are_taken_or_refused_in_one_line(tmp_path: Path, depth: int) -> None:
    lists = f"{{a: {'[' * depth}{']' * depth}}}"
    for override, text in (
        (f"engine.args{'.b' * 47}={lists}", ""),
        ("run.seed=1", f"engine: {{args: {lists}}}"),
    ):
        message = ""
        try:
            load(tmp_path, override, text=text)
        except ConfigError as error:
            message = str(error)
        assert not message or "nested too deeply; write it flatter" in message


def test_what_file_and_argument_say_together(tmp_path: Path) -> None:
    text = "train: {validation_chains: 0}"
    message = refusal(tmp_path, "train.patience=3", "run.seed=1", text=text)
    assert message.startswith(
        "run.yaml with --set train.patience=3: train: validation_chains is 0; "
    )
    message = refusal(tmp_path, "train.patience=3")
    assert message.startswith("--set train.patience=3: train: validation_chains is 0; ")
    message = refusal(tmp_path, "run.seed=1", text="train: {lr: fast}")
    assert message == "run.yaml: train.lr: expected a number, got 'fast'"


@pytest.mark.parametrize(
    ("text", "override", "held"),
    [
        ("corpus: {retriever: none}", "corpus.retriever.stem=false", "'none'"),
        ("build: {ensemble: [{teacher: a}]}", "build.ensemble.0.teacher=b", "[{'teacher': 'a'}]"),
    ],
)
def test_no_value_is_replaced_by_a_section_in_silence(
    tmp_path: Path, text: str, override: str, held: str
) -> None:
    key = ".".join(override.split(".")[:2])
    assert refusal(tmp_path, override, text=text) == (
        f"--set {override}: {key} is no section with keys, it is {held}; set {key} as a whole"
    )


@pytest.mark.parametrize(
    "override",
    [
        f"build.teacher={SECRET}",
        f"serve.keys_env={SECRET}",
        f"build.{SECRET}",
        f"engine.args=[{SECRET}",
    ],
)
def test_a_secret_is_not_repeated(tmp_path: Path, override: str) -> None:
    assert SECRET not in refusal(tmp_path, override)


def test_bytes_that_are_no_utf8(tmp_path: Path) -> None:
    message = refusal(tmp_path, "run.dir=caf\udce9")
    assert message == r"--set run.dir=caf\udce9: is not UTF-8 text; type it in a UTF-8 terminal"
