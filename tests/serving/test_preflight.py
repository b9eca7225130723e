"""Checks before the server starts: each fault is blamed on the setting that has it."""

import socket

import pytest

from steper_ray.errors import InputError
from steper_ray.serving.preflight import check_port


def test_a_port_in_use_is_the_port_s_fault() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            InputError, match=rf"^serve\.port: .*127\.0\.0\.1:{port} .*serve\.port="
        ):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "999.1.1.1", "2001:db8::1"])
def test_an_address_of_another_machine_is_the_host_s_fault(host: str) -> None:
    with pytest.raises(
        InputError, match=r"^serve\.host: cannot listen on .*address of this machine"
    ):
        check_port(host, 8000)
