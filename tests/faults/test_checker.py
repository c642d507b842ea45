"""The oracle finds every kind of fault that is planted, and nothing where there is none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults.checker import Input, Output, check

SOURCE = "in"


def given(partitions: int = 2, each: int = 6) -> list[Input]:
    return [
        Input((SOURCE, partition, offset), _key(partition, offset), _outcome(offset), f"e{offset}", 2.0 * offset)
        for partition in range(partitions)
        for offset in range(each)
    ]


def _key(partition: int, offset: int) -> bytes:
    return f"{partition}-{offset % 2}".encode()


def _outcome(offset: int):
    return {3: "dead letter", 4: "skip"}.get(offset, "prediction")


def answered(inputs: list[Input]) -> list[Output]:
    """What a perfect engine publishes."""
    return [
        Output(
            one.place,
            one.key,
            one.outcome,
            "out" if one.outcome == "prediction" else "dlq",
            one.place[1],
            one.event_id,
            one.double,
            "echo/{}/{}/{}".format(*one.place) if one.outcome == "prediction" else "",
        )
        for one in inputs
        if one.outcome != "skip"
    ]


def test_a_perfect_run_has_no_complaints():
    inputs = given()
    report = check(inputs, answered(inputs))
    assert report.complaints == {}
    assert str(report) == "12 inputs, exact"


@pytest.mark.parametrize("place", [(SOURCE, 0, 0), (SOURCE, 1, 3), (SOURCE, 1, 5)])
def test_a_loss_is_found(place):
    inputs = given()
    report = check(inputs, [output for output in answered(inputs) if output.place != place])
    assert report.complaints == {"lost": 1}
    assert report.lost == [place]


def test_a_duplicate_is_found_and_is_no_reorder():
    inputs = given()
    outputs = answered(inputs)
    report = check(inputs, [*outputs, outputs[2]])
    assert report.complaints == {"duplicated": 1}
    assert report.duplicated == [outputs[2].place]


def test_a_prediction_that_is_a_dead_letter_too_is_a_duplicate():
    inputs = given()
    outputs = answered(inputs)
    report = check(inputs, [*outputs, replace(outputs[0], outcome="dead letter", topic="dlq")])
    assert report.duplicated == [outputs[0].place]


def test_a_reorder_within_a_partition_is_found():
    inputs = given()
    outputs = answered(inputs)
    outputs[0], outputs[1] = outputs[1], outputs[0]
    assert check(inputs, outputs).complaints == {"reordered": 1}


def test_a_reorder_within_a_key_is_found():
    inputs = given()
    outputs = answered(inputs)
    outputs[0], outputs[2] = outputs[2], outputs[0]  # both of key 0-0
    assert any("key" in text for text in check(inputs, outputs).reordered)


def test_a_key_in_two_output_partitions_has_no_order():
    inputs = given()
    outputs = answered(inputs)
    outputs[2] = replace(outputs[2], partition=1)
    assert set(check(inputs, outputs).complaints) == {"reordered"}


@pytest.mark.parametrize(
    "change",
    [
        {"double": 99.0},
        {"key": b"another"},
        {"event_id": "another"},
        {"prediction_id": "echo/in/0/99"},
        {"outcome": "dead letter"},
    ],
)
def test_a_wrong_answer_is_found(change):
    inputs = given()
    outputs = answered(inputs)
    outputs[-1] = replace(outputs[-1], **change)
    assert check(inputs, outputs).complaints == {"wrong": 1}


def test_an_answer_to_what_was_skipped_is_wrong():
    inputs = given()
    skipped = next(one for one in inputs if one.outcome == "skip")
    extra = answered([replace(skipped, outcome="prediction")])
    assert "wrong" in check(inputs, answered(inputs) + extra).complaints


def test_an_answer_to_no_input_is_foreign():
    inputs = given()
    outputs = answered(inputs)
    report = check(inputs, [*outputs, replace(outputs[-1], place=(SOURCE, 1, 99))])
    assert report.foreign == [(SOURCE, 1, 99)]
