"""Where a sweep's runs run, as its configuration says it."""

import pytest
from test_config import SWEEP, refusal

from scaling.config import SweepConfig, apply_overrides, build


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("executor.kind=slrm", "executor.kind"),
        ("executor.slurm.partiton=debug", "did you mean `partition`"),
        ("executor.slurm.time_minutes=0", "executor.slurm.time_minutes"),
        ("executor.ray.cpus=0", "executor.ray.cpus"),
        ("executor.ray.address=somewhere", "executor.ray.address"),
    ],
)
def test_a_mistake_about_the_executor_is_named(override: str, says: str) -> None:
    assert says in refusal(override, cls=SweepConfig, values=SWEEP)


def test_options_of_an_executor_are_overridden_by_dotted_keys() -> None:
    values = apply_overrides(SWEEP, ["executor.slurm.partition=debug", "executor.slurm.setup=[module load cuda]"])
    executor = build(SweepConfig, values, "sweep.yaml").executor
    assert (executor.kind, executor.slurm.partition, executor.slurm.setup) == (
        "local",
        "debug",
        ("module load cuda",),
    )
