"""A jaxpr written out: one list of operations on numbered variables.

Calls are inlined, branches become selections, short scans are written out turn by turn.
Of long ones the body is a list of its own.
"""

import copy
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from lmjax._jax.machine import Unsupported

# Turns of a scan that are written out one by one.
MOST_TURNS = 32
# Equations of the list; a step of 24 parameters has some 10,000.
MOST_EQUATIONS = 50_000

_CALLS = {
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
    "checkpoint",
    "remat",
    "remat2",
    "custom_vmap_call",
    "custom_lin",
}


class Equation(NamedTuple):
    """One operation of the list.

    Attributes:
        name: Name of the primitive.
        params: Its parameters.
        operands: Numbers of variables.
        results: Numbers of variables.
    """

    name: str
    params: dict[str, Any]
    operands: list[int]
    results: list[int]


class Listing:
    """A jaxpr written out: variables are numbers, calls and branches are gone.

    Attributes:
        equations: In order.
        shapes, dtypes: Of each variable.
        constants: Values of the variables that are known.
        turns: Of a scan that is written out, at most.
        inputs, outputs: Numbers of variables.
        demands: What `lmjax._engines.fused.scalars.demand` has found out about it.
    """

    def __init__(self, closed: ClosedJaxpr, turns: int = MOST_TURNS):
        self.turns = turns
        self.demands: dict[Any, Any] = {}
        self.equations: list[Equation] = []
        self.shapes: list[tuple[int, ...]] = []
        self.dtypes: list[np.dtype] = []
        self.constants: dict[int, np.ndarray] = {}
        self.inputs = [self._new(var.aval) for var in closed.jaxpr.invars]
        self.outputs = self._inline(closed.jaxpr, closed.consts, self.inputs)

    def changed(self) -> "Listing":
        """Return a copy that may be changed."""
        other = copy.copy(self)
        other.demands = {}
        return other

    def scans(self) -> list[Equation]:
        """Return the scans that stayed what they are."""
        return [eqn for eqn in self.equations if eqn.name == "scan"]

    def _new(self, aval: Any) -> int:
        if not isinstance(aval.dtype, np.dtype):
            raise Unsupported(f"it works with {aval.dtype}")
        self.shapes.append(tuple(aval.shape))
        self.dtypes.append(aval.dtype)
        return len(self.shapes) - 1

    def _constant(self, value: Any) -> int:
        if not isinstance(getattr(value, "dtype", np.dtype(int)), np.dtype):
            raise Unsupported(f"it works with {value.dtype}")
        array = np.asarray(value)
        self.constants[len(self.shapes)] = array
        return self._new(array)

    def _add(self, name: str, params: dict, operands: list[int], avals: list) -> list:
        results = [self._new(aval) for aval in avals]
        self.equations.append(Equation(name, params, operands, results))
        if len(self.equations) > MOST_EQUATIONS:
            raise Unsupported(f"it has more than {MOST_EQUATIONS} equations")
        return results

    def _inline(self, jaxpr: Any, consts: Any, args: list[int]) -> list[int]:
        env = dict(zip(jaxpr.invars, args, strict=True))
        env |= {v: self._known(c) for v, c in zip(jaxpr.constvars, consts, strict=True)}

        def read(atom):
            if isinstance(atom, Literal):
                aval: Any = atom.aval
                return self._constant(np.asarray(atom.val, aval.dtype))
            return env[atom]

        for eqn in jaxpr.eqns:
            operands = [read(atom) for atom in eqn.invars]
            results = self._equation(eqn, operands)
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _known(self, const: Any) -> int:
        """Return a variable for a constant of a jaxpr, which may be one of ours."""
        return const if type(const) is int else self._constant(const)

    def _call(self, closed: Any, operands: list[int]) -> list[int]:
        if isinstance(closed, ClosedJaxpr):
            return self._inline(closed.jaxpr, closed.consts, operands)
        return self._inline(closed, (), operands)

    def _equation(self, eqn: Any, operands: list[int]) -> list[int]:
        name, params = eqn.primitive.name, eqn.params
        avals = [var.aval for var in eqn.outvars]
        if name in _CALLS:
            inner = ("jaxpr", "call_jaxpr", "fun_jaxpr", "call")
            closed = next(params[key] for key in inner if key in params)
            return self._call(closed, operands)
        if name == "cond":
            return self._cond(params["branches"], operands, avals)
        if name == "platform_index":
            found = [
                i for i, p in enumerate(params["platforms"]) if not p or "cpu" in p
            ]
            return [self._constant(np.int32(found[0]))]
        if name == "scan":
            return self._scan(params, operands, avals)
        if name == "cumsum" and avals[0].shape[params["axis"]] > self.turns:
            return self._cumsum(params, operands, avals)
        if name == "while":
            raise Unsupported("it loops")
        if eqn.effects:
            raise Unsupported(f"it calls {name}, which does more than return a value")
        return self._add(name, params, operands, avals)

    def _cond(self, branches: Any, operands: list[int], avals: list) -> list[int]:
        which, operands = operands[0], operands[1:]
        if which in self.constants:
            chosen = int(np.clip(self.constants[which], 0, len(branches) - 1))
            return self._call(branches[chosen], operands)
        outs = [self._call(branch, operands) for branch in branches]
        flag = jax.ShapeDtypeStruct((), bool)
        results = outs[0]
        for i, others in enumerate(outs[1:], 1):
            number = self._constant(np.asarray(i, self.dtypes[which]))
            (late,) = self._add("ge", {}, [which, number], [flag])
            results = [
                self._add("select_n", {}, [late, old, new], [aval])[0]
                for old, new, aval in zip(results, others, avals, strict=True)
            ]
        return results

    def _scan(self, params: dict, operands: list[int], avals: list) -> list[int]:
        length = params["length"]
        if not length:
            raise Unsupported("it loops 0 times")
        # What is cut into rows has an axis more than the body sees. jax names the
        # numbers of constants and carries differently in each version.
        body = getattr(params["jaxpr"], "jaxpr", params["jaxpr"])
        whole = [self.shapes[var] for var in operands]
        seen = [var.aval.shape for var in body.invars[-len(whole) :]]
        made = [var.aval.shape for var in body.outvars]
        cut = [len(a) != len(b) for a, b in zip(whole, seen, strict=True)]
        kept = [len(a.shape) == len(b) for a, b in zip(avals, made, strict=True)]
        c, last = sum(kept), len(operands) - sum(cut)
        k = last - c
        if length > self.turns:
            closed = params["jaxpr"]
            if not isinstance(closed, ClosedJaxpr):
                closed = ClosedJaxpr(closed, ())
            return self._loop(closed, length, params["reverse"], (k, last), operands)
        consts, carry, xs = operands[:k], operands[k:last], operands[last:]
        turns = range(length)
        rows: list[list[int]] = [[] for _ in avals[c:]]
        for turn in reversed(turns) if params["reverse"] else turns:
            row = [self._row(x, turn) for x in xs]
            out = self._call(params["jaxpr"], [*consts, *carry, *row])
            carry = out[:c]
            for row_of, value in zip(rows, out[c:], strict=True):
                row_of.append(value)
        stacked = []
        for row in rows:
            row = row[::-1] if params["reverse"] else row
            like = jax.ShapeDtypeStruct(
                (length, *self.shapes[row[0]]), self.dtypes[row[0]]
            )
            stacked += self._add("stack", {"axis": 0}, row, [like])
        return [*carry, *stacked]

    def _loop(
        self,
        closed: ClosedJaxpr,
        length: int,
        reverse: bool,
        numbers: tuple[int, int],
        operands: list[int],
    ) -> list[int]:
        """Add a scan that stays one; ``numbers`` are of its first carry and row."""
        body = Listing(closed)
        if body.scans():
            raise Unsupported("it loops within a loop")
        params = {"body": body, "length": length, "reverse": reverse}
        params |= {"first_carry": numbers[0], "first_row": numbers[1]}
        count = numbers[1] - numbers[0]
        avals = [
            jax.ShapeDtypeStruct(
                (length, *body.shapes[var])[i < count :], body.dtypes[var]
            )
            for i, var in enumerate(body.outputs)
        ]
        return self._add("scan", params, operands, avals)

    def _cumsum(self, params: dict, operands: list[int], avals: list) -> list[int]:
        """Add a long sum of sums as a scan over its axis."""
        shape, axis = avals[0].shape, params["axis"]
        order = (axis, *(i for i in range(len(shape)) if i != axis))
        turned = lambda x, order: self._add(
            "transpose",
            {"permutation": order},
            [x],
            [jax.ShapeDtypeStruct([self.shapes[x][i] for i in order], avals[0].dtype)],
        )[0]
        xs = turned(operands[0], order)
        row = jax.ShapeDtypeStruct(self.shapes[xs][1:], avals[0].dtype)
        body = jax.make_jaxpr(lambda total, x: (total + x, total + x))(row, row)
        nothing = self._constant(np.zeros(row.shape, row.dtype))
        found = self._loop(body, shape[axis], params["reverse"], (0, 1), [nothing, xs])
        return [turned(found[1], np.argsort(order).tolist())]

    def _row(self, x: int, turn: int) -> int:
        row = jax.ShapeDtypeStruct(self.shapes[x][1:], self.dtypes[x])
        return self._add("row", {"turn": turn}, [x], [row])[0]
