"""golden.json: meta-gradients with all their digits, each found in two ways that share nothing.

    python data/build_golden.py [--check]

1. Exactly: by dual numbers, whose slope is the derivative by one entry of θ, over fractions where the model allows it
   (the linear one, ReLU) and over 50 decimal digits elsewhere (tanh, softmax). Inner gradients are written by hand.
2. By PyTorch's autograd in float64, the way a reader would write it.

Where the two differ by more than 1e-12 of the gradient's size nothing is written. What is written is the first, rounded
once. `--check` compares with the shipped file and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FILE = Path(__file__).with_name("golden.json")
ABOUT = [
    "Meta-gradients of F(theta), the mean over tasks of L(theta'; query); theta' is what theta becomes in `steps` "
    "steps theta - alpha * gradient of L(theta; support).",
    "Prediction: h = x; h = h @ W.T + b for each layer, W1, b1, W2, b2, with the activation between two layers.",
    "Loss: squared_error, the mean over points of (prediction - y)^2; cross_entropy, the mean over points of "
    "log(sum(exp(prediction))) - prediction[y].",
    "alpha: a number, or one for each parameter. x and y: [tasks, points, ...]. What is given is a multiple of 1/32, "
    "the same number in decimals, float32 and float64.",
    "Answers, right to the last bit of float64: `losses` of the tasks on their queries, by theta'; `second_order`, the "
    "gradient of F; `first_order`, with the inner gradients taken for constants. `exact` has them as fractions.",
]
STEPS = (1, 2, 5)
TOLERANCE = 1e-12  # between the two ways
LEAST = 0.02  # of the meta-gradient is the Hessian's part, so that the orders can be told apart
DIGITS = 50
Array = Any  # of numbers of one kind: fractions, mpmath's, or duals of these; NumPy computes with such objects too
Theta = dict[str, Array]
Case = dict[str, Any]


# The problems: small, of numbers that every format holds exactly.


def problem(
    name: str, widths: tuple[int, ...], activation: str, loss: str, tasks: int, points: tuple[int, int]
) -> Case:
    """A model with its weights, and the data of its tasks; `points` are those of support and query."""
    generator = random.Random(name)

    def drawn(*shape: int, largest: int = 32) -> Any:
        return [drawn(*shape[1:], largest=largest) for _ in range(shape[0])] if shape else number(largest)

    def number(largest: int) -> float:
        return generator.randint(-largest, largest) / 32

    theta: dict[str, Any] = {}
    for i, (inputs, outputs) in enumerate(pairwise(widths), 1):
        theta |= {f"W{i}": drawn(outputs, inputs), f"b{i}": drawn(outputs)}
    data = {}
    for part, count in zip(("support", "query"), points, strict=True):
        x = drawn(tasks, count, widths[0], largest=64)
        if loss == "squared_error":
            data[part] = {"x": x, "y": drawn(tasks, count, widths[-1], largest=64)}
        else:
            classes = list(range(widths[-1])) * count  # each class in turn, in an order of the task's own
            data[part] = {"x": x, "y": [generator.sample(classes[:count], count) for _ in range(tasks)]}
    return {"activation": activation, "loss": loss, "theta": theta, **data}


PROBLEMS = {
    name: problem(name, *settings)
    for name, settings in {
        "linear regression": ((2, 1), "none", "squared_error", 3, (4, 3)),
        "ReLU network": ((2, 3, 1), "relu", "squared_error", 2, (4, 5)),
        "tanh network": ((2, 3, 1), "tanh", "squared_error", 2, (3, 4)),
        "softmax classifier": ((2, 3), "none", "cross_entropy", 3, (3, 6)),
    }.items()
}
ALPHAS = {
    "linear regression": [0.125, {"W1": 0.0625, "b1": 0.25}],
    "ReLU network": [0.0625, {"W1": 0.125, "b1": 0.0, "W2": 0.0625, "b2": 0.25}],
    "tanh network": [0.125, {"W1": 0.25, "b1": 0.125, "W2": 0.0625, "b2": 0.0}],
    "softmax classifier": [0.5, {"W1": 0.25, "b1": 1.0}],
}


def cases() -> Iterator[Case]:
    """Problem, α and number of steps of each case."""
    for name, alphas in ALPHAS.items():
        for alpha in alphas:
            yield from ({"problem": name, "alpha": alpha, "steps": steps} for steps in STEPS)


def step_sizes(case: Case) -> Case:
    """α of each parameter."""
    alpha, theta = case["alpha"], PROBLEMS[case["problem"]]["theta"]
    return alpha if isinstance(alpha, dict) else dict.fromkeys(theta, alpha)


# 1. Exactly.


class Dual:
    """value + slope·ε with ε² = 0: what is computed with such numbers carries its derivative along."""

    def __init__(self, value: Any, slope: Any) -> None:
        self.value, self.slope = value, slope

    def __add__(self, other: Any) -> Dual:
        return Dual(self.value + value(other), self.slope + slope(other))

    def __mul__(self, other: Any) -> Dual:
        return Dual(self.value * value(other), self.slope * value(other) + self.value * slope(other))

    def __truediv__(self, other: Any) -> Dual:
        ratio = self.value / value(other)
        return Dual(ratio, (self.slope - ratio * slope(other)) / value(other))

    def __rtruediv__(self, other: Any) -> Dual:
        return Dual(other, 0) / self

    def __sub__(self, other: Any) -> Dual:
        return self.__add__(-1 * other)

    def __rsub__(self, other: Any) -> Dual:
        return self.__mul__(-1).__add__(other)

    __radd__, __rmul__ = __add__, __mul__


def value(number: Any) -> Any:
    return number.value if isinstance(number, Dual) else number


def slope(number: Any) -> Any:
    return number.slope if isinstance(number, Dual) else 0


def elementwise(function: Callable[[Any], Any], derivative: Callable[[Any, Any], Any]) -> Callable[[Array], Array]:
    """A function of arrays of numbers or duals; its derivative is a function of the number and of what it became."""

    def one(number: Any) -> Any:
        found = function(value(number))
        return Dual(found, derivative(value(number), found) * number.slope) if isinstance(number, Dual) else found

    return np.vectorize(one, otypes=[object])


def rectified(number: Any) -> Any:
    if abs(number) < 1e-4:
        raise ValueError(f"a ReLU is {float(number):g} from its kink, where rounding decides; draw other numbers")
    return max(number, 0)


exp = elementwise(mpmath.exp, lambda number, found: found)
log = elementwise(mpmath.log, lambda number, found: 1 / number)
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "none": lambda h: h,
    "relu": elementwise(rectified, lambda number, found: int(found > 0)),
    "tanh": elementwise(mpmath.tanh, lambda number, found: 1 - found * found),
}
SLOPES: dict[str, Callable[[Array], Array]] = {  # of an activation, by what it gives
    "relu": np.vectorize(lambda h: int(value(h) > 0), otypes=[object]),
    "tanh": lambda h: 1 - h * h,
}


def layers(given: Case, theta: Theta, x: Array) -> list[Array]:
    """What enters each layer, and last the prediction."""
    found, depth = [x], len(theta) // 2
    for i in range(1, depth + 1):
        h = found[-1] @ theta[f"W{i}"].T + theta[f"b{i}"]
        found.append(h if i == depth else ACTIVATIONS[given["activation"]](h))
    return found


def loss(given: Case, theta: Theta, x: Array, y: Array) -> Any:
    """L(θ; D)."""
    prediction = layers(given, theta, x)[-1]
    if given["loss"] == "squared_error":
        return ((prediction - y) * (prediction - y)).sum() / y.size
    return (log(exp(prediction).sum(1)) - prediction[range(len(y)), y]).sum() / len(y)


def gradient(given: Case, theta: Theta, x: Array, y: Array) -> Theta:
    """∇L(θ; D), backwards through the layers by hand."""
    *entered, prediction = layers(given, theta, x)
    if given["loss"] == "squared_error":
        back = 2 * (prediction - y) / y.size
    else:
        back = exp(prediction) / exp(prediction).sum(1, keepdims=True) - np.eye(prediction.shape[1], dtype=object)[y]
        back = back / len(y)
    found: Theta = {}
    for i in range(len(entered), 0, -1):
        found |= {f"W{i}": back.T @ entered[i - 1], f"b{i}": back.sum(0)}
        if i > 1:
            back = (back @ theta[f"W{i}"]) * SLOPES[given["activation"]](entered[i - 1])
    return {name: found[name] for name in theta}


def adapted(given: Case, theta: Theta, x: Array, y: Array, alpha: Theta, steps: int) -> Theta:
    """θ' of one task."""
    for _ in range(steps):
        slopes = gradient(given, theta, x, y)
        theta = {name: weight - alpha[name] * slopes[name] for name, weight in theta.items()}
    return theta


