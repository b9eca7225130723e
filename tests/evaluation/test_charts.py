from xml.etree import ElementTree

import numpy as np
import pytest

from steper_ray.evaluation.charts import (
    CURVE_POINTS,
    Bar,
    Curve,
    exact_match_chart,
    loss_chart,
    sigma_chart,
)


def curve(values: list[float], name: str = "init", paint: str = "init") -> Curve:
    steps = np.arange(1, len(values) + 1, dtype=np.float64)
    return Curve(name, paint, steps, np.array(values))


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()).strip() for node in ElementTree.fromstring(svg).iter("text")]


def test_shortened_averages_equal_stretches() -> None:
    short = curve([float(n) for n in range(2 * CURVE_POINTS)]).shortened()
    assert len(short.values) == CURVE_POINTS
    assert short.values[:3].tolist() == [0.5, 2.5, 4.5]
    assert short.steps[:3].tolist() == [1.5, 3.5, 5.5]


def test_short_curves_stay_as_they_are() -> None:
    values = [3.0, 1.0, 2.0]
    assert curve(values).shortened().values.tolist() == values
    assert curve(values).smoothed().values.tolist() == values


def test_smoothed_is_the_mean_of_neighbours() -> None:
    # 40 points reach one to either side, and at the ends only inwards.
    smooth = curve([float(n * n) for n in range(40)]).smoothed().values
    assert smooth[0] == pytest.approx(0.5)
    assert smooth[2] == pytest.approx((1 + 4 + 9) / 3)
    assert smooth[39] == pytest.approx((38**2 + 39**2) / 2)


def test_bars_carry_their_numbers_and_colours() -> None:
    groups = {
        "All": [Bar("student", 0.5, 10), Bar("base", 0.2, 10)],
        "2 hops": [Bar("student", 0.75, 4), Bar("base", 0.0, 0)],
    }
    svg = exact_match_chart(groups)
    assert {"50", "20", "75", "All", "2 hops"} <= set(texts(svg))
    # A group without questions has no bar, so no number either.
    assert texts(svg).count("0") == 1
    assert "var(--student)" in svg
    assert "var(--base)" in svg


def test_curves_are_named_at_their_ends_without_overlap() -> None:
    near = [curve([1.0, 0.5], "init", "init"), curve([1.0, 0.501], "exp", "exp")]
    svg = loss_chart(near)
    heights = [
        float(node.get("y") or (node.get("transform") or "").split()[-1].rstrip(")"))
        for node in ElementTree.fromstring(svg).iter("text")
        if "".join(node.itertext()).strip() in ("init", "exp")
    ]
    assert len(heights) == 2
    assert abs(heights[0] - heights[1]) >= 15.9


def test_losses_over_more_than_a_decade_are_logarithmic() -> None:
    assert {"2", "0.1"} <= set(texts(loss_chart([curve([2.0, 1.0, 0.05])])))
    assert "0" in texts(loss_chart([curve([2.0, 1.0, 0.5])]))


@pytest.mark.parametrize("values", [[0.5], [0.0, 0.0], [1.0, 0.0], [-0.1, 0.2]])
def test_odd_curves_draw(values: list[float]) -> None:
    ElementTree.fromstring(loss_chart([curve(values)]))


def test_sigma_chart_describes_itself() -> None:
    svg = sigma_chart([curve([1.0, 0.72])], [curve([0.9, 0.71])])
    label = ElementTree.fromstring(svg).get("aria-label")
    assert label is not None
    assert "init 0.72" in label
    assert "init 0.71" in label
    assert "stroke-dasharray: 5.6" in svg


def test_only_css_colours_and_the_same_bytes_again() -> None:
    first = loss_chart([curve([1.0, 0.5, 0.2])])
    assert "#0a0b" not in first
    assert first == loss_chart([curve([1.0, 0.5, 0.2])])
