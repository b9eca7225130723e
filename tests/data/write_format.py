"""Writes the frozen files of today's format, once: `python -m tests.data.write_format FOLDER`.

A run is made in FOLDER by the code that makes every run, except that its chains come from scripted engines
and its model is random and tiny. What later commands read is then copied to `tests/data/format_N/`, which
is committed and never written again; tests/test_old_formats.py opens it.
"""

import argparse
import asyncio
import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from steper_ray.chains.asking import ask
from steper_ray.chains.attempts import MissingAttempts
from steper_ray.chains.rows import read_chains
from steper_ray.chains.stream import _prepare_partial
from steper_ray.chains.teachers import Reasoner
from steper_ray.chains.usage import EngineUsage
from steper_ray.engines.protocol import Generation
from steper_ray.errors import RowError
from steper_ray.evaluation.compare import compare, evaluated_model
from steper_ray.pipeline.build import build_run
from steper_ray.pipeline.demo import demo
from steper_ray.pipeline.plan import plan_run
from steper_ray.pipeline.training import train_student
from steper_ray.ray_runtime.progress import stage_progress
from steper_ray.ray_runtime.session import ray_session
from steper_ray.retrieval import corpus_identity
from steper_ray.retrieval.corpus_record import CorpusRecord, write_corpus_record
from steper_ray.run.config import RunConfig
from steper_ray.run.dependencies import answers_identity
from steper_ray.run.identity import FORMAT, read_record
from steper_ray.schema import Chain, Question
from steper_ray.sweep.sweep import sweep_folder
from steper_ray.toy.tokenizer import END_OF_TEXT, PAD
from steper_ray.toy.world import Fact, World, make_world
from steper_ray.training.checkpoints import STATE_FILE
from tests.fakes import ScriptedEngine, ScriptedRetriever
from tests.samples import write

SPLITS: Final = {"train": 3, "dev": 1, "test": 2}
LEFT_OUT: Final = "test-00001"
"""Id of the question that no model gets an answer to."""
CORRECTED: Final = "train-00001"
"""Id of the question that `build.teacher` answers at the second attempt."""
HALF_DONE: Final = "evaluation/teacher.partial"
"""Folder of answers that an interrupted command has begun."""

KEPT: Final = (
    "*.json*",
    "model/*",
    "corpus.lance/*.json",
    "chains/*.parquet",
    "stepwise/data/*",
    f"{HALF_DONE}/*",
    "sweep/runs/*/*.json",
    *(
        f"{run}{files}"
        for run in ("", "compare/uniform/*/")
        for files in ("student/*.json", "student/*.safetensors", "training/*.json*")
    ),
    *(f"compare/{model}/test*" for model in ("base", "teacher", "uniform/*")),
    *(f"compare/{model}/test/*" for model in ("base", "teacher", "uniform/*")),
    "checkpoints/*/*.json",
)
"""Files that later commands read; pictures, pages, and what is Ray's own are none of them."""


def settings(folder: Path) -> RunConfig:
    """The settings of the frozen runs, in the names of today: a renamed key is renamed here too."""
    engine = {"max_num_seqs": 8, "dtype": "float32", "args": {"max_model_len": 4096}}
    demonstration = {
        "question": "Who runs the mill of Ada?",
        "steps": [
            {"passages": [{"title": "Ada", "text": "Ada owns Mill."}], "text": "Ada owns Mill."},
            {"text": "Mill is run by Ben. So the answer is: Ben."},
        ],
    }
    return RunConfig.model_validate(
        {
            "run": {"dir": str(folder), "seed": 7},
            "toy": {"seed": 7, "scale": 0.01, **SPLITS},
            "corpus": {"passages": str(folder / "passages.parquet")},
            "questions": {split: str(folder / f"{split}.jsonl") for split in SPLITS},
            "reasoning": {
                "instruction": "Answer the question step by step.",
                "demonstrations": [demonstration],
                "passages_per_step": 2,
                "cue": "Step",
                "whole_line": True,
                "max_prompt_tokens": 2000,
                "max_passage_tokens": 0,  # as it was before the key
            },
            "engine": engine,
            "build": {
                "teacher": str(folder / "model"),
                "self_correction": True,
                "plan_sample": 1,
                "ensemble": [
                    {
                        "name": "far",
                        "teacher": "far/teacher",
                        "endpoint": {"base_url": "http://far/v1", "tokenizer": "far/tokenizer"},
                        "instruction": "Answer.",
                        "temperature": 0.5,
                        "engine": {**engine, "replicas": 2},
                    }
                ],
            },
            "train": {
                "model": str(folder / "model"),
                "precision": "fp32",
                "lr": 2e-3,
                "sigma_lr": 0.1,
                "epochs": 4,
                "chains_per_batch": 1,
                "validation_chains": 1,
                "workers": 1,
                "checkpoint_every_steps": 3,
                "trackers": [],
            },
            "select": {"match": "em", "grounded": True},  # as they were by default
            "eval": {"models": {"student": str(folder / "student")}},
            "compare": {
                "variants": {"uniform": {"objective": "uniform", "epochs": 1}},
                "baseline": "uniform",
                "repeated": [],
            },
            "sweep": {"parameters": {"lr": {"log": [1e-5, 1e-3]}}, "metric": "em"},
        }
    )


# What the run begins with ------------------------------------------------------------------------------


