"""Each architecture is trained by the loss of its own plain forward pass, or refused in one line."""

from typing import Any

import pytest

from steper_ray.errors import InputError
from steper_ray.training.packing import prefix_tree
from tests.training.architectures import EXPERTS, MIXED, chain, random_model

DROPOUT = "its attention has dropout"


INKLING = {
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 8,
    "rel_extent": 64,
    "n_routed_experts": 4,
}


def checked(model: Any) -> tuple[Any, str | None]:
    """The student of a model, and why it is not packed."""
    import torch

    from steper_ray.training.attention import packing_obstacle
    from steper_ray.training.head_check import check_loss
    from steper_ray.training.student import StudentLoss

    student = StudentLoss(model)
    student.train()
    obstacle = packing_obstacle(model.config)
    found = check_loss(
        student,
        chain()[2],
        model="its name",
        packed=obstacle is None,
        pad=0,
        device=torch.device("cpu"),
    )
    assert student.training
    return student, obstacle or found


def gradient_of(student: Any, *, packed: bool) -> tuple[list[float], Any]:
    """Losses of the chain's examples, and the gradient of their sum, as one vector."""
    import torch

    from steper_ray.training.tensors import packed_batch, padded_batch

    examples, weights, cpu = chain(), [1.0, 1.0, 1.0], torch.device("cpu")
    if packed:
        tree = prefix_tree([example.ids for example in examples])
        batch = packed_batch([examples], [tree], weights, 0, cpu)
    else:
        batch = padded_batch(examples, weights, 0, cpu)
    student.model.zero_grad()
    loss, nll_E, _ = student(batch)
    loss.backward()
    return nll_E.tolist(), flat_gradient(student.model)


def plain_gradient_of(model: Any) -> tuple[list[float], Any]:
    """The same by the model alone, an example at a time."""
    import torch

    model.zero_grad()
    losses = []
    for example in chain():
        ids = torch.from_numpy(example.ids).long()
        logits = model(ids[None]).logits[0, -example.target_tokens - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, ids[-example.target_tokens :]))
    torch.stack(losses).sum().backward()
    return [loss.item() for loss in losses], flat_gradient(model)


def flat_gradient(model: Any) -> Any:
    import torch

    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]
    return torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize(
    ("model_type", "values", "own_logits", "separate_because"),
    [
        ("llama", {}, False, None),
        # windows: in all layers, in some, and beside caps and sinks
        ("mistral", {"sliding_window": 9}, False, None),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
            False,
            None,
        ),
        ("gemma3_text", {"sliding_window": 9, "layer_types": MIXED}, False, None),
        ("cohere2", {"sliding_window": 9, "layer_types": MIXED}, False, None),
        (
            "gemma2",
            {
                "sliding_window": 9,
                "attn_logit_softcapping": 0.5,
                "query_pre_attn_scalar": 8,
                "final_logit_softcapping": 2.0,
            },
            False,
            None,
        ),
        ("gpt_oss", EXPERTS | {"sliding_window": 9, "layer_types": MIXED}, False, None),
        # mixtures of experts
        ("mixtral", EXPERTS, False, None),
        ("qwen2_moe", EXPERTS, False, None),
        ("qwen3_moe", EXPERTS, False, None),
        ("olmoe", EXPERTS, False, None),
        # a head of several layers, and one that caps or divides what it gives
        (
            "modernbert-decoder",
            {"local_attention": 18, "global_attn_every_n_layers": 2},
            True,
            None,
        ),
        (
            "recurrent_gemma",
            {"lru_width": 32, "logits_soft_cap": 2.0, "attention_window_size": 9},
            True,
            "it carries a state from token to token",
        ),
        ("inkling_text", EXPERTS | INKLING, True, "its attention cannot be replaced"),
        # base models that are none, or that hand no arguments on
        ("llama4_text", EXPERTS, True, "it has chunked_attention layers"),
        ("nemotron", {}, False, "its layers pass no arguments on to their attention"),
        # no positions, or dropout of attention, which the comparison below turns off
        ("gpt2", {}, False, DROPOUT),
        ("gpt_bigcode", {}, False, DROPOUT),
        (
            "gpt_neo",
            {"attention_types": [[["local"], 3]], "num_layers": 3, "window_size": 9},
            False,
            "its attention cannot be replaced",
        ),
        ("bloom", {}, False, "its attention cannot be replaced"),
    ],
)
def test_the_loss_and_its_gradient_are_the_models_own(
    model_type, values, own_logits, separate_because
):
    model = random_model(model_type, **values)
    student, found = checked(model)
    assert student.own_logits == own_logits
    assert found == separate_because
    model.eval()
    layouts = [gradient_of(student, packed=True)] if found is None else []
    model.set_attn_implementation(student.own_attention)
    losses, gradient = plain_gradient_of(model)
    for got, got_gradient in (*layouts, gradient_of(student, packed=False)):
        assert got == pytest.approx(losses, rel=1e-5)
        assert (got_gradient - gradient).norm() <= 1e-5 * gradient.norm()


def test_another_window_is_another_loss():
    model = random_model("gemma3_text", sliding_window=9, layer_types=MIXED)
    student, _ = checked(model)
    losses, _ = gradient_of(student, packed=True)
    model.config.sliding_window = 10
    other, _ = gradient_of(student, packed=True)
    assert all(abs(a - b) > 1e-3 for a, b in zip(losses, other, strict=True))


@pytest.mark.parametrize(
    ("model_type", "values", "said"),
    [
        ("bert", {}, "its name looks ahead: what it predicts for a token changes with the tokens"),
        ("xlm-roberta", {}, "its name looks ahead"),
        ("xmod", {}, "its name gives an error (ValueError: Input language unknown"),
    ],
)
def test_a_model_that_cannot_be_learned_from_is_refused(model_type, values, said):
    with pytest.raises(InputError) as raised:
        checked(random_model(model_type, **values))
    assert said in str(raised.value)
    assert "take a causal language model" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_wrong_head_is_not_used():
    student, _ = checked(random_model("llama"))
    assert not student.own_logits
    model = random_model("llama")
    model.config.logit_scale = 0.5  # of Cohere; Llama does not read it
    student, found = checked(model)
    assert student.own_logits
    assert found is None


def test_tokens_that_depend_on_their_place_in_the_row_are_not_packed():
    import torch

    model = random_model("llama")
    model.model.embed_tokens.register_forward_hook(
        lambda _module, _ids, hidden: hidden + torch.arange(hidden.shape[1])[:, None] / 100
    )
    student, found = checked(model)
    assert found is not None
    assert found.startswith("packed, it gives ")
    assert student.model.config._attn_implementation == "sdpa"


def test_examples_that_change_each_other_in_a_batch_are_refused():
    model = random_model("llama")
    model.model.embed_tokens.register_forward_hook(
        lambda _module, _ids, hidden: hidden - hidden.mean(0) / 2
    )
    with pytest.raises(
        InputError, match=r"its name cannot be trained on: the trainer's loss is \d"
    ):
        checked(model)


def test_weights_that_are_no_number_are_left_to_the_first_step(caplog):
    import torch

    model = random_model("llama")
    with torch.no_grad():
        model.lm_head.weight[7] = float("nan")
    student, found = checked(model)
    assert found is None
    assert not student.own_logits
    assert "its loss is no number, so it was not checked" in caplog.text
