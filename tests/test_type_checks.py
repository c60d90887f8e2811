"""The checks that tests run under are there: without them, wrong shapes and types would pass unseen."""

from dataclasses import dataclass
from typing import Generic, TypeVar

import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, TypeCheckError
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from notice_lens.errors import one_of
from notice_lens.models.blip.answers import answer_log_probs
from notice_lens.models.layout import Segment
from type_checks import checked

Name = TypeVar("Name")
LOGITS, TARGETS = torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.int64)


def test_shapes_are_compared_among_arguments() -> None:
    assert answer_log_probs(LOGITS, TARGETS).shape == (2,)
    with pytest.raises(TypeCheckError, match="answer_pos"):
        answer_log_probs(LOGITS, TARGETS[:, :2])


def test_types_are_checked_where_no_shape_is_said() -> None:
    with pytest.raises(BeartypeCallHintViolation, match="what=1"):
        one_of(1, "a", ["b"])


def test_the_fields_of_data_classes_are_checked() -> None:
    with pytest.raises(BeartypeCallHintViolation, match="start"):
        Segment("image", "0", 4)


def with_checks(decorated):
    return checked(decorated, typechecker=beartype)


@with_checks
@dataclass
class Named(Generic[Name]):
    """A data class whose other base has no fields."""

    name: str


@with_checks
@dataclass
class Output(BaseModelOutput):
    """A data class with the fields of a library's, which are not checked."""

    name: str | None = None


def test_only_fields_of_libraries_are_left_out() -> None:
    with pytest.raises(BeartypeCallHintViolation, match="name"):
        Named(1)
    assert Output(last_hidden_state=1).last_hidden_state == 1


class Wrong:
    """Functions of all kinds whose results are not what they say, once among parts of a type."""

    @with_checks
    @classmethod
    def by_class(cls) -> list[Float[Tensor, "2"]]:
        return [torch.zeros(3)]

    @with_checks
    @staticmethod
    def alone() -> str:
        return 1

    @with_checks
    @property
    def read(self) -> "str":
        return 1


@pytest.mark.parametrize("call", [Wrong.by_class, Wrong.alone, lambda: Wrong().read], ids=["class", "static", "read"])
def test_functions_of_all_kinds_are_checked(call) -> None:
    with pytest.raises((TypeCheckError, BeartypeCallHintViolation)):
        call()


@pytest.mark.parametrize("call", [Wrong.by_class, Wrong.alone, lambda: Wrong().read], ids=["class", "static", "read"])
def test_checks_can_be_turned_off(call, unchecked: None) -> None:
    assert call() is not None
