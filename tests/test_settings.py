"""Settings: refused before anything is computed, and the key that follows from them."""

from __future__ import annotations

import dataclasses
import json
import pickle
from typing import Any

import pytest

from ulelib.pgd import Pgd
from ulelib.settings import (
    BelowOne,
    Count,
    Op,
    Seed,
    at_default,
    canonical,
    described,
    key_of,
    look_up,
    op,
    read,
    settings,
)


@settings
class Sample:
    """Settings of every kind."""

    seed: Seed = 0
    size: Count = 3
    momentum: BelowOne = 0.9
    views: tuple[Op, ...] = ()
    inner: Pgd = Pgd()
    name: str = "shown"
    younger: int | None = None

    def not_in_key(self) -> frozenset[str]:
        return at_default(self, "younger") | {"name"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": -1}, "Sample.seed is -1: input should be greater"),
        ({"seed": 2**31}, "Sample.seed is 2147483648"),
        ({"seed": 1.0}, "Sample.seed is 1.0"),
        ({"seed": None}, "Sample.seed is None"),
        ({"size": True}, "Sample.size is True"),
        ({"size": "3"}, "Sample.size is '3'"),
        ({"size": 10**30}, "Sample.size is"),
        ({"momentum": float("nan")}, "Sample.momentum is nan"),
        ({"momentum": 1}, "Sample.momentum is 1: input should be less than 1"),
        ({"views": op("gray")}, "Sample.views is"),
        ({"views": ("gray",)}, "Sample.views.0 is 'gray'"),
        ({"inner": {"steps": 3}}, "Sample.inner is"),
        ({"unknown": 1}, "Sample.unknown is 1: unexpected"),
    ],
)
def test_what_is_out_of_range_is_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Sample(**changed)
    assert message in str(caught.value)
    assert "http" not in str(caught.value) and "\n" not in str(caught.value)


def test_all_wrong_fields_are_named_at_once() -> None:
    with pytest.raises(ValueError, match="Sample.seed is -1.*; Sample.size is 0"):
        Sample(seed=-1, size=0)


def test_settings_are_frozen_hashable_and_travel() -> None:
    sample = Sample(views=(op("crop_flip", padding=4),))
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample.seed = 1  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(sample)) == sample
    assert hash(sample) == hash(dataclasses.replace(sample))
    assert dataclasses.replace(sample, seed=4).seed == 4
    with pytest.raises(ValueError, match="Sample.seed"):
        dataclasses.replace(sample, seed=-4)


def test_canonical_text_names_types_and_options() -> None:
    told = json.loads(canonical(Sample(views=(op("crop_flip", padding=4),))))
    assert told["type"] == "Sample" and told["inner"]["type"] == "Pgd"
    assert told["views"] == [{"op": "crop_flip", "padding": 4}]
    assert "\n" not in canonical(Sample()) and canonical(Sample()) == canonical(Sample())


def test_key_follows_what_can_change_a_result() -> None:
    keys = {
        key_of(sample)
        for sample in (
            Sample(),
            Sample(seed=1),
            Sample(momentum=0.5),
            Sample(views=(op("gray"),)),
            Sample(views=(op("crop_flip"),)),
            Sample(views=(op("crop_flip", padding=4),)),
            Sample(inner=Pgd(steps=3)),
            Sample(younger=1),
        )
    }
    assert len(keys) == 8
    assert all(len(key) == 16 for key in keys)


def test_names_and_whole_numbers_given_as_floats_do_not_change_the_key() -> None:
    assert key_of(Sample(name="another")) == key_of(Sample())
    assert key_of(Sample(momentum=0)) == key_of(Sample(momentum=0.0))


def test_a_younger_field_leaves_older_keys_as_they_were() -> None:
    assert "younger" not in canonical(Sample())
    assert json.loads(canonical(Sample(younger=1)))["younger"] == 1
    assert described(Sample())["younger"] is None  # the record says all


CLASSES: dict[str, type] = {"Sample": Sample, "Pgd": Pgd}


@pytest.mark.parametrize(
    "sample", [Sample(), Sample(views=(op("net", widths=(1, (2, 3))),), younger=4, name="b")]
)
def test_what_is_described_can_be_read(sample: Sample) -> None:
    plain = json.loads(json.dumps(described(sample)))
    assert read(plain, CLASSES) == sample
    del plain["younger"]  # as older code wrote it
    assert read(plain, CLASSES) == dataclasses.replace(sample, younger=None)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"type": "Simple"}, "type 'Simple'; choose from"),
        ({"type": ["Sample"]}, "type"),
        ({"size": 0}, "Sample.size is 0"),
        ({"unknown": 1}, "Sample.unknown"),
        ({"inner": {"type": "Pgd", "steps": "3"}}, "Pgd.steps is '3'"),
        ({"inner": {"type": "Sample"}}, "Sample.inner is"),
        ({"views": [{"op": 5}]}, "Op.name is 5"),
        ({"views": {"op": "gray"}}, "Sample.views is"),
    ],
)
def test_what_is_no_spec_is_not_read(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(described(Sample()) | changed, CLASSES)


def test_specs_hold_no_functions() -> None:
    with pytest.raises(ValueError, match="neither finite number, text nor tuple"):
        op("gray", function=print)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="has no canonical text"):
        canonical((1, print))


def test_options_have_one_order() -> None:
    assert op("net", width=2, depth=1) == op("net", depth=1, width=2)
    assert str(op("net", width=2, depth=1)) == "net (depth 1, width 2)" and str(op("net")) == "net"


def test_look_up_says_what_there_is() -> None:
    table = {"half": lambda value, by=2: value / by}
    assert look_up(table, op("half", by=4), "function")(8) == 2
    with pytest.raises(ValueError, match=r"function 'double'; choose from \['half'\]"):
        look_up(table, op("double"), "function")
    with pytest.raises(ValueError, match=r"'half' has no option \['buy'\]; it takes"):
        look_up(table, op("half", buy=4), "function")


def test_an_option_cannot_take_the_functions_place_in_the_key() -> None:
    with pytest.raises(ValueError, match='no option can be called "op"'):
        Op("nope", (("op", "convnet"),))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), (1, float("-inf"))])
def test_options_are_finite(value: Any) -> None:
    with pytest.raises(ValueError, match="neither finite number"):
        op("gray", amount=value)


def test_too_many_values_are_counted() -> None:
    with pytest.raises(ValueError, match="Pgd takes 4 values, not 5 or more"):
        Pgd(1.0, 0.1, 3, True, 5)  # type: ignore[call-arg]
