"""Pathfinder (Linsley et al. 2018): drawing images of two dashed contours among distractors, many at a time.

A contour is a chain of paddles, line segments `[x1, y1, x2, y2]` in pixels. It turns at pivots, which stand a margin before and
behind each paddle, by angles Δ of density ∝ cos²(continuity · Δ), |Δ| < π / (2 · continuity). Two contours start near the
middle, `seed_distance` apart, and grow in turn; shorter contours, the distractors, fill what is left. Between any two paddles
that don't follow each other in a contour there are two margins. The markers are discs, one on the start of a contour, the other
on the far end of the same contour (label 1) or of the other one (label 0).

Other than in the published generator, paddles have real coordinates instead of whole ones, pixels are means of the supersampled
ones, and the markers' places are made independent of the label; see `place_markers`.
"""

from dataclasses import dataclass

import numpy as np

TURNS = 16  # tried at a pivot
STARTS = 8  # places tried for a distractor
DISTRACTOR_TRIES = 5  # to draw one from its start
LABELLINGS = 3  # rounds of pairing images; those left over change their label for the next one
REAL = np.float32
FAR = 1e6  # where the paddles are that are not there yet


@dataclass(frozen=True)
class Scene:
    """What images are drawn of, in pixels."""

    size: int = 32
    padding: float = 1.0
    contour: int = 14  # paddles
    distractor: int = 14 // 3
    distractors: int = 20 // (14 // 3)
    length: float = 2.0
    thickness: float = 0.5
    margin: float = 1.0
    continuity: float = 1.0
    seed_distance: float = 7.0
    marker_radius: float = 1.5
    contrast: float = 0.75  # of paddles; markers have 1
    supersampling: int = 2

    @property
    def clearance(self) -> float:
        """The least distance between the middle lines of two paddles that don't follow each other."""
        return 2 * self.margin

    @property
    def paddles(self) -> int:
        """The most that an image has."""
        return 2 * self.contour + self.distractors * self.distractor


def direction(angles: np.ndarray) -> np.ndarray:
    """Unit vectors `[…,2]` of angles `[…]`."""
    return np.stack([np.cos(angles), np.sin(angles)], -1)


def paddles_from(starts: np.ndarray, headings: np.ndarray, scene: Scene) -> np.ndarray:
    """The paddles `[…,4]` that begin at the points `[…,2]`."""
    return np.concatenate([starts, starts + scene.length * direction(headings)], -1)


def squared_distances(points: np.ndarray, paddles: np.ndarray, length: float) -> np.ndarray:
    """Of points `[n,·,2]` from the lines of paddles `[n,·,4]`."""
    along_x, along_y = (paddles[..., axis + 2] - paddles[..., axis] for axis in (0, 1))
    x, y = (points[..., axis] - paddles[..., axis] for axis in (0, 1))
    share = np.clip((x * along_x + y * along_y) / length**2, 0, 1)
    x, y = x - share * along_x, y - share * along_y
    return x * x + y * y


def is_inside(paddles: np.ndarray, scene: Scene) -> np.ndarray:
    """Which of the paddles `[…,4]` lie inside the image."""
    return ((paddles >= scene.padding) & (paddles <= scene.size - scene.padding)).all(-1)


def is_clear(paddles: np.ndarray, placed: np.ndarray, scene: Scene) -> np.ndarray:
    """Which of the paddles `[n,4]` are clear of those placed in their image, `[n,P,4]`.

    Ends alone are measured: where two lines cross, an end of one is at most half a paddle from the other, less than wanted.
    """
    clear = np.ones(len(paddles), dtype=bool)
    paddles = paddles[:, None]
    for one, other in ((paddles, placed), (placed, paddles)):
        for end in (one[..., :2], one[..., 2:]):
            clear &= (squared_distances(end, other, scene.length) >= scene.clearance**2).all(-1)
    return clear


