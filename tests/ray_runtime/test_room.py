"""What fits on a cluster, what may fit later, and what never does."""

from itertools import repeat

import pytest

from steper_ray.errors import InputError
from steper_ray.ray_runtime.room import (
    Bundle,
    Cluster,
    Node,
    amounts,
    growth_words,
    has_labels,
    in_words,
    refuse_what_never_fits,
    whole_groups,
)

ENGINE = Bundle({"CPU": 8, "GPU": 4})
TASK = Bundle({"CPU": 1})
HEAD = Node({"CPU": 8})
GPU = Node({"CPU": 48, "GPU": 4}, {"zone": "a"}, "gpu", count=4)


def test_amounts_in_words() -> None:
    assert amounts({"CPU": 8, "GPU": 0.5, "accelerator_type:H100": 0.001, "memory": 0}) == (
        "8 CPU + 0.5 GPU (H100)"
    )
    labelled = Bundle({"CPU": 1}, {"zone": "a"})
    assert in_words([ENGINE, TASK, ENGINE]) == "2 × (8 CPU + 4 GPU) and 1 × (1 CPU)"
    assert in_words([labelled]) == "1 × (1 CPU on nodes with zone=a)"


@pytest.mark.parametrize(
    ("bundles", "nodes", "groups"),
    [
        ([ENGINE, TASK], [GPU], 1),
        ([ENGINE], [GPU, GPU], 2),
        ([ENGINE, ENGINE], [GPU], 0),  # whole groups
        ([TASK, Bundle({"CPU": 2})], [Node({"CPU": 2}), Node({"CPU": 1})], 1),  # the largest first
        ([Bundle({"GPU": 0.5})], [GPU], 8),
        ([Bundle({"CPU": 1, "disk": 1})], [HEAD, Node({"CPU": 1, "disk": 2})], 1),
        ([Bundle({"CPU": 1}, {"zone": "a"})], [HEAD, GPU], 48),
        ([Bundle({"CPU": n}) for n in (3, 2, 2)], [Node({"CPU": 4}), Node({"CPU": 3})], 1),
    ],
)
def test_groups_are_placed_whole(bundles: list[Bundle], nodes: list[Node], groups: int) -> None:
    assert whole_groups(repeat(bundles, 50), nodes) == groups


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ({"zone": "a"}, True),
        ({"zone": "b"}, False),
        ({"zone": "!b"}, True),
        ({"zone": "in(b, a)"}, True),
        ({"zone": "!in(b, a)"}, False),
        ({"rack": "!in(b, a)"}, True),
        ({"rack": "1"}, False),
        ({"zone": "a", "rack": "1"}, False),
    ],
)
def test_labels_of_nodes(wanted: dict[str, str], fits: bool) -> None:
    assert has_labels({"zone": "a"}, wanted) == fits


@pytest.mark.parametrize(
    ("bundles", "cluster", "said"),
    [
        (
            [Bundle({"CPU": 8, "GPU": 16})],
            Cluster((HEAD, Node({"CPU": 64, "GPU": 8}))),
            r"no node has room for 1 × \(8 CPU \+ 16 GPU\); the largest has 64 CPU \+ 8 GPU; lower it",
        ),
        (
            [Bundle({"CPU": 1, "GPU": 1})] * 999,
            Cluster((HEAD, Node({"CPU": 64, "GPU": 8}))),
            r"needs 999 × \(1 CPU \+ 1 GPU\) at the same time; the cluster has 72 CPU \+ 8 GPU; lower it",
        ),
        (
            [ENGINE] * 5,
            Cluster((HEAD,), (GPU,)),
            r"5 × .*; the cluster has 8 CPU, and the autoscaler may bring 4 × gpu \(48 CPU \+ 4 GPU\)",
        ),
        (
            [Bundle({"CPU": 1}, {"zone": "b"})],
            Cluster((HEAD,), (GPU,)),
            r"no node has room for 1 × \(1 CPU on nodes with zone=b\)",
        ),
    ],
)
def test_what_never_fits_is_refused(bundles: list[Bundle], cluster: Cluster, said: str) -> None:
    with pytest.raises(InputError, match=rf"^build: .*{said}"):
        refuse_what_never_fits("build", bundles, "lower it", cluster)


@pytest.mark.parametrize(
    ("bundles", "cluster"),
    [
        ([ENGINE] * 4, Cluster((HEAD,), (GPU,))),
        ([ENGINE] * 99, Cluster((HEAD,), unknown=True)),
        # in some other way than the one that is tried
        ([Bundle({"CPU": n}) for n in (3, 2, 2)], Cluster((Node({"CPU": 4}), Node({"CPU": 3})))),
    ],
)
def test_what_may_fit_later_is_waited_for(bundles: list[Bundle], cluster: Cluster) -> None:
    refuse_what_never_fits("build", bundles, "lower it", cluster)


def test_growth_in_words() -> None:
    assert growth_words(Cluster((HEAD,))) == ""
    assert growth_words(Cluster((HEAD,), unknown=True)).endswith("nodes that only it knows")