def derivative(function: Callable[[Theta], Any], theta: Theta) -> Theta:
    """The gradient of a function of θ, by a dual number in the place of one entry after the other."""
    found = {name: np.empty_like(weight) for name, weight in theta.items()}
    for name, weight in theta.items():
        for entry in np.ndindex(weight.shape):
            moved = weight.copy()
            moved[entry] = Dual(weight[entry], 1)
            found[name][entry] = slope(function({**theta, name: moved}))
    return found


def exactly(case: Case) -> Case:
    """The answers of a case, as fractions or with 50 digits."""
    given, steps = PROBLEMS[case["problem"]], case["steps"]
    rational = given["activation"] != "tanh" and given["loss"] != "cross_entropy"
    number = np.vectorize(Fraction if rational else mpmath.mpf, otypes=[object])
    theta = {name: number(weight) for name, weight in given["theta"].items()}
    alpha = {name: number(size)[()] for name, size in step_sizes(case).items()}
    labels = np.asarray if given["loss"] == "cross_entropy" else number

    def tasks(part: str) -> list[tuple[Array, Array]]:
        return [(number(x), labels(y)) for x, y in zip(given[part]["x"], given[part]["y"], strict=True)]

    losses, second, first = [], [], []
    for support, query in zip(tasks("support"), tasks("query"), strict=True):
        judged = partial(loss, given, x=query[0], y=query[1])
        adapt = partial(adapted, given, x=support[0], y=support[1], alpha=alpha, steps=steps)
        losses.append(judged(adapt(theta)))
        second.append(derivative(composed(judged, adapt), theta))
        first.append(derivative(judged, adapt(theta)))
    return {"losses": np.array(losses), "second_order": mean(second), "first_order": mean(first)}


