"""A user's function, traced: what it does apart from the numbers that it needs."""

from collections.abc import Callable
from functools import lru_cache
from types import MethodType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend import linear_util
from jax.extend.core import DebugInfo
from jax.interpreters.partial_eval import trace_to_jaxpr_dynamic
from jax.sharding import get_abstract_mesh

from lmjax._jax.closures import Code, Program
from lmjax._jax.constant_indices import check_indices
from lmjax._jax.jaxpr_key import inputs_of, is_data, jaxpr_key
from lmjax._jax.paths import check_params, common_dtype

# What the first argument of a model is called where a fit is asked for.
PARAMS = "params0"
_NUMBERS = jax.Array | np.ndarray | np.generic | int | float | complex


class Trace:
    """What one trace of a function has found out.

    Attributes:
        inputs: Shape and dtype of every leaf of the arguments.
        in_structure: Structure of the arguments.
        out_structure: Structure of the result.
        jaxpr: The equations.
        consts: What the function closed over.
    """

    def __init__(self, fn: Callable, shapes: tuple, named: Callable, start: str = ""):
        self.inputs, self.in_structure = jax.tree.flatten(shapes)
        structures = []

        def flat(*leaves):
            out = fn(*self.in_structure.unflatten(leaves))
            leaves, structure = jax.tree.flatten(out)
            for leaf in leaves:
                if not isinstance(leaf, _NUMBERS):
                    raise TypeError(
                        f"{_source(named)}: expected it to return numbers or arrays, "
                        f"got {leaf!r}"
                    )
            structures.append(structure)
            return leaves

        # This takes half the time of `jax.make_jaxpr`, which goes through `jax.jit`.
        code = getattr(named, "__code__", None)
        bound = isinstance(named, MethodType)
        own = code.co_varnames[bound : code.co_argcount] if code else ()
        names = _arguments(own, self.in_structure)
        info = DebugInfo("lmjax", _source(named), names, ())
        wrapped = linear_util.wrap_init(flat, debug_info=info)
        self.jaxpr, _, self.consts = trace_to_jaxpr_dynamic(wrapped, self.inputs)
        (self.out_structure,) = structures
        if start and own:  # what a user knows the first argument of a model as
            k = len(jax.tree.leaves(shapes[0]))
            first = [start + name.removeprefix(own[0]) for name in names[:k]]
            names = (*first, *names[k:])
        check_indices(self.jaxpr, self.consts, names)

    @property
    def key(self) -> tuple:
        """What it does: equal for traces that one `Code` can serve."""
        inputs = tuple((aval.shape, aval.dtype) for aval in self.inputs)
        return (
            jaxpr_key(self.jaxpr, is_data),
            inputs,
            self.in_structure,
            self.out_structure,
        )

    def code(self) -> Code:
        """Return what it does."""
        data_places = {place: where for place, where, _ in self._written()}
        return Code(
            self.jaxpr, self.inputs, self.in_structure, self.out_structure, data_places
        )

    def program(self, code: Code) -> Program:
        """Return it with its own data and an equal code.

        The data are left to NumPy: most functions that are traced are called once.
        """
        variables = inputs_of(self.jaxpr)
        pairs = zip(self.consts, variables, strict=False)
        consts = [_own(const, var.aval.dtype) for const, var in pairs]
        vectors: dict[Any, list] = {}
        for _, _, atom in self._written():
            vectors.setdefault(atom.aval.dtype, []).append(atom.val)
        numbers = [np.array(values, dtype) for dtype, values in vectors.items()]
        return Program(consts, numbers, code)

    def _written(self) -> list[tuple]:
        """Return (place, (vector, element), literal) for each number that is data."""
        operands = [(i, eqn.invars) for i, eqn in enumerate(self.jaxpr.eqns)]
        operands.append((-1, self.jaxpr.outvars))
        vectors, counts, found = [], [], []
        for i, atoms in operands:
            for j, atom in enumerate(atoms):
                if is_data(atom):
                    dtype = atom.aval.dtype
                    if dtype not in vectors:
                        vectors.append(dtype)
                        counts.append(0)
                    k = vectors.index(dtype)
                    found.append(((i, j), (k, counts[k]), atom))
                    counts[k] += 1
        return found

    def holds_less_than(self, dtype) -> bool:
        """Return whether a number with fewer bits than ``dtype`` has occurs anywhere.

        As an argument, a constant, or what an equation makes of them.
        """
        made = [var for eqn in self.jaxpr.eqns for var in eqn.outvars]
        dtypes = {var.aval.dtype for var in [*inputs_of(self.jaxpr), *made]}
        bits = jnp.finfo(dtype).bits
        floats = [d for d in dtypes if jnp.issubdtype(d, jnp.floating)]
        return any(jnp.finfo(d).bits < bits for d in floats)


