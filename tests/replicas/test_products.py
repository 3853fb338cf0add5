"""Short products, against torch's own on the same rounded factors in float64."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.replicas.products import AtOnce, Products

MADE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 3), (4, 5)),
    "linear of sequences": (lambda: nn.Linear(5, 3, bias=False), (4, 2, 5)),
    "linear of one": (lambda: nn.Linear(5, 3), (5,)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, padding=1), (4, 4, 5, 7)),
    "a stride that leaves pixels out": (lambda: nn.Conv2d(4, 6, 3, stride=2, bias=False), (4, 4, 6, 8)),
    "groups and dilation": (lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), groups=2), (4, 4, 7, 6)),
    "same padding": (lambda: nn.Conv2d(4, 6, 4, padding="same"), (4, 4, 5, 6)),
    "valid padding": (lambda: nn.Conv2d(4, 6, 3, padding="valid"), (4, 4, 5, 6)),
    "reflected padding": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (4, 4, 5, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 4, 2, 1), (4, 4, 3, 5)),
    "transposed, output padding": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), (4, 4, 3, 5)),
}


def rounded(value: Tensor) -> Tensor:
    return value.detach().to(torch.bfloat16).double()


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@pytest.mark.parametrize(("make", "shape"), MADE.values(), ids=MADE)
def test_a_product_is_short_and_its_weights_gradients_are_not(make: Callable[[], nn.Module], shape: tuple[int]) -> None:
    torch.manual_seed(0)
    module, rows = make(), torch.randn(shape, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16), Products(AtOnce()):
        made = module(rows)
    gradient = torch.randn(made.shape).to(torch.bfloat16)
    made.backward(gradient)
    assert made.dtype == torch.bfloat16 and rows.grad is not None

    exact, seen = make().double(), rounded(rows).requires_grad_()
    for own, other in zip(exact.parameters(), module.parameters(), strict=True):
        own.data.copy_(rounded(other))
    expected = exact(seen)
    expected.backward(gradient.double())
    torch.testing.assert_close(made.double(), expected, rtol=2**-7, atol=1e-2)
    assert seen.grad is not None
    torch.testing.assert_close(rows.grad.double(), seen.grad, rtol=2**-7, atol=1e-2)
    for own, other in zip(exact.parameters(), module.parameters(), strict=True):
        assert own.grad is not None and other.grad is not None and other.grad.dtype == torch.float32
        torch.testing.assert_close(other.grad.double(), own.grad, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@pytest.mark.parametrize(("make", "shape"), MADE.values(), ids=MADE)
def test_gradients_have_gradients(make: Callable[[], nn.Module], shape: tuple[int]) -> None:
    """As a gradient penalty wants them; in float64, where no rounding hides a wrong formula."""
    torch.manual_seed(0)
    module = make().double()
    names, weights = zip(*module.named_parameters(), strict=True)

    def product(rows: Tensor, *weights: Tensor) -> Tensor:
        with Products(AtOnce()):
            made: Tensor = torch.func.functional_call(module, dict(zip(names, weights, strict=True)), rows)
        return made

    given = torch.randn(shape, dtype=torch.float64, requires_grad=True), *weights
    assert torch.equal(product(*given), module(given[0]))
    assert torch.autograd.gradcheck(product, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(product, given, fast_mode=True)


def test_other_operations_are_left_alone() -> None:
    rows = torch.randn(3, 4)
    with Products(AtOnce()):
        assert torch.equal(F.relu(rows) @ rows.T, rows.relu() @ rows.T)
