"""The optimizers as their papers print them: slow, plain NumPy in float64, one function each.

Each function yields the weights after every update, given the weights before the first, the
gradients in order, and the hyperparameters. Where a library differs from its paper, the docstring
says how, and the function follows the library.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Path = Iterator[Array]


def sgd(w, gradients, lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False) -> Path:
    """Heavy ball: v = β v + (1 - τ) g; torch begins with v = g whatever τ is."""
    v = None
    for g in gradients:
        g = g + weight_decay * w
        v = g if v is None else momentum * v + (1 - dampening) * g
        w = w - lr * ((g + momentum * v if nesterov else v) if momentum else g)
        yield w


def averaged_momentum(w, gradients, lr, momentum=0.9, weight_decay=0.0) -> Path:
    """v = β v + (1 - β) g from v = 0."""
    v = np.zeros_like(w)
    for g in gradients:
        v = momentum * v + (1 - momentum) * (g + weight_decay * w)
        w = w - lr * v
        yield w


def adagrad(
    w, gradients, lr, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=1e-10
) -> Path:
    s = np.full_like(w, initial_accumulator_value)
    for t, g in enumerate(gradients, start=1):
        g = g + weight_decay * w
        s = s + g**2
        w = w - lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(s) + eps)
        yield w


def adadelta(w, gradients, lr, rho=0.9, eps=1e-6, weight_decay=0.0) -> Path:
    s, u = np.zeros_like(w), np.zeros_like(w)
    for g in gradients:
        g = g + weight_decay * w
        s = rho * s + (1 - rho) * g**2
        d = np.sqrt(u + eps) / np.sqrt(s + eps) * g
        u = rho * u + (1 - rho) * d**2
        w = w - lr * d
        yield w


def rmsprop(
    w, gradients, lr, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False
) -> Path:
    """Centered: Graves 2013; ε outside the root, as torch has it."""
    s, a, b = (np.zeros_like(w) for _ in range(3))
    for g in gradients:
        g = g + weight_decay * w
        s = alpha * s + (1 - alpha) * g**2
        a = alpha * a + (1 - alpha) * g
        step = g / (np.sqrt(s - a**2 if centered else s) + eps)
        b = momentum * b + step
        w = w - lr * b
        yield w


def _adam(w, gradients, lr, betas, eps, coupled, decoupled, amsgrad=False) -> Path:
    m, v, top = (np.zeros_like(w) for _ in range(3))
    for t, g in enumerate(gradients, start=1):
        g = g + coupled * w
        w = w - lr * decoupled * w
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        top = np.maximum(top, v)
        corrected = (top if amsgrad else v) / (1 - betas[1] ** t)
        w = w - lr * m / (1 - betas[0] ** t) / (np.sqrt(corrected) + eps)
        yield w


def adam(w, gradients, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False) -> Path:
    return _adam(w, gradients, lr, betas, eps, weight_decay, 0.0, amsgrad)


def adamw(w, gradients, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False) -> Path:
    return _adam(w, gradients, lr, betas, eps, 0.0, weight_decay, amsgrad)


def adam_uncorrected(w, gradients, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0) -> Path:
    m, v = np.zeros_like(w), np.zeros_like(w)
    for g in gradients:
        g = g + weight_decay * w
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        w = w - lr * m / (np.sqrt(v) + eps)
        yield w


def nadam(
    w,
    gradients,
    lr,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    momentum_decay=4e-3,
    decoupled_weight_decay=False,
) -> Path:
    m, v, product = np.zeros_like(w), np.zeros_like(w), 1.0

    def mu(t: int) -> float:
        return betas[0] * (1 - 0.5 * 0.96 ** (t * momentum_decay))

    for t, g in enumerate(gradients, start=1):
        if decoupled_weight_decay:
            w = w - lr * weight_decay * w
        else:
            g = g + weight_decay * w
        product *= mu(t)
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        ahead = mu(t + 1) * m / (1 - product * mu(t + 1)) + (1 - mu(t)) * g / (1 - product)
        w = w - lr * ahead / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
        yield w


def radam(
    w,
    gradients,
    lr,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    decoupled_weight_decay=False,
) -> Path:
    """The paper switches at ρ > 4, its authors' code and torch at ρ > 5."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    limit = 2 / (1 - betas[1]) - 1
    for t, g in enumerate(gradients, start=1):
        if decoupled_weight_decay:
            w = w - lr * weight_decay * w
        else:
            g = g + weight_decay * w
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        rho = limit - 2 * t * betas[1] ** t / (1 - betas[1] ** t)
        step = m / (1 - betas[0] ** t)
        if rho > 5:
            r = (rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho)
            step = step * np.sqrt(r) * np.sqrt(1 - betas[1] ** t) / (np.sqrt(v) + eps)
        w = w - lr * step
        yield w


