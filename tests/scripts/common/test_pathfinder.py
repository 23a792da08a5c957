"""Pathfinder: the drawn scenes against what the task says of them, and no short cut to the label."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from common import pathfinder

from momentum_fairseq.data.labelled_sequences import LabelledSequences
from tests.scripts.lra_scripts import call, checksums

SCENE = pathfinder.Scene()
COUNTS = ("--counts", 40, 10, 14)


@pytest.fixture(scope="module")
def contours() -> np.ndarray:
    return pathfinder.draw_contours(np.random.default_rng(1), 3000, SCENE)


@pytest.fixture(scope="module")
def marked(contours) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return pathfinder.place_markers(np.random.default_rng(2), contours, SCENE)


@pytest.fixture(scope="module")
def paddles(contours) -> np.ndarray:
    return pathfinder.add_distractors(np.random.default_rng(3), contours[:60], SCENE)


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    return pathfinder.draw(np.random.default_rng(4), 400, SCENE)


def chains(paddles: np.ndarray) -> list[np.ndarray]:
    """The contours and distractors of one image, paddles `[·,4]` of each."""
    both, rest = paddles[: 2 * SCENE.contour], paddles[2 * SCENE.contour :]
    distractors = rest.reshape(-1, SCENE.distractor, 4)
    return [both[0::2], both[1::2], *(chain for chain in distractors if chain[0, 0] < pathfinder.FAR)]


def test_the_scene_is_the_benchmarks():
    assert (SCENE.size, SCENE.contour, SCENE.distractor, SCENE.distractors) == (32, 14, 4, 5)
    assert (SCENE.length, SCENE.thickness, SCENE.margin, SCENE.continuity) == (2, 0.5, 1, 1)
    assert (SCENE.seed_distance, SCENE.marker_radius, SCENE.supersampling, SCENE.contrast) == (7, 1.5, 2, 0.75)


def test_paddles_are_equally_long_and_two_margins_apart_along_their_contour(paddles):
    for image in paddles:
        for chain in chains(image):
            along = (chain[:, 2:] - chain[:, :2]) / SCENE.length
            assert np.allclose(np.linalg.norm(along, axis=1), 1, atol=1e-5)
            # From the end of each a margin straight on, a turn, a margin in the new direction.
            gaps = chain[1:, :2] - chain[:-1, 2:]
            assert np.allclose(gaps, SCENE.margin * (along[:-1] + along[1:]), atol=1e-4)
            assert ((along[:-1] * along[1:]).sum(1) > -1e-4).all(), "no turn beyond a right angle"


def test_paddles_lie_inside_and_keep_two_margins_from_all_but_their_neighbours(paddles):
    share = np.linspace(0, 1, 9)[:, None]
    for image in paddles:
        assert image[image < pathfinder.FAR].min() >= SCENE.padding
        assert image[image < pathfinder.FAR].max() <= SCENE.size - SCENE.padding
        found = chains(image)
        of = np.repeat(np.arange(len(found)), [len(chain) for chain in found])
        place = np.concatenate([np.arange(len(chain)) for chain in found])
        every = np.concatenate(found)[:, None]
        points = every[..., :2] * (1 - share) + every[..., 2:] * share  # [P,9,2]
        apart = np.linalg.norm(points[:, None, :, None] - points[None, :, None], axis=-1).min((2, 3))
        neighbours = (of[:, None] == of) & (abs(place[:, None] - place) <= 1)
        assert apart[~neighbours].min() >= 2 * SCENE.margin - 1e-4


def test_contours_start_seed_distance_apart_around_the_middle(contours):
    first, second = contours[:, 0, :2], contours[:, 1, :2]
    assert np.allclose(np.linalg.norm(first - second, axis=1), SCENE.seed_distance, atol=1e-4)
    assert abs(first - SCENE.size / 2).max() <= SCENE.size / 2 - 2 * SCENE.seed_distance + 1e-4


def test_most_images_have_all_five_distractors(paddles):
    counts = [len(chains(image)) - 2 for image in paddles]
    assert max(counts) == SCENE.distractors
    assert np.mean(counts) > 0.85 * SCENE.distractors


@pytest.mark.parametrize("continuity", [1.0, 1.8])
def test_turns_have_the_density_of_a_squared_cosine(continuity):
    scene = replace(SCENE, size=100, continuity=continuity)
    last = np.tile(np.array([49, 50, 51, 50], dtype=np.float32), (4000, 1))
    grown, found = pathfinder.extend(np.random.default_rng(5), last, np.empty((4000, 0, 4), np.float32), scene)
    assert found.all()
    turns = np.sort(np.arctan2(*(grown[:, 2:] - grown[:, :2]).T[::-1])) * continuity
    expected = 0.5 + (turns + np.sin(2 * turns) / 2) / np.pi
    # Kolmogorov and Smirnov: a difference above 1.95 / √n happens once in a thousand samples.
    assert abs(expected - (np.arange(4000) + 0.5) / 4000).max() < 1.95 / 4000**0.5


def test_turns_into_what_is_there_already_are_not_taken():
    last = np.tile(np.array([14, 16, 16, 16], dtype=np.float32), (500, 1))
    wall = np.tile(np.array([[[19, 17, 21, 17]]], dtype=np.float32), (500, 1, 1))
    grown, found = pathfinder.extend(np.random.default_rng(6), last, wall, SCENE)
    assert found.all()
    assert pathfinder.is_clear(grown, wall, SCENE).all()
    free, _ = pathfinder.extend(np.random.default_rng(6), last, wall[:, :0], SCENE)
    assert 0.1 < pathfinder.is_clear(free, wall, SCENE).mean() < 0.9, "the wall is in the way of some"


def test_where_every_turn_is_blocked_no_paddle_is_found():
    last = np.array([[14, 16, 16, 16]], dtype=np.float32)
    wall = np.array([[[18, y, 20, y] for y in range(8, 25, 2)] + [[16, y, 18, y] for y in (13, 19)]], dtype=np.float32)
    assert not pathfinder.extend(np.random.default_rng(7), last, wall, SCENE)[1].any()


def test_a_contour_ends_at_both_markers_where_the_label_is_1_and_at_one_where_it_is_0(contours, marked):
    kept, markers, labels = marked
    for number, (start, end), label in zip(kept, markers, labels, strict=True):
        own = [i for i in (0, 1) if np.array_equal(contours[number, i, :2], start)]
        far = [i for i in (0, 1) if np.array_equal(contours[number, i - 2, 2:], end)]
        assert len(own) == len(far) == 1
        assert (own == far) == bool(label)


def test_every_two_images_are_one_of_each_label_with_markers_in_the_same_triangle_with_the_middle(contours, marked):
    kept, markers, labels = marked
    assert (labels.reshape(-1, 2).sum(1) == 1).all()
    assert 0.3 < labels[::2].mean() < 0.7, "in random order"
    one, other = (markers[first::2] - SCENE.size / 2 for first in (0, 1))
    distance, start, middle = (
        abs(np.linalg.norm(side(one), axis=-1) - np.linalg.norm(side(other), axis=-1)).max()
        for side in (lambda m: m[:, 0] - m[:, 1], lambda m: m[:, 0], lambda m: m.mean(1))
    )
    assert distance < 1 and start < 2 and middle < 2
    assert len(set(kept.tolist())) == len(kept) > 0.5 * len(contours)


def features(images: np.ndarray) -> dict[str, np.ndarray]:
    """What needs no tracing of contours."""
    bright = images > 0.9 * 255
    ink = images.sum((1, 2), dtype=float)
    rows, columns = np.indices(images.shape[1:])
    counts = bright.sum((1, 2))
    middle = [(bright * axis).sum((1, 2)) / counts for axis in (rows, columns)]
    spread = (bright * rows**2 + bright * columns**2).sum((1, 2)) / counts - middle[0] ** 2 - middle[1] ** 2
    from_middle = np.hypot(middle[0] - 15.5, middle[1] - 15.5)
    border = images[:, [0, 1, -2, -1]].sum((1, 2), dtype=float) + images[:, :, [0, 1, -2, -1]].sum((1, 2), dtype=float)
    return {"ink": ink, "bright pixels": counts, "distance": spread, "from the middle": from_middle, "border": border}


@pytest.mark.parametrize("name", ["ink", "bright pixels", "distance", "from the middle", "border"])
def test_a_trivial_feature_does_not_tell_the_label(images, name):
    pictures, labels = images
    values = features(pictures)[name]
    higher = (values[labels == 1][:, None] > values[labels == 0]).mean()
    equal = (values[labels == 1][:, None] == values[labels == 0]).mean()
    # The area under the curve of n against n has a deviation of √((2n + 1) / 12) / n where there is nothing to tell.
    assert abs(higher + equal / 2 - 0.5) < 3.5 * (801 / 12) ** 0.5 / 400


def test_a_disc_and_a_line_cover_their_areas():
    points = np.random.default_rng(8).uniform(5, 27, (200, 1, 2))
    disc = pathfinder.stamp(np.concatenate([points, points], -1), 1.5, SCENE).sum((1, 2))
    assert disc.mean() == pytest.approx(np.pi * 1.5**2, rel=0.02)
    angles = np.random.default_rng(9).uniform(0, 2 * np.pi, (200, 1))
    line = pathfinder.stamp(pathfinder.paddles_from(points, angles, SCENE), 0.25, SCENE).sum((1, 2))
    assert line.mean() == pytest.approx(2 * 0.5 + np.pi * 0.25**2, rel=0.05)


def test_a_line_on_pixel_centres_covers_those_pixels_and_no_others():
    image = pathfinder.stamp(np.array([[[10.0, 5.5, 12.0, 5.5]]]), 0.5, SCENE)[0]
    assert image[5, 10:12].tolist() == [1, 1]
    assert image.sum() - image[5, 9:13].sum() == 0
    outside = pathfinder.stamp(np.array([[[0.0, 0.0, 0.0, 0.0]]]), 1.5, SCENE)[0]
    assert outside[0, 0] == 1 and outside[2:].sum() == outside[:, 2:].sum() == 0


def test_paddles_are_as_bright_as_their_contrast_and_markers_white(images):
    pictures, _ = images
    assert pictures.dtype == np.uint8 and pictures.shape == (800, 32, 32)
    assert (pictures.max((1, 2)) == 255).all()
    assert {round(0.75 * 255 * quarter / 4) for quarter in range(5)} <= set(np.unique(pictures).tolist())


def test_processes_and_interruptions_change_no_byte_and_every_split_is_balanced(tmp_path, monkeypatch):
    assert call(monkeypatch, "generate_pathfinder", tmp_path / "one", *COUNTS, "--workers", 1, block=32) == 0
    with monkeypatch.context() as broken:
        broken.setattr("common.sequence_sets.write_set", lambda *arguments: sys.exit("interrupted"))
        assert call(broken, "generate_pathfinder", tmp_path / "two", *COUNTS, "--workers", 2, block=32) == "interrupted"
    next((tmp_path / "two" / "shards").glob("000001.npz")).unlink()
    message = call(monkeypatch, "generate_pathfinder", tmp_path / "two", *COUNTS, "--seed", 5, block=32)
    assert "shards: left by a run with other settings" in message
    assert call(monkeypatch, "generate_pathfinder", tmp_path / "two", *COUNTS, "--workers", 2, block=32) == 0
    assert checksums(tmp_path / "one") == checksums(tmp_path / "two")
    assert not (tmp_path / "two" / "shards").exists()
    for split, count in (("train", 40), ("dev", 10), ("test", 14)):
        read = LabelledSequences(tmp_path / "one", split)
        assert np.bincount(read.labels).tolist() == [count // 2] * 2
        assert set(read.sizes) == {1024}
    meta = json.loads((tmp_path / "one" / "meta.json").read_text())
    assert meta["settings"]["contour"] == 14 and meta["splits"]["dev"]["by_label"] == [5, 5]
