"""The sparse factorisation by blocks, against dense solves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax._linalg.blocks import dense_cholesky, sparse_cholesky
from lmjax._linalg.blocks.loops import call

RNG = np.random.default_rng(11)


def edges(kind, count):
    """A graph: ends of its edges."""
    path = np.stack([np.arange(count - 1), np.arange(1, count)])
    if kind == "path":
        return path
    if kind == "loop":
        return np.hstack([path, [[0], [count - 1]]])
    if kind == "star":
        return np.stack([np.zeros(count - 1, int), np.arange(1, count)])
    if kind == "apart":
        return path[:, ::2]
    far = RNG.integers(0, count, (2, 2 * count))
    return np.hstack([path, far[:, far[0] != far[1]]])


def assembled(pattern, i, j, size):
    """A random positive definite matrix: its blocks, and the whole."""
    n = len(pattern.place)
    blocks = np.zeros((len(pattern.rows), size, size))
    whole = np.zeros((n * size, n * size))
    for a, b in zip(i, j, strict=True):
        part = RNG.normal(size=(size, 2 * size))
        gram = part.T @ part
        at = np.concatenate([a * size + np.arange(size), b * size + np.arange(size)])
        whole[np.ix_(at, at)] += gram
    whole += 0.1 * np.eye(n * size)
    order = np.argsort(pattern.place)
    columns = np.repeat(np.arange(n), np.diff(pattern.starts))
    for k, (row, column) in enumerate(zip(pattern.rows, columns, strict=True)):
        r, c = order[row] * size, order[column] * size
        blocks[k] = whole[r : r + size, c : c + size].T  # columns contiguous
    return blocks, whole


@pytest.mark.parametrize("size", [1, 3, 6])
@pytest.mark.parametrize("kind", ["path", "loop", "star", "apart", "random"])
def test_solutions_are_those_of_a_dense_solve(kind, size):
    i, j = edges(kind, 23)
    pattern = sparse_cholesky.pattern(23, i, j)
    blocks, whole = assembled(pattern, i, j, size)
    rhs = RNG.normal(size=(23, size))
    x = solved(pattern, blocks, rhs)
    expected = np.linalg.solve(whole, rhs.ravel()).reshape(rhs.shape)
    np.testing.assert_allclose(x, expected, rtol=1e-9)


def solved(pattern, blocks, rhs):
    """Factor and solve by machine code; rows of the right-hand side are nodes."""
    ordered = np.zeros_like(rhs)
    ordered[pattern.place] = rhs
    stored = np.array([len(rhs)], np.int32), pattern.starts, pattern.rows
    shape = lambda x: jax.ShapeDtypeStruct(x.shape, np.float64)
    with jax.enable_x64(True):
        given = tuple(map(jnp.asarray, stored))
        text = sparse_cholesky.factorization(rhs.shape[1], "float64")
        lower = call(text, shape(blocks), *given, jnp.asarray(blocks))
        text = sparse_cholesky.substitution(rhs.shape[1], "float64")
        x = call(text, shape(rhs), *given, lower, jnp.asarray(ordered))
    return np.asarray(x)[pattern.place]


def test_long_paths_keep_what_they_leave_between_their_ends():
    # eliminated first, three paths of 1,500 nodes each leave fill between two ends
    count, paths = 1500, 3
    i, j = [], []
    for k in range(paths):
        nodes = np.concatenate([[0], 2 + k * count + np.arange(count), [1]])
        i.append(nodes[:-1])
        j.append(nodes[1:])
    i, j = np.concatenate(i), np.concatenate(j)
    pattern = sparse_cholesky.pattern(2 + paths * count, i, j)
    blocks, whole = sparse_solution(pattern, i, j)
    np.testing.assert_allclose(blocks, whole, rtol=1e-8, atol=1e-10)


def sparse_solution(pattern, i, j):
    """Solve a graph's Laplacian plus a little: by blocks of 1 x 1, and by SciPy."""
    from scipy.sparse import coo_matrix, identity
    from scipy.sparse.linalg import spsolve

    n = len(pattern.place)
    ones = np.ones(len(i))
    graph = coo_matrix((ones, (i, j)), shape=(n, n))
    graph = graph + graph.T
    whole = identity(n) * 1e-3 - graph
    whole.setdiag(1e-3 + np.asarray(graph.sum(axis=1)).ravel())
    rhs = RNG.normal(size=n)
    blocks = np.zeros((len(pattern.rows), 1, 1))
    every = np.arange(n)
    blocks[pattern.find(every, every), 0, 0] = whole.diagonal()
    blocks[pattern.find(i, j), 0, 0] = -1.0
    return solved(pattern, blocks, rhs[:, None])[:, 0], spsolve(whole.tocsc(), rhs)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 4, 7, 64, 131])
def test_dense_solutions(n, dtype):
    root = RNG.normal(size=(n, n))
    matrix = root @ root.T + n * np.eye(n)
    rhs, added = RNG.normal(size=n), RNG.uniform(size=n)
    with jax.enable_x64(True):
        given = np.tril(matrix), added, rhs
        lower, added_, rhs_ = [jnp.asarray(x.astype(dtype)) for x in given]
        x = dense_cholesky.substitute(dense_cholesky.factor(lower, added_), rhs_)
    expected = np.linalg.solve(matrix + np.diag(added), rhs)
    size = np.max(np.abs(expected))
    assert x.dtype == dtype
    error = np.max(np.abs(np.asarray(x) - expected))
    assert error < 100 * n * np.finfo(dtype).eps * size


def test_matrices_that_are_not_positive_definite_give_nan():
    with jax.enable_x64(True):
        lower = dense_cholesky.factor(-jnp.eye(5), jnp.zeros(5))
        x = dense_cholesky.substitute(lower, jnp.ones(5))
    assert np.all(np.isnan(x))
