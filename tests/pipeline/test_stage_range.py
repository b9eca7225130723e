import pytest

from steper_ray.errors import InputError
from steper_ray.pipeline.stage_range import stages_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("index..eval", "index build train eval"),
        ("build..train", "build train"),
        ("train", "train"),
        ("..build", "index build"),
        ("train..", "train eval"),
        ("toy..index", "toy index"),
        ("eval..serve", "eval serve"),
        ("..", "index build train eval"),
    ],
)
def test_range_has_both_ends(text: str, expected: str) -> None:
    assert stages_of(text) == expected.split()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("biuld..eval", "biuld..eval: no stage 'biuld' of a range; did you mean build?"),
        (
            "index..x",
            "index..x: no stage 'x' of a range; the stages are toy, index, build, train, eval",
        ),
        ("eval..index", "eval..index: eval comes after index; write index..eval"),
        ("", ": no stage '' of a range; the stages are toy"),
    ],
)
def test_wrong_range_is_one_line(text: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        stages_of(text)
    assert str(refused.value).startswith(said)
