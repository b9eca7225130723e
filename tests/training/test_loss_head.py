import subprocess
import sys

import pytest


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize(
    ("bias", "scale", "softcap"), [(False, 1.0, None), (True, 0.25, None), (False, 2.0, 3.0)]
)
def test_it_equals_plain_cross_entropy(chunk, bias, scale, softcap):
    import torch

    from steper_ray.training.loss_head import linear_cross_entropy

    torch.manual_seed(0)
    hidden = torch.randn(20, 8, requires_grad=True)
    head = torch.randn(33, 8, requires_grad=True)
    offset = torch.randn(33, requires_grad=True) if bias else None
    target_ids, weight = torch.randint(33, (20,)), torch.rand(20)
    leaves = [leaf for leaf in (hidden, head, offset) if leaf is not None]

    logits = torch.nn.functional.linear(hidden, head, offset) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    nll = torch.nn.functional.cross_entropy(logits, target_ids, reduction="none")
    expected = torch.autograd.grad(3 * (nll * weight).sum(), leaves)

    loss, nll_P, right_P = linear_cross_entropy(
        hidden, head, offset, target_ids, weight, scale=scale, softcap=softcap, chunk=chunk
    )
    got = torch.autograd.grad(3 * loss, leaves)
    torch.testing.assert_close(nll_P, nll)
    assert loss.item() == pytest.approx((nll * weight).sum().item(), rel=1e-5)
    assert right_P.tolist() == (logits.argmax(-1) == target_ids).tolist()
    for ours, reference in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, reference)


def test_a_frozen_head_and_no_gradient_at_all():
    import torch

    from steper_ray.training.loss_head import linear_cross_entropy

    hidden = torch.randn(4, 8, requires_grad=True)
    head, target_ids, weight = torch.randn(9, 8), torch.tensor([0, 1, 2, 3]), torch.ones(4)
    loss, _, _ = linear_cross_entropy(hidden, head, None, target_ids, weight)
    loss.backward()
    assert hidden.grad is not None
    with torch.no_grad():
        again, _, _ = linear_cross_entropy(hidden, head, None, target_ids, weight)
    assert again.item() == pytest.approx(loss.item())


MEASURE = """
import resource, torch
from steper_ray.training.loss_head import linear_cross_entropy
torch.set_num_threads(1)
hidden = torch.randn(2000, 16, requires_grad=True)
head = torch.randn(128_000, 16, requires_grad=True)
target_ids, weight = torch.randint(128_000, (2000,)), torch.ones(2000)
linear_cross_entropy(hidden[:2], head, None, target_ids[:2], weight[:2])[0].backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
linear_cross_entropy(hidden, head, None, target_ids, weight)[0].backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_no_tensor_of_all_tokens_by_vocabulary_exists():
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True
    )
    whole = 2000 * 128_000 * 4 / 1024  # KiB of the logits: one gigabyte
    assert int(done.stdout) < whole / 3


def test_without_gradient_none_is_allocated_for_the_head(monkeypatch):
    import torch

    from steper_ray.training import loss_head

    head = torch.nn.Parameter(torch.randn(50, 8))
    hidden, target = torch.randn(6, 8), torch.randint(50, (6,))
    made: list[torch.Size] = []
    zeros_like = torch.zeros_like

    def counted(like, **options):
        made.append(like.shape)
        return zeros_like(like, **options)

    monkeypatch.setattr(torch, "zeros_like", counted)
    with torch.no_grad():
        loss, _, _ = loss_head.linear_cross_entropy(hidden, head, None, target, torch.ones(6))
    assert made == []
    assert not loss.requires_grad
    loss_head.linear_cross_entropy(hidden, head, None, target, torch.ones(6))
    assert made == [head.shape]
