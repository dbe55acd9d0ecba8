"""What a converted model computes, at the centre and away from it."""

import copy
import io
from contextlib import AbstractContextManager

import pytest
import torch
from torch import nn

from hypernet.problems import MODELS, Tied, conditioning, mlp, regularised, with_response
from optuna_hypergrad.hypernet import Conditioning, HyperDropout, HyperLinear, convert


def anywhere(student: nn.Module) -> AbstractContextManager[None]:
    """At other hyperparameters for each of four examples."""
    return Conditioning.of(student).at(torch.randn(4, 3))


cases = pytest.mark.parametrize("build, inputs", MODELS.values(), ids=MODELS)


@cases
@pytest.mark.parametrize("centred", [True, False])
def test_a_new_student_computes_what_the_plain_model_does(build, inputs, centred: bool) -> None:
    model, x = build(), inputs(4)
    student = convert(model, conditioning(centred))
    with anywhere(student):
        torch.testing.assert_close(student(x), model(x), rtol=1e-12, atol=1e-14)


@cases
def test_a_centred_student_is_the_plain_model_at_the_centre(build, inputs) -> None:
    model, x = build(), inputs(4)
    student = with_response(convert(model, conditioning()))
    torch.testing.assert_close(student(x), model(x), rtol=1e-12, atol=1e-14)
    with anywhere(student):
        assert not torch.allclose(student(x), model(x))


@cases
@pytest.mark.parametrize("centred", [True, False])
def test_each_example_has_its_own_hyperparameters(build, inputs, centred: bool) -> None:
    student, x, points = convert(build(), conditioning(centred)), inputs(4), torch.randn(4, 3)
    holder = Conditioning.of(with_response(student))
    with holder.at(points):
        together = student(x)
    for i, point in enumerate(points):
        with holder.at(point):
            torch.testing.assert_close(together[i : i + 1], student(x[i : i + 1]))


def test_weights_are_those_of_the_equation() -> None:
    student = with_response(convert(nn.Linear(5, 2), conditioning()))
    holder, response = student.response.conditioning, student.response
    point, x = torch.randn(3), torch.randn(4, 5)
    by_weight, by_bias = (response.map @ (point - holder.centre)).chunk(2)
    weight = student.weight + by_weight[:, None] * response.weight
    with holder.at(point):
        expected = x @ weight.T + student.bias + by_bias * response.bias
        torch.testing.assert_close(student(x), expected)


def test_padding_stays_zero() -> None:
    student = with_response(convert(nn.Embedding(7, 4, padding_idx=2), conditioning()))
    with anywhere(student):
        y = student(torch.tensor([2, 2, 2, 3]))
    assert not y[:3].any() and y[3].all()


def test_one_example_needs_no_batch() -> None:
    for student, x in [
        (nn.Linear(5, 2), torch.randn(5)),
        (nn.Conv2d(2, 4, 3), torch.randn(2, 6, 6)),
    ]:
        student = with_response(convert(student, conditioning()))
        with Conditioning.of(student).at(torch.randn(3)):
            torch.testing.assert_close(student(x), student(x[None])[0])


def test_the_model_is_unchanged_and_its_checkpoint_fits() -> None:
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    student = convert(model, conditioning())
    nn.init.zeros_(student[0].weight)
    torch.testing.assert_close(model.state_dict(), before)
    assert type(model[0]) is nn.Linear and type(student[1]) is nn.LayerNorm
    assert not student.load_state_dict(before, strict=False).unexpected_keys
    torch.testing.assert_close(student[0].weight, model[0].weight)


def test_tied_weights_stay_tied() -> None:
    student = convert(Tied(), conditioning())
    assert student.decode.weight is student.embed.weight
    assert student.decode.response.weight is not student.embed.response.weight


def test_a_layer_used_twice_responds_once() -> None:
    layer = nn.Linear(5, 5)
    student = convert(nn.Sequential(layer, nn.Tanh(), layer), conditioning())
    assert student[0] is student[2]


def test_copies_have_their_own_conditioning() -> None:
    student = with_response(convert(mlp(), conditioning()))
    twin, x = copy.deepcopy(student), torch.randn(4, 5)
    holder, other = Conditioning.of(student), Conditioning.of(twin)
    assert holder is not other
    with other.at(torch.randn(4, 3)):
        assert not torch.allclose(student(x), twin(x))
    torch.testing.assert_close(student(x), twin(x))


def test_state_dicts_hold_weights_only_and_can_be_loaded() -> None:
    student, other = (with_response(convert(mlp(), conditioning())) for _ in range(2))
    file = io.BytesIO()
    torch.save(student.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    x, point = torch.randn(4, 5), torch.randn(4, 3)
    outputs = []
    for model in (student, other):
        with Conditioning.of(model).at(point):
            outputs.append(model(x))
    torch.testing.assert_close(*outputs)


def test_students_take_the_dtype_of_their_model() -> None:
    student = convert(regularised().float(), conditioning())
    holder = Conditioning.of(student)
    with holder.at(torch.randn(4, 3, dtype=torch.float64)):
        assert student(torch.randn(4, 5, dtype=torch.float32)).dtype == torch.float32


def test_layers_that_do_not_learn_or_are_special_stay_plain() -> None:
    class Special(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(5, 5).requires_grad_(False), Special(5, 5), nn.Linear(5, 3))
    student = convert(model, conditioning())
    assert [type(layer) for layer in student] == [nn.Linear, Special, HyperLinear]


def test_models_without_a_layer_that_responds_are_refused() -> None:
    model = nn.ModuleDict({"encoder": nn.GRU(5, 4), "norm": nn.LayerNorm(4)})
    with pytest.raises(ValueError, match=r"model: no layer .*'encoder': 'GRU', 'norm': 'Layer"):
        convert(model, conditioning())
    with pytest.raises(ValueError, match=r"a hyperparameter 'p' between 0 and 1.0, got None"):
        convert(nn.Sequential(HyperDropout("p"), nn.Linear(5, 3)), conditioning())
    with pytest.raises(ValueError, match=r"'noise' between 0 and 1.0, got Positive"):
        convert(nn.Sequential(HyperDropout("noise"), nn.Linear(5, 3)), conditioning())


def test_examples_that_do_not_match_are_refused() -> None:
    student = convert(mlp(), conditioning())
    with (
        pytest.raises(ValueError, match=r"hyperparameters of 4 examples, but .* \(6, 6\)"),
        anywhere(student),
    ):
        student(torch.randn(6, 5))


def test_a_number_stands_for_that_many_unbounded_hyperparameters() -> None:
    plain = nn.Linear(3, 2)
    student = convert(plain, 4)
    x, conditioning = torch.randn(5, 3), Conditioning.of(student)
    assert torch.equal(student(x), plain(x))
    assert conditioning.values == dict.fromkeys("0123", 0.0)
    student.response.map.data.normal_()
    with conditioning.at(torch.randn(5, 4)):
        assert not torch.equal(student(x), plain(x))
