"""The head and its loss together, in chunks, so that no tensor of all tokens × vocabulary ever exists.

The gradient of a chunk's logits is known as soon as its logits are (softmax minus one-hot, times the
token's weight), so it is folded into the gradients of the hidden states and of the head right away, and
the logits are let go. Costs the same three matrix products as the plain way; the memory is one chunk's
logits plus the head's gradient. (The idea is Liger Kernel's fused linear cross-entropy,
arXiv 2410.10989, section 3.2; this one is plain torch and runs anywhere.)
"""

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

CHUNK_LOGITS: Final = 1 << 24
"""Upper bound of the logits that exist at a time: 64 MiB in fp32."""


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_PH: Tensor,
        head_VH: Tensor,
        bias_V: Tensor | None,
        target_P: Tensor,
        weight_P: Tensor,
        scale: float,
        softcap: float | None,
        chunk: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        grad_hidden = torch.zeros_like(hidden_PH) if ctx.needs_input_grad[0] else None
        grad_head = (
            torch.zeros_like(head_VH, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        )
        grad_bias = (
            torch.zeros_like(bias_V, dtype=torch.float32)
            if bias_V is not None and ctx.needs_input_grad[2]
            else None
        )
        nll_P = hidden_PH.new_empty(len(hidden_PH), dtype=torch.float32)
        right_P = torch.empty_like(target_P, dtype=torch.bool)
        for start in range(0, len(hidden_PH), chunk):
            part = slice(start, start + chunk)
            hidden, target_ids = hidden_PH[part], target_P[part, None]
            logits = linear(hidden, head_VH, bias_V).float().mul_(scale)
            slope: Tensor | float = scale
            if softcap is not None:
                capped = logits.div_(softcap).tanh_()
                slope = (1 - capped.square()) * scale
                logits = capped * softcap
            right_P[part] = logits.argmax(-1) == target_ids[:, 0]
            normaliser = logits.logsumexp(-1, keepdim=True)
            nll_P[part] = (normaliser - logits.gather(-1, target_ids))[:, 0]
            if grad_hidden is None and grad_head is None:
                continue
            gradient = logits.sub_(normaliser).exp_()
            gradient.scatter_add_(-1, target_ids, gradient.new_full(target_ids.shape, -1.0))
            gradient *= weight_P[part, None] * slope
            if grad_bias is not None:
                grad_bias += gradient.sum(0)
            gradient = gradient.to(head_VH.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = gradient @ head_VH
            if grad_head is not None:
                if grad_head.dtype == gradient.dtype:
                    grad_head.addmm_(gradient.T, hidden)
                else:
                    grad_head += gradient.T @ hidden
        ctx.save_for_backward(grad_hidden, grad_head, grad_bias)
        ctx.dtypes = head_VH.dtype
        ctx.mark_non_differentiable(nll_P, right_P)
        return (nll_P * weight_P).sum(), nll_P, right_P

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        scale = grads[0]
        return (
            *(
                None if saved is None else (saved * scale).to(ctx.dtypes)
                for saved in ctx.saved_tensors
            ),
            *(None,) * 5,
        )


def linear_cross_entropy(
    hidden_PH: Tensor,
    head_VH: Tensor,
    bias_V: Tensor | None,
    target_P: Tensor,
    weight_P: Tensor,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted sum of the tokens' negative log-likelihoods, through a linear head.

    hidden_PH: (supervised tokens, hidden size), the head's input
    head_VH:   (vocabulary, hidden size); bias_V: (vocabulary,) or None
    target_P:  (supervised tokens,) int64
    weight_P:  (supervised tokens,) fp32, weight of each token in the loss
    scale:     factor of the model's logits (Cohere, Granite)
    softcap:   c, where the model then takes c·tanh(logit / c) (Gemma 2)
    chunk:     tokens whose logits exist at a time; by default as many as `CHUNK_LOGITS` allows
    Returns the scalar Σ weight·nll with gradient; (P,) fp32 nll in nats, and (P,) bool whether the
    target token was the likeliest, both without.
    """
    rows = chunk or max(1, CHUNK_LOGITS // len(head_VH))
    if not torch.is_grad_enabled():  # autograd would still ask for the head's gradient
        head_VH, bias_V = head_VH.detach(), None if bias_V is None else bias_V.detach()
    loss, nll_P, right_P = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_PH, head_VH, bias_V, target_P, weight_P, scale, softcap, rows
    )
    return loss, nll_P, right_P


class LossHead(nn.Module):
    """A model's head together with the loss, in chunks of tokens.

    It has the head's own parameters, so ZeRO-3 gathers them once for all chunks, and after `stay_gathered`
    once for all micro-batches of a step.
    """

    def __init__(self, head: nn.Linear, config: Any) -> None:
        super().__init__()
        self.weight, self.bias = head.weight, head.bias
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)
        factor: Any = getattr(config, "logit_scale", None) or getattr(
            config, "lm_head_multiplier", 1.0
        )
        divisor: Any = getattr(config, "logits_scaling", None) or 1.0
        self.scale = float(factor) / float(divisor)

    def forward(
        self, hidden_PH: Tensor, target_P: Tensor, weight_P: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `linear_cross_entropy`."""
        return linear_cross_entropy(
            hidden_PH,
            self.weight,
            self.bias,
            target_P,
            weight_P,
            scale=self.scale,
            softcap=self.softcap,
        )

    def stay_gathered(self) -> None:
        """From its first use in a step until the weights move; without ZeRO-3 it means nothing.

        DeepSpeed leaves what it calls persistent alone between modules, and shards everything in
        `engine.step`. A persistent weight from a disk (NVMe) would never be written back: not for those.
        """
        for parameter in self.parameters():
            parameter.ds_persist = True  # type: ignore[attr-defined]
