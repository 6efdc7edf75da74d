"""Fits in files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmjax

X = np.linspace(0.0, 3.0, 9)
Y = np.exp(-X) + 0.01 * np.cos(7.0 * X)


def fit_one(y):
    return lmjax.curve_fit(lmjax.models.Exponential.guess(X, y), X, y)


@pytest.fixture(scope="module")
def one():
    return fit_one(jnp.asarray(Y))


@pytest.fixture(scope="module")
def batch():
    return jax.vmap(fit_one)(jnp.asarray(np.outer([1.0, 2.0, 3.0], Y)))


def same(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)


def test_a_fit_comes_back(tmp_path, one):
    lmjax.save(tmp_path / "fit.npz", one)
    again = lmjax.load(tmp_path / "fit.npz", one)
    assert same(one, again)
    assert again.report() == one.report()
    np.testing.assert_array_equal(again.predict(X), one.predict(X))


@pytest.mark.parametrize("kind", ["one", "batch", "part", "shapes"])
def test_a_batch_comes_back_like_any_of_its_kind(tmp_path, one, batch, kind):
    lmjax.save(tmp_path / "fits", batch)
    like = {
        "one": one,
        "batch": batch,
        "part": batch[:2],
        "shapes": jax.eval_shape(fit_one, jnp.asarray(Y)),
    }[kind]
    again = lmjax.load(tmp_path / "fits", like)
    assert same(batch, again)
    assert len(again) == 3
    assert again[1].report() == batch[1].report()


def test_a_single_fit_comes_back_like_a_batch(tmp_path, one, batch):
    lmjax.save(tmp_path / "fit", one)
    assert same(one, lmjax.load(tmp_path / "fit", batch))


def test_any_pytree_comes_back(tmp_path):
    tree = {"a": jnp.arange(3), "b": (2.5, [True, np.float32(1.0)]), "c": None}
    lmjax.save(tmp_path / "tree", tree)
    again = lmjax.load(tmp_path / "tree", tree)
    assert same(tree, again)
    assert jax.tree.structure(tree) == jax.tree.structure(again)
    assert again["a"].dtype == tree["a"].dtype


def test_numpy_reads_the_file(tmp_path, one):
    lmjax.save(tmp_path / "fit.npz", one)
    with np.load(tmp_path / "fit.npz") as archive:
        assert archive[".cost"] == one.cost
        assert archive[".params.amplitude"] == one.params.amplitude


@pytest.mark.parametrize("text", [b"", b"PK\x03\x04 cut", b"a,b\n1,2\n"])
def test_other_files_are_refused(tmp_path, one, text):
    (tmp_path / "file").write_bytes(text)
    with pytest.raises(ValueError, match=r"no file of lmjax\.save"):
        lmjax.load(tmp_path / "file", one)


def test_a_cut_file_is_refused(tmp_path, one):
    lmjax.save(tmp_path / "fit", one)
    whole = (tmp_path / "fit").read_bytes()
    (tmp_path / "fit").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"no file of lmjax\.save"):
        lmjax.load(tmp_path / "fit", one)


def test_a_missing_file_is_missed(tmp_path, one):
    with pytest.raises(FileNotFoundError):
        lmjax.load(tmp_path / "nowhere", one)


def test_results_of_another_kind_are_refused(tmp_path, one):
    lmjax.save(tmp_path / "fit", one)
    other = lmjax.curve_fit(lambda p, x: p * x, X, Y, 1.0)
    with pytest.raises(ValueError, match="like: expected a result of the kind in"):
        lmjax.load(tmp_path / "fit", other)
    fewer = lmjax.curve_fit(one.params, X[:-1], Y[:-1])
    with pytest.raises(ValueError, match=r"holds \.residual as float64\[9\]"):
        lmjax.load(tmp_path / "fit", fewer)
    narrow = jax.tree.map(lambda x: x.astype(np.float32), one)
    with pytest.raises(ValueError, match="float32"):
        lmjax.load(tmp_path / "fit", narrow)


@pytest.mark.parametrize("wrong", [None, {}, "fit", print])
def test_nothing_to_write_is_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="fit: expected"):
        lmjax.save(tmp_path / "fit", wrong)
    assert not list(tmp_path.iterdir())


def test_keys_of_jax_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected numbers"):
        lmjax.save(tmp_path / "fit", {"key": jax.random.key(0)})


def test_a_failed_write_leaves_the_old_file(tmp_path, one, monkeypatch):
    lmjax.save(tmp_path / "fit", one)
    before = (tmp_path / "fit").read_bytes()

    def broken(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(OSError, match="disk full"):
        lmjax.save(tmp_path / "fit", one)
    assert (tmp_path / "fit").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["fit"]
