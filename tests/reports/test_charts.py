from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from steper_ray.reports.charts import Bar, exact_match_chart
from steper_ray.reports.drawing import ability_paints, light_colors
from steper_ray.reports.training_charts import (
    loss_chart,
    sigma_chart,
    write_curve_pictures,
)
from steper_ray.reports.training_curves import MAX_CURVE_POINTS, Curve


def curve(values: list[float], name: str = "init", paint: str = "init") -> Curve:
    steps = np.arange(1, len(values) + 1, dtype=np.float64)
    return Curve(name, paint, steps, np.array(values))


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()).strip() for node in ElementTree.fromstring(svg).iter("text")]


def test_shortened_averages_equal_stretches() -> None:
    short = curve([float(n) for n in range(2 * MAX_CURVE_POINTS)]).shortened()
    assert len(short.values) == MAX_CURVE_POINTS
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


# As the page's style sheet has them where it is light.
PAPER, INIT, EXP = (252, 252, 250), (36, 99, 180), (185, 106, 16)


def pixels(file: Path) -> np.ndarray:
    """(height, width, 3) numbers up to 255."""
    from matplotlib.image import imread

    return np.rint(imread(file)[:, :, :3] * 255).astype(int)


def painted(picture: np.ndarray, color: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The rows and columns that have the colour."""
    rows, columns = np.nonzero((picture == color).all(axis=2))
    return rows, columns


def test_pictures_are_drawn_in_the_light_colours_at_twice_the_size(tmp_path: Path) -> None:
    losses = [curve([2.0, 1.0]), curve([2.0, 0.25], "exp", "exp")]
    sigmas, rests = [curve([1.0, 0.9])], [curve([1.4, 1.0])]
    files = write_curve_pictures(losses, sigmas, rests, tmp_path / "plots")
    assert files == [tmp_path / "plots" / "losses.png", tmp_path / "plots" / "sigma.png"]
    for file in files:
        picture = pixels(file)
        assert picture.shape == (680, 920, 3)
        assert (picture == PAPER).all(axis=2).mean() > 0.8
        # No text is cut off at an edge.
        for edge in (picture[:8], picture[-8:], picture[:, :8], picture[:, -8:]):
            assert (edge == PAPER).all()
    assert len(painted(pixels(files[0]), EXP)[0]) > 1000
    assert len(painted(pixels(files[1]), INIT)[0]) > 1000
    assert len(painted(pixels(files[1]), EXP)[0]) == 0


def test_names_stand_at_the_ends_of_the_curves_of_a_picture(tmp_path: Path) -> None:
    losses = [curve([2.0, 1.0]), curve([2.0, 0.25], "exp", "exp")]
    (file,) = write_curve_pictures(losses, [], [], tmp_path)
    picture = pixels(file)
    for color in (INIT, EXP):
        rows, columns = painted(picture, color)
        # The axes end 46 points before the right edge.
        end = rows[columns < 2 * (460 - 46)][-1]
        name = rows[columns > 2 * (460 - 46)]
        assert abs(name.mean() - end) < 10


def test_a_long_name_has_room(tmp_path: Path) -> None:
    (file,) = write_curve_pictures([curve([1.0, 0.5], "a curve's long name")], [], [], tmp_path)
    assert (pixels(file)[:, -8:] == PAPER).all()


def test_pictures_without_curves_are_left_out_and_the_same_bytes_come_again(tmp_path: Path) -> None:
    assert write_curve_pictures([], [], [], tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    (first,) = write_curve_pictures([curve([1.0, 0.5])], [], [], tmp_path / "a")
    (second,) = write_curve_pictures([curve([1.0, 0.5])], [], [], tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()


def test_abilities_of_other_schemes_have_colours_of_their_own() -> None:
    paints = ability_paints(["init", "check", "exp", "plan"])
    assert paints["init"] == "init"
    assert len(set(paints.values())) == 4
    assert set(paints.values()) <= set(light_colors())
