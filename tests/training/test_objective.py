import math

import pytest

from steper_ray.errors import InputError
from steper_ray.training.objective import (
    OBJECTIVES,
    WeightInputs,
    ability_parts,
    example_means,
    example_weights,
    global_loss,
    gradient_shares,
    objective_named,
    with_mix,
)
from steper_ray.training.sigma import Sigma

ONES = (1.0, 1.0, 1.0)


def make_sigma(initial_A=ONES, *, lr=0.02, lowest=0.05, highest=20.0, optimizer="adam"):
    return Sigma(initial_A, lr=lr, lowest=lowest, highest=highest, optimizer=optimizer)


def weights(objective, sigma_A=ONES, lambda_A=ONES):
    return OBJECTIVES[objective].weights(WeightInputs(sigma_A, lambda_A))


def test_weights_by_hand():
    assert weights("uniform", (9.0, 9.0, 9.0), (5.0, 0.0, 0.0)) == (1 / 3, 1 / 3, 1 / 3)
    assert weights("fixed", ONES, (1.5, 1.0, 0.5)) == (0.5, pytest.approx(1 / 3), 1.5 / 9)
    assert weights("difficulty", (0.5, 1.0, 2.0), ONES) == (2.0, 0.5, 0.125)
    assert weights("vanilla-kd") == (0.0, 0.0, 1.0)


def test_weights_of_four_abilities_by_hand():
    four = (0.5, 1.0, 2.0, 1.0)
    assert weights("difficulty", four) == (2.0, 0.5, 0.125, 0.5)
    assert weights("uniform", four) == (0.25, 0.25, 0.25, 0.25)
    assert weights("fixed", four, (4.0, 2.0, 1.0, 1.0)) == (0.5, 0.25, 0.125, 0.125)
    assert weights("vanilla-kd", four) == (0.0, 0.0, 0.0, 1.0)


def test_a_mix_weighs_the_same_beside_every_objective():
    for name in OBJECTIVES:
        shares = gradient_shares(weights(name, (0.3, 1.0, 4.0)), (9, 9, 9))
        *others, mix = with_mix(shares, 0.25)
        assert mix == pytest.approx(0.2)
        assert sum(others) == pytest.approx(0.8)
    # two rows of the mix, behind three abilities
    assert example_weights([0, 3, 1, 3], with_mix((0.5, 0.25, 0.25), 1.0)) == [
        0.25,
        0.25,
        0.125,
        0.25,
    ]


def test_an_unknown_objective_is_refused_with_the_nearest_name():
    with pytest.raises(
        InputError, match=r"no objective is called 'unifrom'; did you mean uniform\?"
    ):
        objective_named("unifrom")


def test_example_weights_share_an_ability_equally():
    assert example_weights([0, 2, 0, 2, 2, 2], (0.5, 9.0, 1.0)) == [
        0.25,
        0.25,
        0.25,
        0.25,
        0.25,
        0.25,
    ]


def test_gradient_shares_sum_to_one_over_the_abilities_trained_on():
    assert gradient_shares((2.0, 0.5, 0.125), (5, 4, 6)) == (2 / 2.625, 0.5 / 2.625, 0.125 / 2.625)
    assert gradient_shares(weights("difficulty", (0.3, 0.3, 0.3)), (5, 4, 6)) == pytest.approx(
        weights("uniform")
    )
    assert gradient_shares((1 / 3, 1 / 3, 1 / 3), (5, 0, 6)) == (0.5, 0.0, 0.5)
    assert gradient_shares(weights("vanilla-kd"), (0, 0, 6)) == (0.0, 0.0, 1.0)


def test_parts_of_a_batch_by_hand():
    """A batch of 8 of 32 chains; over all of them 32, 16 and 4 examples."""
    trained_A = (32, 16, 4)
    assert ability_parts((8, 6, 0), trained_A, 0.25, "batch") == (1.0, 1.0, 0.0)
    assert ability_parts((8, 6, 0), trained_A, 0.25, "expected") == (1.0, 1.5, 0.0)
    assert ability_parts((8, 2, 3), trained_A, 0.25, "expected") == (1.0, 0.5, 3.0)
    assert ability_parts((8, 0, 1), (32, 0, 4), 0.25, "expected") == (1.0, 0.0, 1.0)


def test_by_expected_counts_an_example_weighs_the_same_in_every_batch():
    trained_A, weight_A = (32, 16, 4), (0.5, 0.25, 0.25)
    for ability_E in ([0] * 8 + [1] * 6, [0] * 8 + [1] * 2 + [2] * 3):
        count_A = tuple(ability_E.count(ability) for ability in range(3))
        part_A = ability_parts(count_A, trained_A, 0.25, "expected")
        shares = tuple(w * c for w, c in zip(weight_A, part_A, strict=True))
        found = dict(zip(ability_E, example_weights(ability_E, shares), strict=True))
        # w_j over the 8, 4 and 1 examples that a batch has on average
        expected = {0: 0.5 / 8, 1: 0.25 / 4, 2: 0.25}
        assert found == pytest.approx({ability: expected[ability] for ability in found})


