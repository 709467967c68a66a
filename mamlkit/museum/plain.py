"""MAML on sinusoids in plain PyTorch, the right run: the museum plants its bugs here, by changing one line."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

Theta = dict[str, Tensor]
Points = tuple[Tensor, Tensor]  # x and y, each [points, 1]
Task = tuple[Points, Points]  # support and query

SHOTS, QUERIES = 5, 10
ALPHA, STEPS = 0.03, 2  # of the inner loop
BETA, TASKS = 0.01, 5  # of the outer loop
PERIOD = 25  # iterations from one look at the validation tasks to the next
SPLITS = ("train", "validation", "test")


def draw(start: int, size: int, split: str = "train", seed: int = 0) -> list[Task]:
    """Tasks `start` to `start + size` of a split: y = A sin(x − φ)."""
    tasks = []
    for index in range(start, start + size):
        place = 1_000_000 * SPLITS.index(split) + index
        generator = torch.Generator().manual_seed(10_000_000 * seed + place)
        u = torch.rand(SHOTS + QUERIES + 2, 1, generator=generator, dtype=torch.float64)
        amplitude, phase, x = 0.1 + 4.9 * u[0], torch.pi * u[1], 10 * u[2:] - 5
        y = amplitude * torch.sin(x - phase)
        support, query = slice(SHOTS), slice(SHOTS, None)
        tasks.append(((x[support], y[support]), (x[query], y[query])))
    return tasks


class Net(nn.Module):
    """x [points, 1] → prediction [points, 1]."""

    def __init__(self) -> None:
        super().__init__()
        hidden = [nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh()]
        self.layers = nn.Sequential(*hidden, nn.Linear(40, 1)).double()

    def forward(self, x: Tensor) -> Tensor:
        x = 0.8 * (x - 0.5)
        prediction: Tensor = self.layers(x)
        return prediction


def mse(prediction: Tensor, y: Tensor) -> Tensor:
    return (prediction - y).square().mean()


net = Net()  # its own weights are never used: θ comes with each call


def start(seed: int = 0) -> Theta:
    """θ before training: random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {name: p.detach() for name, p in Net().named_parameters()}


def loss(theta: Theta, points: Points) -> Tensor:
    """L(θ; D)."""
    x, y = points
    return mse(functional_call(net, theta, (x,)), y)


def slope(theta: Theta, points: Points, create_graph: bool = True) -> Theta:
    """∇L(θ; D), with the graph by which it depends on θ."""
    found = torch.autograd.grad(loss(theta, points), list(theta.values()), create_graph=create_graph)
    return dict(zip(theta, found, strict=True))


def adapt(theta: Theta, support: Points, steps: int = STEPS) -> Theta:
    """θ' = θ − α ∇L(θ; D), `steps` times."""
    theta_prime = theta
    for _ in range(steps):
        slopes = slope(theta_prime, support)
        theta_prime = {name: w - ALPHA * slopes[name] for name, w in theta_prime.items()}
    return theta_prime


def meta_gradient(theta: Theta, tasks: list[Task]) -> tuple[Tensor, Theta]:
    """F(θ), the mean of L(θ'; D') over tasks, and ∇F(θ)."""
    theta = leaves = {name: w.detach().requires_grad_() for name, w in theta.items()}
    losses = []
    for support, query in tasks:
        theta_prime = adapt(theta, support)
        losses.append(loss(theta_prime, query))
    value = torch.stack(losses).mean()
    found = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
    return value.detach(), dict(zip(leaves, found, strict=True))


def train(theta: Theta, iterations: int, seed: int = 0) -> Theta:
    """θ after training, the one of several that is best on validation tasks."""
    theta = {name: w.clone() for name, w in theta.items()}
    optimizer = torch.optim.Adam(theta.values(), lr=BETA)
    kept = []
    for iteration in range(iterations):
        _, gradient = meta_gradient(theta, draw(TASKS * iteration, TASKS, "train", seed))
        for name, w in theta.items():
            w.grad = gradient[name]
        optimizer.step()
        if (iteration + 1) % PERIOD == 0:
            watched = examine(theta, "validation", 20, STEPS, seed)[:, -1].mean().item()
            kept.append((watched, {name: w.clone() for name, w in theta.items()}))
    return min(kept, key=lambda pair: pair[0])[1]


def examine(theta: Theta, split: str = "test", size: int = 40, steps: int = 5, seed: int = 0) -> Tensor:
    """Query loss of each task after 0, 1, … steps: [size, steps + 1]."""
    curves = []
    for support, query in draw(0, size, split, seed):
        theta_prime, curve = {name: w.clone().requires_grad_() for name, w in theta.items()}, []
        for _ in range(steps + 1):
            curve.append(loss(theta_prime, query).detach())
            theta_prime = adapt(theta_prime, support, steps=1)
        curves.append(torch.stack(curve))
    return torch.stack(curves)


def report(curves: Tensor) -> tuple[float, float]:
    """The mean over tasks after the last step, and the half-width of its 95% interval."""
    last = curves[:, -1]
    half = 1.96 * last.std() / len(last) ** 0.5
    return last.mean().item(), half.item()
