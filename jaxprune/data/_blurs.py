"""Kernels and resampling with lengths in pixels that need not be whole, so that 8 pixels and 224 are blurred alike.

Between the pixels an image is taken as linear, beyond its border as its border.  A kernel is a cloud of weighted
points, each shared among the four pixels around it.  Nothing here depends on how many images come at once.
"""

import math

import numpy as np


def kernel(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Makes a kernel that sums to 1 from displacements (y, x) [p, 2] in pixels and their weights [p].

    >>> kernel(np.array([[0.0, 0.0], [0.0, 0.5]]), np.array([1.0, 1.0]))
    array([[0.  , 0.  , 0.  ],
           [0.  , 0.75, 0.25],
           [0.  , 0.  , 0.  ]])
    """
    reach = math.ceil(np.max(np.abs(points)))
    result = np.zeros((2 * reach + 2, 2 * reach + 2))  # one more than needed: a point on the edge has a neighbour
    corner = np.floor(points)
    (y, x), (dy, dx) = (corner + reach).astype(int).T, (points - corner).T
    for row, tall in ((0, 1 - dy), (1, dy)):
        for column, wide in ((0, 1 - dx), (1, dx)):
            np.add.at(result, (y + row, x + column), weights * tall * wide)
    return result[:-1, :-1] / np.sum(weights)


def disc(radius: float) -> np.ndarray:
    """Makes the kernel of a lens out of focus: a disc of this radius in pixels."""
    line = np.arange(-20, 21)  # whole numbers, so that no rounding makes one side heavier
    points = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    points = points[np.sum(points**2, axis=1) <= 20**2]
    return kernel(radius * points / 20, np.ones(len(points)))


def trail(std: float, angle: float) -> np.ndarray:
    """Makes the kernel of a motion: one half of a Gaussian, on a line at ``angle`` from the x axis, in radians.

    ``std`` is in pixels; the line ends at three of them.
    """
    count = max(16, math.ceil(12.0 * std))
    length = 3.0 * std * (np.arange(count) + 0.5) / count
    points = length[:, None] * np.array([np.sin(angle), np.cos(angle)])
    return kernel(points, np.exp(-0.5 * (length / std) ** 2))


def filtered(images: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Correlates images [n, h, w, c] with a kernel [2 r + 1, 2 r + 1]."""
    reach, (height, width) = len(weights) // 2, images.shape[1:3]
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    result = np.zeros_like(images)
    for row, column in np.argwhere(weights):
        result += weights[row, column] * padded[:, row : row + height, column : column + width]
    return result


def along(values: np.ndarray, positions: np.ndarray, axis: int) -> np.ndarray:
    """Reads values at positions [m] along one axis, linearly between neighbours.

    >>> along(np.array([0.0, 2.0, 4.0]), np.array([-1.0, 0.5, 1.0]), 0)
    array([0., 1., 2.])
    """
    last = values.shape[axis] - 1
    at = np.clip(positions, 0.0, last)
    left = np.minimum(np.floor(at), last - 1).astype(int)
    part = (at - left).reshape(-1, *[1] * (values.ndim - 1 - axis))
    near, far = np.take(values, left, axis), np.take(values, left + 1, axis)
    return near + part * (far - near)  # in this form what is constant stays so to the last bit


def warped(images: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Reads images [n, h, w, c] at fractional rows and columns [n, h, w], bilinearly."""
    (height, width), number = images.shape[1:3], np.arange(len(images))[:, None, None]
    y, x = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    top, left = np.minimum(np.floor(y), height - 2).astype(int), np.minimum(np.floor(x), width - 2).astype(int)
    down, right = (y - top)[..., None], (x - left)[..., None]

    def row(place: np.ndarray) -> np.ndarray:
        near = images[number, place, left]
        return near + right * (images[number, place, left + 1] - near)

    upper = row(top)
    return upper + down * (row(top + 1) - upper)


def averaged(images: np.ndarray, cell: float, axis: int) -> np.ndarray:
    """Replaces the values along an axis by the mean of their cell; cells are ``cell`` pixels long, 1 or more.

    Their borders are rounded to whole pixels: with 1.5, cells of two pixels and of one take turns.

    >>> averaged(np.array([0.0, 2.0, 4.0, 6.0, 8.0]), 2.0, 0)
    array([1., 1., 5., 5., 8.])
    """
    size = images.shape[axis]
    number = np.searchsorted(np.floor(cell * np.arange(1, size + 1) + 0.5), np.arange(size), side="right")
    first, counts = np.unique(number, return_index=True, return_counts=True)[1:]
    means = np.add.reduceat(images, first, axis) / counts.reshape(-1, *[1] * (images.ndim - 1 - axis))
    return np.take(means, number, axis)