def first_free(proposed: np.ndarray, placed: np.ndarray, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """The first of the proposed paddles `[n,K,4]` that is inside and clear, `[n,4]`; where there is one, bool `[n]`."""
    paddles, found = np.full((len(placed), 4), FAR, dtype=REAL), np.zeros(len(placed), dtype=bool)
    inside = is_inside(proposed, scene)
    # Those inside come first, each in its order.
    order = np.argsort(~inside, axis=1, kind="stable")
    left = np.flatnonzero(inside.any(1))
    for turn, one in enumerate(order.T):
        left = left[inside[left].sum(1) > turn]
        if not len(left):
            break
        candidates = proposed[left, one[left]]
        clear = is_clear(candidates, placed[left], scene)
        paddles[left[clear]], found[left[clear]] = candidates[clear], True
        left = left[~clear]
    return paddles, found


def extend(random: np.random.Generator, last: np.ndarray, placed: np.ndarray, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """The paddle behind the `last` of a contour, `[n,4]`, clear of all others placed, `[n,P,4]`; where there is one.

    Angles are drawn one from each of some strata, and put in an order in which each of those left comes next with a probability
    in proportion to its density. The first that is free thus has the density given that it is.
    """
    along = last[:, 2:] - last[:, :2]
    headings = np.arctan2(along[:, 1], along[:, 0])[:, None]
    pivots = (last[:, 2:] + scene.margin / scene.length * along)[:, None]
    u = np.pi * ((np.arange(TURNS, dtype=REAL) + random.random((len(last), TURNS), dtype=REAL)) / TURNS - 0.5)
    order = np.argsort(random.standard_exponential(u.shape, dtype=REAL) / np.maximum(np.cos(u), 1e-6) ** 2, axis=1)
    turned = headings + np.take_along_axis(u, order, 1) / scene.continuity
    return first_free(paddles_from(pivots + scene.margin * direction(turned), turned, scene), placed, scene)


def draw_contours(random: np.random.Generator, count: int, scene: Scene) -> np.ndarray:
    """Both contours `[m,2·contour,4]`, paddle k of contour c in column 2k + c, of those of `count` images with room for both."""
    around = random.uniform(0, 2 * np.pi, (3, count)).astype(REAL)
    first = random.uniform(2 * scene.seed_distance, scene.size - 2 * scene.seed_distance, (count, 2)).astype(REAL)
    starts = first, first + scene.seed_distance * direction(around[0])
    placed = np.full((count, 2 * scene.contour, 4), FAR, dtype=REAL)
    for column in range(2 * scene.contour):
        before = placed[:, :column]
        if column < 2:
            paddles = paddles_from(starts[column], around[1 + column], scene)
            found = is_inside(paddles, scene) & is_clear(paddles, before, scene)
            starts = [start[found] for start in starts]
            around = around[:, found]
        else:
            own = column - 2
            paddles, found = extend(random, before[:, own], np.delete(before, own, 1), scene)
        placed = placed[found]
        placed[:, column] = paddles[found]
    return placed


def add_distractors(random: np.random.Generator, contours: np.ndarray, scene: Scene) -> np.ndarray:
    """All paddles of the images, `[n,paddles,4]`; FAR are those of distractors that find no room."""
    placed = np.full((len(contours), scene.paddles, 4), FAR, dtype=REAL)
    placed[:, : contours.shape[1]] = contours
    room = ~cover(contours, scene.clearance, scene.size, 1)
    for first in range(contours.shape[1], scene.paddles, scene.distractor):
        last = first + scene.distractor
        missing = np.arange(len(placed))
        for _ in range(DISTRACTOR_TRIES):
            missing = missing[room[missing].any((1, 2))]
            grown, images = draw_distractors(random, placed[missing, :first], room[missing], scene)
            placed[missing[images], first:last] = grown
            missing = np.delete(missing, images)
        room &= ~cover(placed[:, first:last], scene.clearance, scene.size, 1)
    return placed


def draw_distractors(
    random: np.random.Generator, placed: np.ndarray, room: np.ndarray, scene: Scene
) -> tuple[np.ndarray, np.ndarray]:
    """A distractor `[m,distractor,4]` in those images where one try finds room, and their numbers `[m]`.

    It starts in one of the pixels that have room, bool `[n,size,size]`, at least one an image.
    """
    images, rows, columns = np.nonzero(room)
    counts = np.bincount(images, minlength=len(room))[:, None]
    chosen = np.cumsum(counts)[:, None] - 1 - (random.random((len(room), STARTS)) * counts).astype(int)
    corner = np.stack([columns[chosen], rows[chosen]], -1).astype(REAL)
    starts = corner + random.random((len(room), STARTS, 2), dtype=REAL)
    headings = random.uniform(0, 2 * np.pi, (len(room), STARTS)).astype(REAL)
    paddles, found = first_free(paddles_from(starts, headings, scene), placed, scene)
    images = np.flatnonzero(found)
    grown = paddles[found, None]
    for _ in range(scene.distractor - 1):
        others = np.concatenate([placed[images], grown[:, :-1]], 1)
        paddles, found = extend(random, grown[:, -1], others, scene)
        grown, images = np.concatenate([grown[found], paddles[found, None]], 1), images[found]
    return grown, images


def place_markers(
    random: np.random.Generator, contours: np.ndarray, scene: Scene
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Marks the ends of contours `[n,2·contour,4]` so that the markers' places tell nothing.

    One marker is on the start of a contour, the other on the far end of the same (label 1) or of the other contour (0). The far
    end of one's own contour is not quite where that of the other would be, so images are kept in pairs, one of each label, in
    which the markers form the same triangle with the middle of the image, to a pixel or two; those left over are dropped.

    Returns:
        The numbers of the images kept, `[m]`, pairs side by side in random order; the markers `[m,2,2]`; the labels `[m]`.
    """
    own = random.integers(0, 2, len(contours))
    left, labels, pairs = np.arange(len(contours)), np.arange(len(contours)) % 2, []
    for _ in range(LABELLINGS):
        triangles = triangles_of(markers_of(contours, own, labels)[left], scene)
        _, kinds = np.unique(triangles, axis=0, return_inverse=True)
        for kind in range(kinds.max(initial=-1) + 1):
            of_label = (left[(kinds == kind) & (labels[left] == label)] for label in (0, 1))
            pairs += zip(*of_label, strict=False)
        left = np.setdiff1d(left, pairs)
        labels[left] = 1 - labels[left]
    kept = random.permuted(random.permutation(np.array(pairs, dtype=int).reshape(-1, 2)), axis=1).ravel()
    return kept, markers_of(contours, own, labels)[kept], labels[kept]


def triangles_of(markers: np.ndarray, scene: Scene) -> np.ndarray:
    """Of markers `[n,2,2]`: their distance, in pixels, and those of the first and of their middle from the image's, in two."""
    apart = np.linalg.norm(markers[:, 0] - markers[:, 1], axis=-1)
    first, middle = (np.linalg.norm(points - scene.size / 2, axis=-1) for points in (markers[:, 0], markers.mean(1)))
    return np.floor(np.stack([apart, first / 2, middle / 2], 1)).astype(int)


def markers_of(contours: np.ndarray, own: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The start of contour `own` `[n]` and the far end of it, or of the other one where the label `[n]` is 0: `[n,2,2]`."""
    each, far = np.arange(len(contours)), np.where(labels == 1, own, 1 - own)
    return np.stack([contours[each, own, :2], contours[each, contours.shape[1] - 2 + far, 2:]], 1)


def cover(segments: np.ndarray, radius: float, size: int, steps: int) -> np.ndarray:
    """Which points of a grid, `steps` a pixel each way, lie within `radius` of a segment: bool `[n,size·steps,size·steps]`.

    Segments are `[n,P,4]`; those that are FAR are not there.
    """
    image, number = np.nonzero(segments[..., 0] < FAR)
    shown = segments[image, number]
    extent = np.abs(shown[:, :2] - shown[:, 2:]).max(initial=0)
    length = np.hypot(*(shown[:1, :2] - shown[:1, 2:]).T).max(initial=1e-9)  # all are equally long
    side = int(np.ceil((extent + 2 * radius) * steps)) + 1
    low = np.floor((np.minimum(shown[:, :2], shown[:, 2:]) - radius) * steps).astype(int)
    columns, rows = (low[:, axis, None] + np.arange(side) for axis in (0, 1))
    columns, rows = np.broadcast_arrays(columns[:, None, :], rows[:, :, None])
    points = (np.stack([columns, rows], -1).astype(REAL) + REAL(0.5)) / REAL(steps)
    within = squared_distances(points, shown[:, None, None], length) <= radius**2
    within &= (np.minimum(columns, rows) >= 0) & (np.maximum(columns, rows) < size * steps)
    canvas = np.zeros((len(segments), size * steps, size * steps), dtype=bool)
    canvas[np.broadcast_to(image[:, None, None], within.shape)[within], rows[within], columns[within]] = True
    return canvas


def stamp(segments: np.ndarray, radius: float, scene: Scene) -> np.ndarray:
    """The share of each pixel within `radius` of a segment, `[n,size,size]` for `[n,P,4]`, by supersampling."""
    size, steps = scene.size, scene.supersampling
    return cover(segments, radius, size, steps).reshape(-1, size, steps, size, steps).mean((2, 4))


def render(paddles: np.ndarray, markers: np.ndarray, scene: Scene) -> np.ndarray:
    """Images uint8 `[n,size,size]` of paddles `[n,P,4]` and markers `[n,2,2]`."""
    dashes = scene.contrast * stamp(paddles, scene.thickness / 2, scene)
    discs = stamp(np.concatenate([markers, markers], -1), scene.marker_radius, scene)
    return np.round(255 * np.maximum(dashes, discs)).astype(np.uint8)


def draw(random: np.random.Generator, pairs: int, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 `[2·pairs,size,size]` and labels `[2·pairs]`, one of each label in every two."""
    parts, found = [], 0
    while found < pairs:
        # Of ten images begun, in one both contours find room.
        contours = draw_contours(random, 26 * (pairs - found) + 500, scene)
        kept, markers, labels = (part[: 2 * (pairs - found)] for part in place_markers(random, contours, scene))
        paddles = add_distractors(random, contours[kept], scene)
        parts.append((render(paddles, markers, scene), labels))
        found += len(kept) // 2
    return tuple(map(np.concatenate, zip(*parts, strict=True)))
