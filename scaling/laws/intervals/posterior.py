"""The posterior of a law's parameters by the No-U-Turn sampler (Hoffman and Gelman 2014) of NumPyro.

Likelihood: independent points, and a scale that is sampled too, with a flat prior on its logarithm:
l2 Gaussian; l1 and quantile Laplace, for quantiles the asymmetric one; huber exp(−ρ/s)/Z(s), Gaussian of variance s
within δ and Laplace beyond; student_t Student's t of ν degrees of freedom. Weights w divide the variance (for
Student's t they count the point w times, as its objective does).
Prior: `Prior` where one is given, on the parameter itself. Otherwise normal on the solver's number with mean 0 and
standard deviation 10 (shares: 1.7, close to uniform between 0 and 1), that is on exponents themselves and on the
logarithm of a positive parameter in units of the data (the geometric means of the loss and the columns). A prior this
wide is flat where the data are informative, and keeps the posterior proper where they are not.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.forms.float64 import float64_on_cpu
from scaling.laws.intervals.covariance import curvature
from scaling.laws.solve.noise import noise_of, scale_of
from scaling.laws.solve.objectives import Loss, transform
from scaling.laws.solve.priors import Prior
from scaling.laws.solve.problem import Problem

WIDTH = {"positive": 10.0, "real": 10.0, "level": 10.0, "share": 1.7}
CHAINS = 2
WARMUP = 500


def sample(
    problem: Problem, theta: Array, priors: Mapping[str, Prior], n: int, seed: int
) -> tuple[Array, tuple[str, ...]]:
    """Draws [n, free] of the solver's numbers from two chains, and notes on how they mixed.

    theta: the chains start around it. Raises UserError where NumPyro is not installed.
    """
    try:
        from numpyro.diagnostics import summary
        from numpyro.infer import MCMC, NUTS
    except ImportError:
        raise UserError("draw: method='nuts' needs NumPyro: pip install numpyro") from None
    import jax

    root = _root(problem, theta)
    each = -(-n // CHAINS)
    with float64_on_cpu():
        kernel = NUTS(potential_fn=_potential(problem, theta, root, priors), target_accept_prob=0.9)
        sampler = MCMC(kernel, num_warmup=WARMUP, num_samples=each, num_chains=CHAINS, chain_method="vectorized",
                       progress_bar=False)  # fmt: skip
        start = np.random.default_rng(seed).standard_normal((CHAINS, len(theta) + 1)) * 0.5
        sampler.run(jax.random.PRNGKey(seed), init_params=jax.numpy.asarray(start), extra_fields=("diverging",))
        z = np.asarray(sampler.get_samples(group_by_chain=True))
        diverging = int(np.asarray(sampler.get_extra_fields()["diverging"]).sum())
    found = summary({"z": z}, group_by_chain=True)["z"]
    r_hat, effective = float(np.max(found["r_hat"])), float(np.min(found["n_eff"]))
    notes: tuple[str, ...] = (
        f"NUTS: {CHAINS} chains, {effective:.0f} effective draws or more, r-hat up to {r_hat:.3f}",
    )
    if not r_hat < 1.05 or diverging > 0.01 * n:
        notes += (f"NUTS did not mix ({diverging} divergent steps): the intervals may be wrong; add priors",)
    drawn = z[..., :-1].transpose(1, 0, 2).reshape(-1, len(theta))[:n]  # alternate chains: fair cut
    return theta + drawn @ root.T, notes


def _root(problem: Problem, theta: Array) -> Array:
    """Square root of the covariance by Laplace's approximation, no wider than the weak prior: the sampler's scale."""
    noise = noise_of(problem.residuals(theta), problem)
    matrix = curvature(problem, theta)[0] / noise + np.diag(1.0 / _widths(problem) ** 2)
    return np.asarray(np.linalg.cholesky(np.linalg.inv(matrix)))


def _widths(problem: Problem) -> Array:
    return np.array([WIDTH[p.kind] for p in problem.form.parameters if p.name in problem.free])


def _potential(problem: Problem, theta: Array, root: Array, priors: Mapping[str, Prior]) -> Any:
    """z [free + 1] -> −log posterior; θ = theta + root·z, the last is log(scale / its estimate)."""
    import jax.numpy as jnp

    form, r = problem.form, problem.residuals(theta)
    x = dict(zip(form.columns, problem.x, strict=True))
    estimate = scale_of(problem, r) if problem.loss.kind == "student_t" else noise_of(r, problem)
    log_estimate = np.log(max(estimate, 1e-24))
    weak = np.array([name not in priors for name in problem.free]) / _widths(problem) ** 2

    def potential(z: Any) -> Any:
        position = theta + root @ z[:-1]
        free = dict(zip(problem.free, position, strict=True))
        scaled = form.scaled(free, problem.fixed, problem.units, jnp)
        residuals = transform(form.value(scaled, x, jnp), problem.residual, jnp) - problem.y
        log_scale = log_estimate + z[-1]
        value = -_log_likelihood(problem.loss, residuals, problem.weights, jnp.exp(log_scale))
        value = value + 0.5 * jnp.sum(weak * position**2)
        natural = dict(zip(form.params, form.natural(scaled, problem.units, jnp), strict=True))
        for parameter in form.parameters:
            if parameter.name in priors and parameter.name in free:
                prior, p = priors[parameter.name], natural[parameter.name]
                value = value + 0.5 * ((p - prior.mean) / prior.sd) ** 2
                # The prior is a density of the parameter, the sampler moves its logarithm or logit.
                if parameter.kind in ("positive", "share"):
                    value = value - jnp.log(p)
                if parameter.kind == "share":
                    value = value - jnp.log1p(-p)
        return value

    return potential


def _log_likelihood(loss: Loss, r: Any, w: Any, scale: Any) -> Any:
    import jax.numpy as jnp
    from jax.scipy.special import erf

    s, size = scale / w, jnp.abs(r)
    if loss.kind == "student_t":
        assert loss.nu is not None
        return jnp.sum(w * (-0.5 * (loss.nu + 1.0) * jnp.log1p((r / scale) ** 2 / loss.nu) - jnp.log(scale)))
    if loss.kind == "l2":
        return jnp.sum(-0.5 * r**2 / s - 0.5 * jnp.log(s))
    if loss.kind == "huber":
        delta = loss.delta
        assert delta is not None
        inside = jnp.sqrt(2 * jnp.pi * s) * erf(delta / jnp.sqrt(2 * s))
        total = inside + 2 * s / delta * jnp.exp(-0.5 * delta**2 / s)
        rho = jnp.where(size < delta, 0.5 * r**2, delta * (size - 0.5 * delta))
        return jnp.sum(-rho / s - jnp.log(total))
    over, under = loss.sides()
    return jnp.sum(-jnp.where(r > 0, over, under) * size / s - jnp.log(s))
