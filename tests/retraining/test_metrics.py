"""Figures of quality, against formulas of their own in numpy and scipy."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import linalg

from pipelines.quality.metrics import class_coverage, fid, inception_score, kid, moments, neighbourhoods

ROWS, WIDTH, K = 240, 16, 5


@pytest.fixture(params=[0.0, 0.4, 3.0])
def sides(request: pytest.FixtureRequest) -> tuple[torch.Tensor, torch.Tensor]:
    """Features that differ by so much."""
    random = np.random.default_rng(3)
    mixing = random.normal(size=(WIDTH, WIDTH))
    real = random.normal(size=(ROWS, WIDTH)) @ mixing
    made = (1 + 0.2 * request.param) * random.normal(size=(ROWS, WIDTH)) @ mixing + request.param
    return torch.from_numpy(real).float(), torch.from_numpy(made).float()


def arrays(sides: tuple[torch.Tensor, torch.Tensor]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return sides[0].double().numpy(), sides[1].double().numpy()


def test_fid_is_the_frechet_distance_of_two_gaussians(sides: tuple[torch.Tensor, torch.Tensor]) -> None:
    real, made = arrays(sides)
    root = linalg.sqrtm(np.cov(real, rowvar=False) @ np.cov(made, rowvar=False)).real
    expected = ((real.mean(0) - made.mean(0)) ** 2).sum()
    expected += np.trace(np.cov(real, rowvar=False) + np.cov(made, rowvar=False) - 2 * root)
    assert fid(*sides) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("parts", [[ROWS], [7, 100, ROWS - 107], [1] * ROWS])
def test_a_frechet_distance_takes_features_in_parts(sides: tuple[torch.Tensor, torch.Tensor], parts: list[int]) -> None:
    real, _ = arrays(sides)
    known = moments(sides[0].split(parts))
    assert known.rows == ROWS
    assert np.allclose(known.mean, real.mean(0), rtol=1e-12, atol=1e-12)
    assert np.allclose(known.covariance, np.cov(real, rowvar=False), rtol=1e-10, atol=1e-10)
    assert fid(known, sides[1]) == pytest.approx(fid(*sides), rel=1e-9)


def test_the_frechet_distance_is_clean_fids(sides: tuple[torch.Tensor, torch.Tensor]) -> None:
    theirs = pytest.importorskip("cleanfid.fid", reason="clean-fid is not installed")
    assert fid(*sides) == pytest.approx(theirs.fid_from_feats(*arrays(sides)), rel=1e-6)


def test_an_inception_score_is_that_of_the_paper() -> None:
    logits = np.random.default_rng(2).normal(size=(73, 30)) * 4
    given = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    scores = []
    for number in range(10):
        part = given[number * 73 // 10 : (number + 1) * 73 // 10]
        scores.append(np.exp((part * np.log(part / part.mean(0))).sum(1).mean()))
    found = inception_score(torch.from_numpy(logits))
    assert found.value == pytest.approx(np.mean(scores), rel=1e-10)
    assert found.deviation == pytest.approx(np.std(scores), rel=1e-10)


def test_an_inception_score_counts_classes() -> None:
    """It is their number where each is generated as often, and certainly so; and 1 where all images look alike."""
    certain = 1000.0 * torch.eye(8).repeat(50, 1)
    assert inception_score(certain) == pytest.approx((8, 0))
    assert inception_score(torch.ones(40, 8)) == pytest.approx((1, 0))
    never = torch.full((400, 1), -1000.0)
    assert inception_score(torch.cat([certain, never], 1)) == pytest.approx((8, 0))
    with pytest.raises(ValueError, match="needs 10 images, not 9"):
        inception_score(torch.ones(9, 8))


def test_an_inception_score_is_torch_fidelitys() -> None:
    theirs = pytest.importorskip("torch_fidelity.metric_isc", reason="torch-fidelity is not installed")
    logits = torch.randn(503, 1008, generator=torch.Generator().manual_seed(4)) * 3
    expected = theirs.isc_features_to_metric(logits, shuffle=False)
    assert inception_score(logits) == pytest.approx(
        (expected["inception_score_mean"], expected["inception_score_std"]), rel=1e-9
    )


def test_kid_is_the_unbiased_mmd_of_blocks_with_the_error_of_their_mean(
    sides: tuple[torch.Tensor, torch.Tensor],
) -> None:
    real, made = arrays(sides)
    size, values = ROWS // 10, []
    for start in range(0, ROWS, size):
        x, y = real[start : start + size], made[start : start + size]
        own = sum(
            ((a @ b / WIDTH + 1) ** 3)
            for side in (x, y)
            for i, a in enumerate(side)
            for j, b in enumerate(side)
            if i != j
        )
        cross = sum((a @ b / WIDTH + 1) ** 3 for a in x for b in y)
        values.append(own / (size * (size - 1)) - 2 * cross / size**2)
    found = kid(*sides)
    assert found.value == pytest.approx(np.mean(values), rel=1e-4)
    assert found.error == pytest.approx(np.std(values, ddof=1) / np.sqrt(10), rel=1e-4)


def test_neighbourhoods_are_those_of_the_papers(sides: tuple[torch.Tensor, torch.Tensor]) -> None:
    real, made = arrays(sides)

    def reach(points: NDArray[np.float64]) -> NDArray[np.float64]:
        apart = np.linalg.norm(points[:, None] - points[None], axis=2)
        return np.sort(apart, axis=1)[:, K]

    apart = np.linalg.norm(real[:, None] - made[None], axis=2)
    in_real, in_made = apart < reach(real)[:, None], apart < reach(made)[None]
    found = neighbourhoods(*sides, k=K)
    assert found.precision == pytest.approx(in_real.any(0).mean(), rel=1e-4)
    assert found.recall == pytest.approx(in_made.any(1).mean(), rel=1e-4)
    assert found.density == pytest.approx(in_real.sum(0).mean() / K, rel=1e-4)
    assert found.coverage == pytest.approx(in_real.any(1).mean(), rel=1e-4)


def test_a_class_is_covered_if_it_is_made_a_tenth_as_often_as_it_is_real() -> None:
    real = torch.arange(4).repeat_interleave(100)
    made = torch.cat([torch.zeros(850), torch.ones(120), torch.full((25,), 2.0), torch.full((5,), 3.0)]).long()
    assert class_coverage(real, made) == 0.75


def test_too_few_images_for_kid_are_refused() -> None:
    with pytest.raises(ValueError, match="20 images on each side, not 19"):
        kid(torch.randn(19, 4), torch.randn(19, 4))


@pytest.mark.parametrize("copies", [1, 5, 6, 12])
def test_real_pictures_are_as_good_as_themselves_however_many_copies_there_are(copies: int) -> None:
    real = torch.from_numpy(np.random.default_rng(0).normal(100, 1, size=(20, 64))).repeat(copies, 1).float()
    found = neighbourhoods(real, real[torch.randperm(len(real), generator=torch.Generator().manual_seed(0))], k=K)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    assert found.density == pytest.approx(1 if copies == 1 else max(copies, K) / K, rel=0.3)
    others = neighbourhoods(real, real + 100, k=K)
    assert others == (0, 0, 0, 0)


def test_features_that_are_all_alike_have_figures() -> None:
    alike = torch.ones(30, 8)
    assert fid(alike, alike) == pytest.approx(0, abs=1e-9)
    assert fid(alike, alike + 2) == pytest.approx(8 * 4)
    assert kid(alike, alike).value == pytest.approx(0, abs=1e-9)
    assert neighbourhoods(alike, alike)[:2] == (1, 1)
    assert neighbourhoods(alike, alike + 2) == (0, 0, 0, 0)


def test_fewer_samples_than_features_have_a_frechet_distance() -> None:
    """By another formula: the root's trace is the sum of singular values of what both sides share."""
    random = np.random.default_rng(5)
    real, made = random.normal(size=(12, 64)), 1 + 2 * random.normal(size=(9, 64))
    centred = [(side - side.mean(0)) / np.sqrt(len(side) - 1) for side in (real, made)]
    expected = ((real.mean(0) - made.mean(0)) ** 2).sum() + sum((side**2).sum() for side in centred)
    expected -= 2 * linalg.svdvals(centred[0] @ centred[1].T).sum()
    assert fid(torch.from_numpy(real), torch.from_numpy(made)) == pytest.approx(expected, rel=1e-6)
    assert fid(torch.from_numpy(real), torch.from_numpy(real)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("figure", [fid, kid, neighbourhoods])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_are_refused(figure: Callable[..., object], bad: float) -> None:
    spoilt = torch.randn(40, 8)
    spoilt[3, 2] = bad
    with pytest.raises(ValueError, match="the features of 1 of 40 generated images are not finite"):
        figure(torch.randn(40, 8), spoilt)
    with pytest.raises(ValueError, match="the features of 1 of 40 real images are not finite"):
        figure(spoilt, torch.randn(40, 8))


def test_too_few_neighbours_are_refused() -> None:
    with pytest.raises(ValueError, match="5 neighbours need 6 images on each side, not 5"):
        neighbourhoods(torch.randn(5, 4), torch.randn(40, 4))