def adamax(w, gradients, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0) -> Path:
    m, u = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gradients, start=1):
        g = g + weight_decay * w
        m = betas[0] * m + (1 - betas[0]) * g
        u = np.maximum(betas[1] * u, np.abs(g) + eps)
        w = w - lr / (1 - betas[0] ** t) * m / u
        yield w


def sparse_adam(w, gradients, lr, betas=(0.9, 0.999), eps=1e-8) -> Path:
    return _adam(w, gradients, lr, betas, eps, 0.0, 0.0)


def lion(w, gradients, lr, betas=(0.9, 0.99), weight_decay=0.0) -> Path:
    m = np.zeros_like(w)
    for g in gradients:
        step = np.sign(betas[0] * m + (1 - betas[0]) * g)
        w = w - lr * (step + weight_decay * w)
        m = betas[1] * m + (1 - betas[1]) * g
        yield w


def adafactor(w, gradients, lr, beta2_decay=-0.8, d=1.0, weight_decay=0.0) -> Path:
    """ε1 is the machine's (torch), ε2 is 10⁻³; the factors are means, as torch keeps them."""
    eps1, eps2 = np.finfo(np.float64).eps, 1e-3
    row = column = v = 0.0
    for t, g in enumerate(gradients, start=1):
        fresh = t**beta2_decay
        alpha = max(eps2, np.sqrt(np.mean(w**2))) * min(lr, 1 / np.sqrt(t))
        w = w - lr * weight_decay * w
        if w.ndim > 1:
            row = (1 - fresh) * row + fresh * np.mean(g**2, axis=1)
            column = (1 - fresh) * column + fresh * np.mean(g**2, axis=0)
            estimate = np.outer(row, column) / max(np.mean(row), eps1)
        else:
            estimate = v = (1 - fresh) * v + fresh * g**2
        u = g / np.sqrt(np.maximum(estimate, eps1**2))
        w = w - alpha * u / max(1.0, np.sqrt(np.mean(u**2)) / d)
        yield w


def lamb(w, gradients, lr, betas=(0.9, 0.999), eps=1e-6, weight_decay=1e-2) -> Path:
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gradients, start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        u = m / (1 - betas[0] ** t) / (np.sqrt(v / (1 - betas[1] ** t)) + eps) + weight_decay * w
        size, length = np.linalg.norm(w), np.linalg.norm(u)
        w = w - lr * (size / length if size > 0 and length > 0 else 1.0) * u
        yield w


def lars(
    w,
    gradients,
    lr,
    momentum=0.9,
    dampening=0.0,
    weight_decay=0.0,
    trust_coefficient=1e-3,
    nesterov=False,
) -> Path:
    """The rate stands outside the momentum; vectors take plain steps without decay."""
    v = np.zeros_like(w)
    for g in gradients:
        if w.ndim > 1:
            size, slope = np.linalg.norm(w), np.linalg.norm(g)
            ratio = trust_coefficient * size / (slope + weight_decay * size)
            g = (g + weight_decay * w) * ratio
        v = momentum * v + (1 - dampening) * g
        w = w - lr * ((g + momentum * v if nesterov else v) if momentum else g)
        yield w