def test_a_part_counts_that_often_in_the_loss_and_for_sigma():
    loss = global_loss(
        OBJECTIVES["difficulty"],
        (1.0, 2.0, 4.0),
        (1.0, 1.5, 0.0),
        (0.5, 2.0, 1.0),
        (2.0, 0.125, 0.5),
    )
    assert loss == pytest.approx(2.0 + math.log(0.5) + 1.5 * (0.25 + math.log(2.0)))
    sigma = make_sigma((1.0, 1.0, 1.0), lr=0.1, optimizer="sgd")
    sigma.update((3.0, 3.0, 3.0), (1.0, 1.5, 0.0))
    assert sigma.value_A == pytest.approx((math.exp(0.2), math.exp(0.3), 1.0), rel=1e-6)


def test_global_loss_by_hand():
    sigma_A = (0.5, 1.0, 2.0)
    weight_A = weights("difficulty", sigma_A)
    loss = global_loss(OBJECTIVES["difficulty"], (1.0, 3.0, 4.0), ONES, sigma_A, weight_A)
    # 1/(2·¼) + log ½  +  3/2 + log 1  +  4/(2·4) + log 2
    assert loss == pytest.approx(2.0 + 1.5 + 0.5)


def test_an_absent_ability_contributes_nothing_to_the_loss():
    sigma_A = (0.5, 7.0, 1.0)
    weight_A = weights("difficulty", sigma_A)
    loss = global_loss(
        OBJECTIVES["difficulty"], (1.0, 123.0, 4.0), (1.0, 0.0, 1.0), sigma_A, weight_A
    )
    assert loss == pytest.approx(2.0 + math.log(0.5) + 2.0)
    uniform = OBJECTIVES["uniform"]
    assert global_loss(uniform, (3.0, 123.0, 6.0), (1.0, 0.0, 1.0), ONES, (1 / 3,) * 3) == 3.0


def test_example_means_are_over_the_tokens_of_each_example():
    import torch

    means = example_means(torch.tensor([1.0, 4.0, 2.0]), torch.tensor([0, 1, 0]), 2)
    assert means.tolist() == [1.5, 4.0]


def test_sigma_rests_at_the_root_of_the_ability_loss():
    sigma = make_sigma()
    for _ in range(1000):
        sigma.update((0.5184, 2.0164, 0.7396), ONES)
    assert sigma.value_A == pytest.approx((0.72, 1.42, 0.86), abs=5e-4)


def test_sigma_follows_the_gradient_autograd_finds():
    import torch

    losses, start = (0.3, 2.0, 0.9), (0.8, 1.3, 1.0)
    sigma = make_sigma(start, lr=0.05)
    logs = [torch.tensor(math.log(s), dtype=torch.float64, requires_grad=True) for s in start]
    adam = torch.optim.Adam(logs, lr=0.05)
    for _ in range(20):
        terms = [
            loss / 2 * torch.exp(-2 * log) + log for loss, log in zip(losses, logs, strict=True)
        ]
        adam.zero_grad()
        torch.stack(terms).sum().backward()
        adam.step()
        sigma.update(losses, ONES)
    assert sigma.value_A == pytest.approx([math.exp(log.item()) for log in logs], rel=1e-5)


def test_an_absent_ability_keeps_its_sigma_and_its_moments():
    sigma = make_sigma()
    sigma.update((2.0, 2.0, 2.0), ONES)
    before = sigma.state_dict()
    sigma.update((5.0, 5.0, 5.0), (1.0, 0.0, 1.0))
    after = sigma.state_dict()
    assert before["log"][1] == after["log"][1]
    assert before["log"][0] != after["log"][0]
    moments, later = before["optimizer"]["state"], after["optimizer"]["state"]
    assert moments[1] == later[1]
    assert all(moments[0][name] != later[0][name] for name in ("step", "exp_avg", "exp_avg_sq"))


def test_plain_gradient_descent_moves_sigma_by_its_learning_rate_times_the_gradient():
    sigma = make_sigma((1.0, 2.0, 0.5), lr=0.1, optimizer="sgd")
    sigma.update((3.0, 4.0, 0.5), (1.0, 1.0, 0.0))
    # ∂L/∂log σ = 1 − L/σ²: −2 and 0; the third is absent.
    assert sigma.value_A == pytest.approx((math.exp(0.2), 2.0, 0.5), rel=1e-6)


def test_sigma_stays_in_its_bounds():
    sigma = make_sigma(lr=1.0, lowest=0.5, highest=2.0)
    for _ in range(10):
        sigma.update((0.0, 1e6, 1.0), ONES)
    assert sigma.value_A == pytest.approx((0.5, 2.0, 1.0))


def test_sigma_resumes_from_its_state():
    first, second = make_sigma(), make_sigma((3.0, 3.0, 3.0))
    first.update((0.4, 2.0, 1.0), (1.0, 1.0, 0.0))
    second.load_state_dict(first.state_dict())
    for sigma in (first, second):
        sigma.update((0.4, 2.0, 1.0), (1.0, 0.0, 1.0))
    assert first.value_A == second.value_A