def write_model(folder: Path) -> None:
    """A random Qwen3 of one layer, whose tokens are bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    tokens = [END_OF_TEXT, PAD, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    config = Qwen3Config(
        vocab_size=len(tokens),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=0,
        pad_token_id=1,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=PAD, model_max_length=4096
    ).save_pretrained(folder)


class Script:
    """Answers to the questions of a small toy world, in place of models."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.facts: dict[str, tuple[Fact, ...]] = {}
        """The chain of facts behind a question, by the question's id."""
        for split, chain in world.chains(SPLITS):
            number = sum(known.startswith(split) for known in self.facts)
            self.facts[f"{split}-{number:05d}"] = chain

    def write_chains(
        self, missing: Sequence[MissingAttempts], out: Path, *, reasoner: Reasoner, **_: Any
    ) -> EngineUsage:
        """As `steper_ray.chains.stream.write_chains`: the chains of a model for some questions."""
        chains = [chain for one in missing for chain in self.chains(one, reasoner)]
        write(out, chains)
        (file,) = out.glob("*.parquet")
        file.rename(out / f"{chains[0].id}.parquet")  # the store merges files of several calls
        return EngineUsage(
            asked=len(missing),
            chains=len(chains),
            engine_seconds=2.0,
            prompt_tokens=900,
            generated_tokens=90,
            searches=9,
            starts=1,
            start_seconds=1.0,
        )

    def answer(self, reasoner: Reasoner, questions: Sequence[Question], out: Path, **_: Any) -> Any:
        """As `steper_ray.evaluation.answer.answer`."""
        self.write_chains([MissingAttempts(one) for one in questions], out, reasoner=reasoner)
        return [asdict(chain) for chain in read_chains(out)]

    def chains(self, missing: MissingAttempts, reasoner: Reasoner) -> list[Chain]:
        """The attempts at a question that the scripted model makes."""
        facts = self.facts[missing.question.id]
        texts = [f" {self.world.sentence(fact)}" for fact in facts]
        answer = self.world.entities[facts[-1].object].name
        found = [[self.world.passage(fact.subject)] for fact in facts]
        right = [*texts[:-1], f"{texts[-1]} So the answer is: {answer}."]
        engine: ScriptedEngine = ScriptedEngine(*right)
        if missing.question.id == CORRECTED and not reasoner.name:
            wrong = [*texts[:-1], f"{texts[-1]} So the answer is: Nobody."]
            engine, found = ScriptedEngine(*wrong, " The last step is wrong.", *right), found * 2
        elif missing.question.id == LEFT_OUT:
            engine = Unable()
        retriever = ScriptedRetriever(*found)
        retriever.version = VERSION
        return asyncio.run(ask(missing, reasoner=reasoner, engine=engine, retriever=retriever))


class Unable(ScriptedEngine):
    """An engine that no prompt can be given to."""

    async def generate(self, *_: Any, **__: Any) -> Generation:
        raise RowError("the prompt is too long")


VERSION: Final = "c0ffee"
"""Version of the corpus."""


# The run -----------------------------------------------------------------------------------------------


def make_run(folder: Path) -> None:
    """A run whose every result is finished, but for one evaluation."""
    config, script = settings(folder), Script(make_world(7, 0.01))
    folder.mkdir(parents=True)
    write_model(folder / "model")
    for split, questions in script.world.questions(SPLITS).items():
        lines = [json.dumps(asdict(question)) + "\n" for question in questions]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    config.folder.corpus.mkdir()
    write_corpus_record(config.folder.corpus, CorpusRecord(VERSION, 6, {"type": "bm25"}))

    teacher = evaluated_model(config, config.build.teacher)
    now = answers_identity(corpus_identity(config.folder.corpus), "", teacher.identity, "qa")
    _prepare_partial(folder / HALF_DONE, now, ignore=())

    with ExitStack() as scripted, ray_session():
        for name, value in {
            "chains.build.write_chains": script.write_chains,
            "evaluation.compare.answer": script.answer,
            "pipeline.ledger.run_stage": lambda *_: 1.0,
            "pipeline.demo._ask_served_student": lambda _: ({}, 1.0),
            "pipeline.demo._finish": lambda *_: None,
        }.items():
            scripted.enter_context(patch(f"steper_ray.{name}", value))
        plan_run(config)
        build_run(config)
        train_student(config)
        with stage_progress("compare", "training") as progress:
            compare(config, progress, train_student)
        sweep_folder(config)
        demo(config)


def keep(run: Path, out: Path) -> None:
    """Copy what later commands read, and the oldest checkpoint that is left, to a new folder."""
    states = sorted(run.glob(f"checkpoints/*/*/{STATE_FILE}"))
    first = min(states, key=lambda file: json.loads(file.read_text())["last"]["step"]).parent
    files = [file for pattern in KEPT for file in run.glob(pattern) if file.is_file()]
    files = [
        file for file in files if file.parent.parent.name != "checkpoints" or read_record(file)
    ]
    for file in {*files, *(file for file in first.rglob("*") if file.is_file())}:
        if file.suffix != ".py":  # DeepSpeed leaves a script beside its shards
            target = out / file.relative_to(run)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a new folder, whose path stands in the files")
    run = parser.parse_args().folder.absolute()
    target = Path(__file__).parent / f"format_{FORMAT}"
    if target.exists():
        parser.error(f"{target} is frozen; a new format has a number of its own")
    make_run(run)
    keep(run, target)