def muon(
    w,
    gradients,
    lr,
    momentum=0.95,
    nesterov=True,
    ns_steps=5,
    weight_decay=0.1,
    betas=(0.9, 0.999),
    eps=1e-8,
) -> Path:
    """The momentum is an average (torch); Newton-Schulz here is exact, torch's is bfloat16.

    A kernel is the matrix of its outputs against everything else.
    """
    if w.ndim < 2:
        yield from _adam(w, gradients, lr, betas, eps, 0.0, weight_decay)
        return
    if w.ndim > 2:
        flat = [g.reshape(len(g), -1) for g in gradients]
        walked = muon(w.reshape(len(w), -1), flat, lr, momentum, nesterov, ns_steps, weight_decay)
        yield from (x.reshape(w.shape) for x in walked)
        return
    b = np.zeros_like(w)
    for g in gradients:
        b = momentum * b + (1 - momentum) * g
        x = (1 - momentum) * g + momentum * b if nesterov else b
        x = x / np.linalg.norm(x)
        for _ in range(ns_steps):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        w = (1 - lr * weight_decay) * w - lr * 0.2 * np.sqrt(max(w.shape)) * x
        yield w


def power(matrix: Array, exponent: float) -> Array:
    """A power of a symmetric positive definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return vectors * values**exponent @ vectors.T


def shampoo(w, gradients, lr, weight_decay=0.0, matrix_eps=1e-6) -> Path:
    """Per side of a tensor of order k: power -1 / (2k); a vector's is the full Adagrad."""
    sides = [matrix_eps * np.eye(n) for n in w.shape]
    for g in gradients:
        g = g + weight_decay * w
        if w.ndim == 1:
            sides[0] = sides[0] + np.outer(g, g)
            w = w - lr * power(sides[0], -0.5) @ g
        else:
            sides = [sides[0] + g @ g.T, sides[1] + g.T @ g]
            w = w - lr * power(sides[0], -0.25) @ g @ power(sides[1], -0.25)
        yield w


def soap(
    w,
    gradients,
    lr,
    betas=(0.95, 0.95),
    eps=1e-8,
    weight_decay=1e-2,
    precondition_frequency=10,
) -> Path:
    """The first gradient only starts the eigenbasis; vectors are Adam's, in their own basis."""
    first, *rest = gradients
    matrix = w.ndim == 2
    yield w
    share = 1 - betas[1]
    if matrix:
        sides = [share * first @ first.T, share * first.T @ first]
        bases = [np.linalg.eigh(side)[1][:, ::-1] for side in sides]
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(rest, start=1):
        turn = (lambda x: bases[0].T @ x @ bases[1]) if matrix else (lambda x: x)
        back = (lambda x: bases[0] @ x @ bases[1].T) if matrix else (lambda x: x)
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * turn(g) ** 2
        size = lr * np.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)
        w = w - size * back(turn(m) / (np.sqrt(v) + eps))
        w = w - lr * weight_decay * w
        if matrix:
            sides = [
                (1 - share) * side + share * fresh
                for side, fresh in zip(sides, (g @ g.T, g.T @ g), strict=True)
            ]
            if t % precondition_frequency == 0:
                for axis, (side, basis) in enumerate(zip(sides, bases, strict=True)):
                    order = np.argsort(-np.diag(basis.T @ side @ basis), kind="stable")
                    v = np.take(v, order, axis=axis)
                    bases[axis] = np.linalg.qr(side @ basis[:, order])[0]
        yield w


