"""G2: an independent reader of the service's description finds no answer that the description does not allow."""

from __future__ import annotations

from collections import Counter

import pytest
import schemathesis
from faults_service import KEY, Service
from faults_tally import Tally
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance

pytestmark = [pytest.mark.case("G2"), pytest.mark.timeout(1800)]


def test_what_the_description_forbids_is_refused_and_every_answer_is_described(service: Service, tally: Tally) -> None:
    """What it allows may still be refused: fields must also fit together, and the model must be the one served."""
    description = schemathesis.openapi.from_dict(service.ask("GET", "/openapi.json").json)
    seen: Counter[int] = Counter()
    for found in description.get_all_operations():
        operation = found.ok()
        wrong = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
        right = operation.as_strategy()

        @seed(tally.seed)
        @settings(
            max_examples=tally.amount(4, 200), deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(case=st.one_of(wrong, right) if operation.body else right)
        def each(case: schemathesis.Case) -> None:
            answer = case.call(base_url=service.url, headers={"Authorization": f"Bearer {KEY}"})
            seen[answer.status_code] += 1
            case.validate_response(answer, excluded_checks=[positive_data_acceptance])

        each()
    tally.count("requests made up by schemathesis", sum(seen.values()))
    assert seen[200] and seen[400]
