"""Learning-rate schedules against numpy formulas written out step by step."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plausible import shares

from scaling.config import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig, TransformerConfig
from scaling.training.knobs import make_knobs
from scaling.training.schedules import Schedule, make_schedule

NAMES = ("cosine", "wsd", "linear", "inverse_sqrt", "constant")


MODEL = TransformerConfig(vocab=256, context=1, layers=1, d_model=8, n_heads=1)


def schedule_of(config: ScheduleConfig, peak: float, steps: int) -> Schedule:
    """Of a run of `steps` steps."""
    data, optimizer = DataConfig(corpus="files:unused"), OptimizerConfig(learning_rate=peak)
    run = RunConfig(model=MODEL, data=data, optimizer=optimizer, schedule=config, batch_size=1, tokens=steps)
    return make_schedule(config.name, make_knobs(run))


def rates(config: ScheduleConfig, peak: float, steps: int) -> np.ndarray:
    return np.asarray(schedule_of(config, peak, steps)(jnp.arange(400)))[:steps]  # one shape: compiled once


def expected(name: str, warmup: int, cooldown: int, final: float, peak: float, steps: int) -> np.ndarray:
    """Each rate by its textbook formula in float64, with a loop over steps."""
    values = []
    for k in range(steps):
        if k < warmup:
            values.append(peak * (k + 1) / warmup)
            continue
        through = (k - (warmup - 1)) / (steps - 1 - (warmup - 1))  # 0 at the last step of warmup, 1 at the last step
        if name == "cosine":
            values.append(peak * (final + (1 - final) * (1 + math.cos(math.pi * through)) / 2))
        elif name == "linear":
            values.append(peak * (1 + (final - 1) * through))
        elif name == "wsd":
            into = k + 1 - (steps - cooldown)
            values.append(peak * (final + (1 - final) * (1 - math.sqrt(into / cooldown))) if into > 0 else peak)
        elif name == "inverse_sqrt":
            values.append(peak * math.sqrt(warmup / (k + 1)))
        else:
            values.append(peak)
    return np.array(values)


@pytest.mark.parametrize("name", NAMES)
def test_rates_follow_the_formula_at_every_step(name: str) -> None:
    config = ScheduleConfig(name=name, warmup=0.1, cooldown=0.3, final=0.05)
    np.testing.assert_allclose(rates(config, 3e-3, 70), expected(name, 7, 21, 0.05, 3e-3, 70), rtol=2e-6)


def test_wsd_reaches_half_of_the_fall_after_a_quarter_of_the_cooldown() -> None:
    lr = rates(ScheduleConfig(name="wsd", warmup=0.0, cooldown=0.4, final=0.0), 1.0, 100)
    assert lr[59] == 1.0 and lr[60] < 1.0
    assert lr[69] == pytest.approx(0.5)  # 10 of 40 steps: 1 − √¼
    assert lr[99] == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_the_same_inside_jit_and_for_python_steps(name: str) -> None:
    schedule = schedule_of(ScheduleConfig(name=name), 0.01, 50)
    eager = np.array([schedule(k) for k in range(50)])
    jitted = jax.jit(jax.vmap(schedule))(jnp.arange(50, dtype=jnp.int32))
    assert jitted.dtype == jnp.float32
    np.testing.assert_allclose(jitted, eager, rtol=3e-6)


def test_a_run_of_one_step_is_at_the_peak() -> None:
    for name in NAMES:
        assert rates(ScheduleConfig(name=name), 0.5, 1).tolist() == [0.5]


def test_steps_past_the_end_keep_the_last_rate() -> None:
    for name in ("cosine", "linear", "wsd"):
        assert schedule_of(ScheduleConfig(name=name, final=0.25), 1.0, 20)(200) == 0.25


@settings(max_examples=80)
@given(
    name=st.sampled_from(NAMES),
    warmup=shares(0.5),
    cooldown=st.floats(0.01, 0.49),
    final=shares(),
    peak=st.floats(1e-5, 10),
    steps=st.integers(2, 400),
)
def test_any_schedule_rises_to_its_peak_then_falls_without_jumps(
    name: str, warmup: float, cooldown: float, final: float, peak: float, steps: int
) -> None:
    lr = rates(ScheduleConfig(name=name, warmup=warmup, cooldown=cooldown, final=final), peak, steps)
    peak32, top = np.float32(peak), max(min(round(warmup * steps), steps - 1), 1) - 1
    assert lr[top] == peak32, "the peak is met exactly"
    assert (lr[:top] < peak32).all() and lr[0] > 0
    assert (np.diff(lr[: top + 1]) > 0).all()
    assert (np.diff(lr[top:]) <= 1e-6 * peak).all()
    assert (lr <= peak32 * np.float32(1 + 1e-6)).all() and (lr >= 0).all()
    if name in ("cosine", "linear", "wsd"):
        np.testing.assert_allclose(lr[-1], final * peak, rtol=1e-5, atol=1e-7 * peak)
    falls = -np.diff(lr[top:]) / peak
    length = steps - 1 - top
    steepest = {
        "cosine": math.pi / 2 / max(length, 1),
        "linear": 1 / max(length, 1),
        "wsd": 1 / math.sqrt(max(1, round(cooldown * steps) - 1)),
        "inverse_sqrt": 1 / math.sqrt(top + 1),
        "constant": 0,
    }[name]
    assert (falls <= steepest + 1e-5).all(), "no step falls faster than the formula's steepest slope"
