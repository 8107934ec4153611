from __future__ import annotations

import pytest

from engine.protocol import UmbrellaRequest
from engine.schema import SchemaError, read


def refusal(data: object, *, where: str = "umbrella", forbid_unknown: bool = False) -> SchemaError:
    with pytest.raises(SchemaError) as caught:
        read(UmbrellaRequest, data, where=where, forbid_unknown=forbid_unknown)
    return caught.value


def test_an_empty_object_is_all_defaults_and_unknown_keys_are_ignored() -> None:
    assert read(UmbrellaRequest, {"of_a_later_version": 1}) == UmbrellaRequest()


def test_an_integer_is_accepted_where_a_float_is_meant() -> None:
    request = read(UmbrellaRequest, {"segments": [{"kind": "prefix", "text": "x", "rank": 3}]})
    assert request.segments[0].rank == 3.0


@pytest.mark.parametrize(
    ("data", "field", "says"),
    [
        ({"n": "3"}, "umbrella.n", "umbrella.n must be int, not str"),
        ({"n": True}, "umbrella.n", "must be int, not bool"),
        ({"n": 1.5}, "umbrella.n", "must be int, not float"),
        ({"n": 99}, "umbrella.n", "umbrella.n must be between 1 and 16"),
        ({"priority": "soon"}, "umbrella.priority", "one of 'typing', 'chat', 'prefetch'"),
        ({"stop": {"max_lines": 0}}, "umbrella.stop.max_lines", "umbrella.stop.max_lines must be at least 1"),
        ({"stop": {"max_lines": "2"}}, "umbrella.stop.max_lines", "must be int | null, not str"),
        ({"stop": 7}, "umbrella.stop", "must be object, not int"),
        ({"segments": [{"kind": "prefix"}]}, "umbrella.segments[0].text", "is missing"),
        ({"segments": [{"kind": "x", "text": ""}]}, "umbrella.segments[0].kind", "one of 'prefix', 'suffix'"),
        (None, "umbrella", "must be object, not null"),
    ],
)
def test_a_refusal_names_the_field_and_what_is_allowed(data: object, field: str, says: str) -> None:
    error = refusal(data)
    assert error.field == field
    assert says in str(error)


def test_a_document_of_the_wrong_type_has_no_field() -> None:
    error = refusal([], where="")
    assert error.field == ""
    assert "this must be object" in str(error)


def test_an_unknown_key_is_refused_where_asked_with_the_nearest_known_one() -> None:
    error = refusal({"pirority": "chat"}, where="", forbid_unknown=True)
    assert error.field == "pirority"
    assert "Did you mean priority?" in str(error)
    assert "speculative" in str(error)