def composed(judged: Callable[[Theta], Any], adapt: Callable[[Theta], Theta]) -> Callable[[Theta], Any]:
    return lambda theta: judged(adapt(theta))


def mean(gradients: list[Theta]) -> Theta:
    return {name: sum(gradient[name] for gradient in gradients) / len(gradients) for name in gradients[0]}


# 2. By autograd.


def by_autograd(case: Case) -> Case:
    """The answers of a case, as arrays of float64."""
    given, alpha = PROBLEMS[case["problem"]], step_sizes(case)

    def tensor(values: Any) -> Tensor:
        found = torch.tensor(values)
        return found.double() if found.is_floating_point() else found

    def judged(theta: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        h = F.linear(x, theta["W1"], theta["b1"])
        if "W2" in theta:
            h = F.linear(getattr(torch, given["activation"])(h), theta["W2"], theta["b2"])
        return F.cross_entropy(h, y) if given["loss"] == "cross_entropy" else F.mse_loss(h, y)

    def differentiated(order: int) -> tuple[Any, dict[str, Any]]:
        start = {name: tensor(weight).requires_grad_() for name, weight in given["theta"].items()}
        losses = []
        support, query = (zip(*map(tensor, given[part].values()), strict=True) for part in ("support", "query"))
        for (x, y), (query_x, query_y) in zip(support, query, strict=True):
            theta = start
            for _ in range(case["steps"]):
                inner = judged(theta, x, y)
                slopes = torch.autograd.grad(inner, list(theta.values()), create_graph=order == 2)
                theta = {n: w - alpha[n] * g for (n, w), g in zip(theta.items(), slopes, strict=True)}
            losses.append(judged(theta, query_x, query_y))
        found = torch.autograd.grad(torch.stack(losses).mean(), list(start.values()))
        return torch.stack(losses).detach().numpy(), {n: g.numpy() for n, g in zip(start, found, strict=True)}

    (losses, second), (_, first) = (differentiated(order) for order in (2, 1))
    return {"losses": losses, "second_order": second, "first_order": first}


# The file.


# From its text, since mpmath's own conversion cuts digits off.
rounded = np.vectorize(lambda n: float(mpmath.nstr(n, 40)) if isinstance(n, mpmath.mpf) else float(n), otypes=[float])
fraction = np.vectorize(str, otypes=[object])


def each(found: Any, form: Callable[[Array], Array]) -> Any:
    """Losses, or a gradient, in another form, as lists."""
    return {name: each(part, form) for name, part in found.items()} if isinstance(found, dict) else form(found).tolist()


def flat(found: Any) -> Any:
    """Losses, or a gradient, as one vector of float64."""
    return np.concatenate([rounded(part).ravel() for part in (found.values() if isinstance(found, dict) else [found])])


def apart(found: Any, wanted: Any) -> float:
    return float(np.linalg.norm(flat(found) - flat(wanted)) / np.linalg.norm(flat(wanted)))


def solved(case: Case) -> Case:
    """A case with its answers. Raises ValueError where the two ways differ, or where the two orders hardly do."""
    with mpmath.workdps(DIGITS):
        found, floating = exactly(case), by_autograd(case)
        error = max(apart(floating[name], wanted) for name, wanted in found.items())
        share = apart(found["first_order"], found["second_order"])
        if not (error <= TOLERANCE and share > LEAST):
            raise ValueError(f"{case}: the two ways differ by {error:.1e}, the two orders by {share:.1e}")
        answers = {name: each(part, rounded) for name, part in found.items()}
        if case["problem"] == "linear regression":  # elsewhere they have thousands of digits, or there are none
            answers["exact"] = {name: each(part, fraction) for name, part in found.items()}
    return case | answers


def built() -> str:
    """The text of the file: lists of numbers on one line each."""
    content = {"about": ABOUT, "problems": PROBLEMS, "cases": [solved(case) for case in cases()]}
    numbers = re.compile(r"\[\s+([^\[\]{}]*?)\s+\]")
    head, rest = json.dumps(content, indent=1).split('"problems"', 1)
    return head + '"problems"' + numbers.sub(lambda found: f"[{' '.join(found[1].split())}]", rest) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the shipped file and write nothing")
    if not parser.parse_args().check:
        FILE.write_text(built(), encoding="utf-8")
        return 0
    same = FILE.read_text(encoding="utf-8") == built()
    print(f"{FILE.name}: {'the same' if same else 'DIFFERENT'}")
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
