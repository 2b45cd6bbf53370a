"""Exponentials and their kin as polynomials."""

from __future__ import annotations

import math

import numpy as np
import pytest

from compile.tvm.functions import FUNCTIONS
from compile.tvm.host import host_dict

VALUES = np.linspace(-9, 9, 4096, dtype=np.float32).reshape(4, 1024)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


EXACT = {
    "relax.erf": np.vectorize(math.erf),
    "relax.exp": np.exp,
    "relax.tanh": np.tanh,
    "relax.sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relax.nn.softmax": softmax,
}


def run(name: str, given: np.ndarray) -> np.ndarray:
    import tvm
    from tvm import relax

    builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType(given.shape, "float32"))
    operator = relax.op
    for part in name.split(".")[1:]:
        operator = getattr(operator, part)
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(operator(x)))
    target = tvm.target.Target(host_dict())
    with target:
        module = relax.transform.LegalizeOps(FUNCTIONS)(builder.get())
    vm = relax.VirtualMachine(tvm.compile(module, target=target), tvm.cpu())
    return vm["main"](tvm.runtime.tensor(given)).numpy()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_polynomials_are_as_good_as_float32_needs(name: str):
    got, want = run(name, VALUES), EXACT[name](VALUES.astype(np.float64))
    assert np.abs(got - want).max() <= 4e-6 * max(1.0, np.abs(want).max() / 8)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_and_infinity_stay_what_they_are(name: str):
    given = VALUES.copy()
    given[0, 5], given[1, 3], given[2, 7] = np.nan, np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        want = EXACT[name](given.astype(np.float64))
    got = run(name, given)
    assert np.array_equal(np.isnan(got), np.isnan(want))
    assert got[2, 7] == pytest.approx(want[2, 7], abs=1e-6)
    assert np.isnan(want[1, 3]) or got[1, 3] == pytest.approx(want[1, 3])
