"""Names of a run's applications, and what a new server may not take from those that run."""

from pathlib import Path

import pytest

from steper_ray.errors import InputError
from steper_ray.serving.applications import (
    RunningServe,
    check_taken,
    corpus_prefix,
    ingress_app,
    is_own,
    llm_prefix,
    run_name,
    trial_app,
)
from steper_ray.serving.settings import ServeConfig


def test_a_run_is_named_by_its_folder_wherever_it_is_named_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "my run.v2"
    monkeypatch.chdir(tmp_path)
    name = run_name(root)
    assert name.startswith("my-run-v2-")
    assert run_name(Path("my run.v2")) == name
    assert run_name(tmp_path / "other" / "my run.v2") != name
    assert len(run_name(tmp_path / ("x" * 200))) < 40
    assert run_name(Path("/")).startswith("run-")


def test_an_application_is_of_one_run() -> None:
    ours = [
        ingress_app("a-1"),
        trial_app("a-1"),
        f"{llm_prefix('a-1')}9",
        f"{corpus_prefix('a-1')}9",
    ]
    assert len(set(ours)) == 4
    assert all(is_own(name, "a-1") for name in ours)
    others = [
        ingress_app("a-12"),
        ingress_app("b-1"),
        f"{llm_prefix('a-12')}9",
        "default",
        "steper",
    ]
    assert not any(is_own(name, "a-1") for name in others)


RUNNING = RunningServe(
    "0.0.0.0", 8000, {ingress_app("b-2"): "/", f"{llm_prefix('b-2')}9": None, "shop": "/shop"}
)


@pytest.mark.parametrize(
    ("run", "settings", "said"),
    [
        ("b-2", {}, "this run is served already"),
        ("a-1", {"port": 8001}, r"serve\.port: .* serve\.host=0\.0\.0\.0 and serve\.port=8000"),
        # no keys are asked for on loopback: the real address must be the one that was checked
        ("a-1", {"host": "127.0.0.1"}, r"serve\.host: Serve runs on this cluster already"),
        ("a-1", {}, r"serve\.route_prefix: / is taken by the application steper-b-2"),
        ("a-1", {"route_prefix": "/shop"}, r"/shop is taken by the application shop"),
    ],
)
def test_what_is_taken_is_refused(run: str, settings: dict[str, object], said: str) -> None:
    config = ServeConfig.model_validate({"host": "0.0.0.0", "open": True, **settings})
    with pytest.raises(InputError, match=said):
        check_taken(config, run, RUNNING)


def test_two_servers_share_a_serve_under_routes_of_their_own() -> None:
    check_taken(ServeConfig(host="0.0.0.0", open=True, route_prefix="/a"), "a-1", RUNNING)
    for wrong in ("a", "/a/", "", "//", "/a//b", "/a?b", "/a b"):
        with pytest.raises(ValueError, match="route_prefix"):
            ServeConfig(route_prefix=wrong)
