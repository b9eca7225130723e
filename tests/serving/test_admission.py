"""Places of an ingress, and the running mean of how long a question holds one."""

import pytest

from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.serving.admission import Admission
from steper_ray.serving.refusals import RefusedError
from tests.serving.backend import ScriptedBackend, service_over


def test_asking_for_room_holds_no_place_and_is_no_question() -> None:
    admission = Admission(1, mean_seconds=10)
    admission.check_free()
    assert (admission.taken, admission.mean_seconds) == (0, 10)
    with admission.hold_place(), pytest.raises(RefusedError, match="all 1 places are taken"):
        admission.check_free()
    assert admission.taken == 0
    assert 9 <= admission.mean_seconds < 9.1  # 0.9·10 + 0.1·hardly any time


@pytest.mark.anyio
async def test_a_batch_counts_as_its_questions_and_no_more() -> None:
    service = service_over(ScriptedBackend())
    service.admission.mean_seconds = 10
    await service.answer_batch(["Who?"], ReasoningConfig(passages_per_step=2, max_steps=4))
    assert 9 <= service.admission.mean_seconds < 9.2
