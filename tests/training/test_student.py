from pathlib import Path

import numpy as np
import pytest

from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.toy.asking import REASONING
from steper_ray.toy.tokenizer import make_tokenizer
from steper_ray.training.batches import cut_micro_batches
from steper_ray.training.objective import (
    OBJECTIVES,
    WeightInputs,
    example_weights,
    gradient_shares,
)
from steper_ray.training.packing import packed_length, prefix_tree
from steper_ray.training.tokenization import TokenExample, stepwise_files
from tests.tokenized import tokenize_examples

SIGMA = (0.7, 1.4, 0.9)
SHARES = gradient_shares(
    OBJECTIVES["difficulty"].weights(WeightInputs(SIGMA, (1.0, 1.0, 1.0))), (1, 1, 1)
)


def load_examples(run_dir: Path):
    files = stepwise_files(run_dir / "stepwise")
    return tokenize_examples(
        files, make_tokenizer(), reasoning=ReasoningConfig(**REASONING, max_prompt_tokens=1000)
    )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("micro_batch_tokens", "ranks", "checkpointing"),
    [(1, 1, False), (700, 1, True), (700, 3, False), (10**6, 1, False), (10**6, 20, False)],
)
def test_the_gradient_does_not_depend_on_the_cut(
    tmp_path,
    write_stepwise,
    tiny_student,
    reference,
    device,
    micro_batch_tokens,
    ranks,
    checkpointing,
    packed,
):
    import torch
    from transformers import AutoModelForCausalLM

    from steper_ray.training.student import load_student
    from steper_ray.training.tensors import packed_batch, padded_batch

    written = write_stepwise(tmp_path, [3, 2, 4, 1])
    data = load_examples(tmp_path)
    examples = data.examples
    expected = reference(AutoModelForCausalLM.from_pretrained(tiny_student), written, list(SIGMA))

    student = load_student(
        str(tiny_student), dtype=torch.float32, gradient_checkpointing=checkpointing, packed=packed
    ).to(device)
    abilities = [example.ability for example in examples]
    weights = example_weights(abilities, SHARES)
    sums = torch.zeros(3)
    units = data.chains if packed else [[i] for i in range(len(examples))]
    trees = [prefix_tree([examples[i].ids for i in unit]) for unit in units]
    lengths = [packed_length(tree) for tree in trees]
    for rank in cut_micro_batches(lengths, micro_batch_tokens, ranks, padded=not packed):
        for micro_batch in rank:
            chosen = [[examples[i] for i in units[u]] for u in micro_batch.units]
            flat = [example for unit in chosen for example in unit]
            counted = float(micro_batch.counted)
            weight = [counted * weights[i] for u in micro_batch.units for i in units[u]]
            batch = (
                packed_batch(chosen, [trees[u] for u in micro_batch.units], weight, 0, device)
                if packed
                else padded_batch(flat, weight, 0, device)
            )
            loss, nll, _ = student(batch)
            loss.backward()
            sums.index_add_(0, torch.tensor([e.ability for e in flat]), nll.cpu() * counted)

    counts = torch.tensor([abilities.count(ability) for ability in range(3)])
    assert (sums / counts).tolist() == pytest.approx(expected.loss_A, abs=1e-5)
    for name, parameter in student.model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(
            parameter.grad.cpu(), expected.gradients[name], atol=1e-5, rtol=1e-4
        )


def test_in_bf16_a_packed_gradient_is_as_good_as_that_of_separate_examples(
    tmp_path, write_stepwise, tiny_student, reference, device
):
    import torch
    from transformers import AutoModelForCausalLM

    from steper_ray.training.student import load_student
    from steper_ray.training.tensors import packed_batch, padded_batch

    written = write_stepwise(tmp_path, [3, 2, 4, 1])
    data = load_examples(tmp_path)
    expected = reference(AutoModelForCausalLM.from_pretrained(tiny_student), written, list(SIGMA))
    abilities = [example.ability for example in data.examples]
    weights = example_weights(abilities, SHARES)
    chains = [[data.examples[i] for i in chain] for chain in data.chains]
    trees = [prefix_tree([example.ids for example in chain]) for chain in chains]
    away = {}
    for packed in (True, False):
        student = load_student(
            str(tiny_student), dtype=torch.bfloat16, gradient_checkpointing=False, packed=packed
        ).to(device)
        batch = (
            packed_batch(chains, trees, weights, 0, device)
            if packed
            else padded_batch([e for chain in chains for e in chain], weights, 0, device)
        )
        student(batch)[0].backward()
        squares = [
            ((parameter.grad.cpu().float() - exact).square().sum(), exact.square().sum())
            for name, parameter in student.model.named_parameters()
            for exact in [expected.gradients[name]]
        ]
        error, size = (sum(part) for part in zip(*squares, strict=True))
        away[packed] = float((error / size).sqrt())
    # Measured: 0.0075 and 0.0089.
    assert away[True] <= 1.5 * away[False]
    assert away[False] < 0.05


@pytest.mark.parametrize(
    ("model_type", "values"),
    [
        ("llama", {"tie_word_embeddings": False}),
        ("gemma2", {"head_dim": 16, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 16}),
        ("cohere", {"logit_scale": 0.25}),
        ("granite", {"logits_scaling": 4.0}),
    ],
)
def test_whatever_a_model_does_behind_its_head_is_in_the_loss(model_type, values):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from steper_ray.training.student import StudentLoss
    from steper_ray.training.tensors import padded_batch

    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **values)
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    for name, value in (sizes | {"num_attention_heads": 2, "num_key_value_heads": 1}).items():
        setattr(config, name, value)
    config.pad_token_id, config.layer_types = 0, ["full_attention"] * 2
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)  # so that caps and scales matter
    ids = np.arange(3, 20, dtype=np.int32)
    batch = padded_batch([TokenExample("c", 1, 0, ids, 6)], [1.0], 0, torch.device("cpu"))
    logits = model(torch.from_numpy(ids)[None].long()).logits[0, -7:-1]
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(ids[-6:]).long())
    loss, _, _ = StudentLoss(model)(batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_export_replaces_what_was_there_and_keeps_the_base_dtype(tmp_path, tiny_student):
    import torch
    from transformers import AutoModelForCausalLM

    from steper_ray.training.student import export_student, gather_weights, load_student

    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(tiny_student, dtype=torch.bfloat16).save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    folder = tmp_path / "student"
    folder.mkdir()
    (folder / "old.txt").write_text("old")
    student = load_student(
        str(base), dtype=torch.float32, gradient_checkpointing=False, packed=True
    )
    weights = gather_weights(student.model, keep=True)
    export_student(weights, student.model.generation_config, str(base), folder, {"max_steps": 5})

    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "student"]
    assert not (folder / "old.txt").exists()
    assert (folder / "steper.json").read_text() == '{\n  "max_steps": 5\n}\n'
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert loaded.dtype is torch.bfloat16
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, student.model.state_dict()[name].to(torch.bfloat16)), name