def prodigy(
    w,
    gradients,
    lr=1.0,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    decouple=True,
    use_bias_correction=False,
    safeguard_warmup=False,
    d0=1e-6,
    d_coef=1.0,
) -> Path:
    """Algorithm 4 with the averages of its section 6; sums over one tensor."""
    d = d_max = d0
    start, r, beta3 = w, 0.0, np.sqrt(betas[1])
    m, v, s = (np.zeros_like(w) for _ in range(3))
    for k, g in enumerate(gradients):
        correction = np.sqrt(1 - betas[1] ** (k + 1)) / (1 - betas[0] ** (k + 1))
        gamma = d * lr * (correction if use_bias_correction else 1.0)
        g = g if decouple else g + weight_decay * w
        r = beta3 * r + d / d0 * gamma * np.sum(g * (start - w))
        m = betas[0] * m + (1 - betas[0]) * d * g
        v = betas[1] * v + (1 - betas[1]) * d**2 * g**2
        s = beta3 * s + d / d0 * (d if safeguard_warmup else gamma) * g
        hat = d_coef * r / np.sum(np.abs(s))
        if d == d0:
            d = max(d, hat)
        d_max = max(d_max, hat)
        d = d_max
        if decouple:
            w = w - gamma * weight_decay * w
        w = w - gamma * m / (np.sqrt(v) + d * eps)
        yield w


def dadapt_adam(
    w,
    gradients,
    lr=1.0,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    decouple=False,
    use_bias_correction=False,
    d0=1e-6,
) -> Path:
    """Algorithm 5. Its denominators are those of the update before (the library's order)."""
    d, r, root = d0, 0.0, np.sqrt(betas[1])
    m, v, s = (np.zeros_like(w) for _ in range(3))
    for k, g in enumerate(gradients):
        correction = np.sqrt(1 - betas[1] ** (k + 1)) / (1 - betas[0] ** (k + 1))
        gamma = d * lr * (correction if use_bias_correction else 1.0)
        g = g if decouple else g + weight_decay * w
        r = root * r + (1 - root) * gamma * np.sum(g * s / (np.sqrt(v) + eps))
        m = betas[0] * m + (1 - betas[0]) * gamma * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        s = root * s + (1 - root) * gamma * g
        d = max(d, r / ((1 - root) * np.sum(np.abs(s))))
        if decouple:
            w = w - gamma * weight_decay * w
        w = w - m / (np.sqrt(v) + eps)
        yield w


def _schedule_free(w, steps, lr, beta, r, weight_lr_power) -> Path:
    """z: the fast weights, x: their average, y: where gradients are taken."""
    z = x = y = w
    total = 0.0
    for k, step in enumerate(steps):
        weight = (k + 1) ** r * lr**weight_lr_power
        total += weight
        z = z - lr * step(k, y)
        x = (1 - weight / total) * x + weight / total * z
        y = (1 - beta) * z + beta * x
        yield y


def schedulefree_sgd(
    w, gradients, lr, momentum=0.9, weight_decay=0.0, r=0.0, weight_lr_power=2.0
) -> Path:
    steps = [lambda k, y, g=g: g + weight_decay * y for g in gradients]
    return _schedule_free(w, steps, lr, momentum, r, weight_lr_power)


def schedulefree_adamw(
    w, gradients, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, r=0.0, weight_lr_power=2.0
) -> Path:
    v, steps = np.zeros_like(w), []
    for t, g in enumerate(gradients, start=1):
        v = betas[1] * v + (1 - betas[1]) * g**2
        size = g / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
        steps.append(lambda k, y, size=size: size + weight_decay * y)
    return _schedule_free(w, steps, lr, betas[0], r, weight_lr_power)


def damped_newton_step(w: Array, g: Array, hessian: Array, lr: float, damping: float) -> Array:
    """One accepted step at a given damping."""
    return w - lr * np.linalg.solve(hessian + damping * np.eye(len(w)), g)


def conjugate_gradients(matrix: Array, b: Array, count: int, target: float) -> Array:
    """Hestenes & Stiefel 1952: the first iterates of the solution of matrix · x = b."""
    x, r = np.zeros_like(b), b.copy()
    p = r.copy()
    for _ in range(count):
        if np.linalg.norm(r) <= target:
            break
        length = r @ r / (p @ matrix @ p)
        x, fresh = x + length * p, r - length * matrix @ p
        p = fresh + (fresh @ fresh) / (r @ r) * p
        r = fresh
    return x


def walk(function, w: Array, gradients: Sequence[Array], **values) -> list[Array]:
    """The weights after every update."""
    return list(function(w, gradients, **values))