def _own(const, dtype) -> Any:
    """Return a constant as an array that the user cannot change."""
    return const if isinstance(const, jax.Array) else np.array(const, dtype)


@lru_cache
def _arguments(own: tuple[str, ...], structure: Any) -> tuple[str, ...]:
    """Return the names of the leaves of the arguments, for messages of jax."""
    named, _ = jax.tree_util.tree_flatten_with_path(
        structure.unflatten([0] * structure.num_leaves)
    )
    first = lambda k: own[k] if k < len(own) else f"args[{k}]"
    return tuple(first(p[0].idx) + jax.tree_util.keystr(p[1:]) for p, _ in named)


def _source(fn) -> str:
    code = getattr(fn, "__code__", None)
    name = getattr(fn, "__name__", type(fn).__name__)
    return f"{name} at {code.co_filename}:{code.co_firstlineno}" if code else name


@lru_cache
def _aval(shape: tuple[int, ...], dtype: Any, mesh: Any) -> ShapedArray:
    """Return a shape and dtype as jax has them; making one takes as long as an op."""
    return ShapedArray(shape, dtype)


def _aval_of(leaf: Any) -> Any:
    if isinstance(leaf, ShapedArray):
        return leaf
    if type(leaf) is np.ndarray and leaf.dtype in (np.float32, np.float64):
        return _aval(leaf.shape, _widest(leaf.dtype), get_abstract_mesh())
    return jax.typeof(leaf)


def _widest(dtype: Any = np.float64) -> np.dtype:
    """Return the widest float up to ``dtype`` that jax has."""
    return np.dtype(jax.dtypes.canonicalize_dtype(dtype))


def trace(fn: Callable, args: tuple, named: Callable) -> Trace:
    """Trace a function of arrays, called in messages as another is."""
    return Trace(fn, jax.tree.map(_aval_of, args), named)


def trace_model(fn: Callable, args: tuple, data: Any, named: Callable) -> Trace:
    """Trace a function of ``(params, ...)`` in the dtype in which a fit of it works.

    That is the widest of parameters, result and ``data``. Where it can be nothing but
    the widest there is, one trace is enough. Otherwise the result has to be known
    first.
    """
    leaves, structure = jax.tree.flatten(args[0])
    strong = [
        leaf.dtype for leaf in leaves if type(leaf) is not float and _is_real(leaf)
    ]
    if not leaves or len(strong) + sum(type(x) is float for x in leaves) < len(leaves):
        check_params(args[0])  # which says what is wrong
    others = jax.tree.map(_aval_of, args[1:])
    mesh, widest = get_abstract_mesh(), _widest()

    def shapes(dtype):
        start = [_aval(np.shape(leaf), dtype, mesh) for leaf in leaves]
        return (structure.unflatten(start), *others)

    observed = [leaf.dtype for leaf in jax.tree.leaves(data) if leaf.dtype.kind in "fV"]
    if widest == np.float32 or np.float64 in [*strong, *observed]:
        return Trace(fn, shapes(widest), named, PARAMS)
    start = jax.tree.map(jax.typeof, args[0])
    first = Trace(fn, (start, *others), named, PARAMS)
    results = [atom.aval.dtype for atom in first.jaxpr.outvars]
    dtype = common_dtype(*leaves, *results, *observed)
    same = all(other == dtype for other in strong)
    if same and (len(strong) == len(leaves) or not first.holds_less_than(dtype)):
        first.inputs = jax.tree.leaves(shapes(dtype))
        return first
    return Trace(fn, shapes(dtype), named, PARAMS)


def _is_real(leaf) -> bool:
    """Return whether a leaf is an array of floats of a dtype that a fit may have."""
    dtype = getattr(leaf, "dtype", None)
    weak = getattr(leaf, "weak_type", False)
    known = isinstance(dtype, np.dtype) and dtype in (np.float32, np.float64)
    return known and not weak
