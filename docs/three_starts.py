"""Draws three_starts.png, the first figure of the README: one gradient step on an unseen wave, from three starts.

    python docs/three_starts.py

The starts are those of notebook 00: the first weights, a network trained on the points of all waves together, and one
trained by MAML with as many gradients. Each takes the step with the α that suits it best on other waves, and the wave
is the one of 200 on which MAML's step gains the median.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from matplotlib.figure import Figure

import mamlkit as mk
from mamlkit.figures.charts import STARTS, flat, line
from mamlkit.figures.theme import SUPPORT, THETA, TRUTH, canvas, theme
from mamlkit.sweeps.figures import png

PICTURE = Path(__file__).with_suffix(".png")
WAVES = mk.Sinusoids(shots=10, queries=10, seed=0)
TASKS = 200  # unseen waves that the errors are means over

Theta = dict[str, torch.Tensor]


def network() -> mk.Objective:
    """The paper's network, the same first weights at each call, and the squared error."""
    return mk.Objective(mk.models.mlp(1, 1, seed=0), torch.nn.functional.mse_loss)


def trained(steps: int, tasks: int) -> Theta:
    """The start after 600 iterations of so many tasks, each judged after so many inner steps; 0 is joint training."""
    objective = network()
    for _ in mk.train(
        objective, WAVES, alpha=0.01, beta=0.003, steps=steps, iterations=600, tasks_per_iteration=tasks, progress=False
    ):
        pass
    return objective.theta()


def examined(theta: Theta) -> tuple[float, mk.Curve]:
    """The α of the lowest error after one step on validation waves, and the losses with it on test waves: [200, 2]."""

    def curve(alpha: float, split: str) -> mk.Curve:
        return mk.evaluate(network(), theta, WAVES, alpha=alpha, steps=1, split=split, size=TASKS)

    def error(alpha: float) -> float:
        return curve(alpha, "validation").mean()[1].nan_to_num(nan=math.inf).item()

    best = min((0.003, 0.01, 0.03), key=error)
    return best, curve(best, "test")


def draw() -> Figure:
    """The figure, in the kit's look."""
    theme()
    # An iteration of MAML costs about four gradients a task, so joint training gets four times as many tasks.
    starts = {"random": network().theta(), "pooled": trained(0, 100), "MAML": trained(1, 25)}
    exams = {name: examined(theta) for name, theta in starts.items()}
    loss = exams["MAML"][1].loss
    i = int((loss[:, 0] - loss[:, 1]).argsort()[TASKS // 2])
    support = WAVES.batch(i, 1, "test").task(0).support
    amplitude, phase = WAVES.waves(i, 1, "test")
    x = torch.linspace(-5, 5, 201)[:, None]
    title = f"One step on ten points of an unseen wave (numbers: query MSE on {TASKS} such waves)"
    figure, axes = canvas(1, 3, height=2.75, sharey=True, title=title)
    for ax, (name, theta) in zip(axes, starts.items(), strict=True):
        alpha, curve = exams[name]
        after = mk.adapt(network(), theta, support, alpha=alpha)
        line(ax, x, amplitude * torch.sin(x - phase), TRUTH, linewidth=1, label="the wave")
        ax.plot(*map(flat, support), **SUPPORT.dots, zorder=4, label="its ten support points")
        line(ax, x, network().predict(theta, x), THETA, label="the start")
        line(ax, x, network().predict(after, x), STARTS[name]._replace(dash="-"), linewidth=2.4, label="after one step")
        errors = " → ".join(f"{error:.1f}" for error in curve.mean().tolist())
        ax.set(xlabel="x", xlim=(-5, 5), title=f"{name} start: {errors}")
    axes[0].set_ylabel("y")
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower left", ncols=4)
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)  # tensors this small are no faster with more, and slower where other work holds a core
    PICTURE.write_bytes(png(draw()))
    print(f"{PICTURE}: {PICTURE.stat().st_size:,} bytes")
