import pytest

from steper_ray.errors import InputError
from steper_ray.ray_runtime.session import check_address, ray_session


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265", "https://head"])
def test_address_that_no_driver_joins_is_one_line(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError) as refused, ray_session():
        pass
    assert str(refused.value) == (
        f"RAY_ADDRESS: a stage cannot join a cluster by {address}; on a node of the cluster set "
        "RAY_ADDRESS=auto or host:6379, from elsewhere give `steper submit` --address http://host:8265"
    )


@pytest.mark.parametrize("address", ["", "auto", "local", "10.0.0.1:6379", "head:6379"])
def test_address_of_a_cluster_is_taken(address: str) -> None:
    check_address(address)
