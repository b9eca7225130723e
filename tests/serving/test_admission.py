"""Places of an ingress: of all, of one key; and the running mean of how long a question holds one."""

import pytest

from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.serving.admission import Admission
from steper_ray.serving.keys import KeyOwner
from steper_ray.serving.refusals import RefusedError
from steper_ray.serving.request import NOBODY, ServedRequest
from tests.serving.backend import ScriptedBackend, service_over

ALICE, BOB = (KeyOwner(name, None, 0.5, None, expired=False) for name in ("alice", "bob"))


def test_asking_for_room_holds_no_place_and_is_no_question() -> None:
    admission = Admission(1, mean_seconds=10)
    admission.check_free(NOBODY)
    assert (admission.taken, admission.mean_seconds) == (0, 10)
    with (
        admission.hold_place(ServedRequest()),
        pytest.raises(RefusedError, match="all 1 places are taken"),
    ):
        admission.check_free(NOBODY)
    assert admission.taken == 0
    assert 9 <= admission.mean_seconds < 9.1  # 0.9·10 + 0.1·hardly any time


def test_a_reserved_place_is_worked_in_by_one_question_at_a_time() -> None:
    changes: list[int] = []
    admission = Admission(3, changes.append, mean_seconds=10)
    request = ServedRequest()
    with admission.reserve_place(request):
        assert admission.taken == 1
        for _ in range(2):  # one after the other
            with admission.hold_place(request):
                assert admission.taken == 1
                with admission.hold_place(request):  # and one beside it
                    assert admission.taken == 2
        assert admission.taken == 1
        assert admission.mean_seconds < 10 * 0.9**3  # of four questions, not of the request
    assert (admission.taken, request.place) == (0, None)
    assert changes == [1, 2, 1, 2, 1, 0]


def test_one_key_takes_its_share_of_places_and_no_more() -> None:
    admission = Admission(5)
    first, second, third = (ServedRequest(owner=ALICE) for _ in range(3))
    with admission.reserve_place(first), admission.reserve_place(second):
        with pytest.raises(RefusedError, match="all 2 places of this API key") as refused:
            admission.reserve_place(third).__enter__()
        assert (refused.value.status, refused.value.code) == (429, "share")
        assert refused.value.retry_after >= 1
        with admission.reserve_place(ServedRequest(owner=BOB)):
            assert admission.taken == 3
    with admission.reserve_place(third):
        assert admission.taken == 1
    assert Admission(1).places_of(ALICE) == 1  # at least one


@pytest.mark.anyio
async def test_a_batch_counts_as_its_questions_and_no_more() -> None:
    service = service_over(ScriptedBackend())
    service.admission.mean_seconds = 10
    await service.answer_batch(["Who?"], ReasoningConfig(passages_per_step=2, max_steps=4))
    assert 9 <= service.admission.mean_seconds < 9.2
