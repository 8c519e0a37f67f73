"""What a run records."""

from typing import Annotated, Literal

from pydantic import Field

from scaling.frozen import Config


class LocalCheckpoints(Config):
    """Checkpoints on the hosts' own disks, between those in the run's folder: quick to write, and lost with their
    host."""

    folder: str
    """on each host's own disk; the newest two of each run are kept, and none once it has ended"""
    minutes: float | None = Field(default=1.0, ge=0)
    """between two of them; 0 after every step that is logged, null for none by time"""
    steps: int | None = Field(default=None, ge=1)
    """also one every this many steps"""


class Records(Config):
    """What a run records and how often."""

    folder: str = "runs"
    """where the folders of sweeps are kept"""
    sweep: str = "single"
    """the run's folder is `folder/sweep/run_id`; also the group in wandb"""
    role: Literal["fit", "test"] = "fit"
    """set by a sweep: test for the runs that test its forecast, which no law is fitted to; used where the run is not
    in the plan.json of a sweep, as in wandb"""
    by_rule: dict[str, str] = Field(default={})
    """set by a sweep: keys that it sets by a rule in each run, and the rule; runs of one law share the rule instead
    of the value"""
    store_folder: str = "~/.cache/scaling"
    """where prepared token stores are kept"""
    log_every: int = Field(default=10, ge=1)
    """steps between two lines of metrics.jsonl"""
    profile: bool = False
    """a trace of five updates in the run's folder, for xprof and ui.perfetto.dev; `scaling train --profile`"""
    evaluate_every: int | None = Field(default=None, ge=1)
    """steps between evaluations on the held-out split; unset: at the end only"""
    checkpoint_minutes: float | None = Field(default=10.0, ge=0)
    """temporary checkpoints by time, the newest two kept; 0 after every step, null for none"""
    checkpoint_steps: int | None = Field(default=None, ge=1)
    """permanent checkpoints every this many steps"""
    checkpoint_at: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """permanent checkpoints after these steps; a sweep of branches sets them, and deletes them when all branches of
    the run are trained"""
    local_checkpoints: LocalCheckpoints | None = None
    """unset: all checkpoints are in the run's folder"""
    trunk: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", examples=["L2-d64-1M-0a1b2c3d"])
    """id of another wsd run of the sweep that begins with the same updates, which are taken from its checkpoint"""
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto: online with a key, offline without"""
    wandb_project: str = "scaling"
    """the project in wandb"""

    @property
    def saves(self) -> bool:
        """Whether a run makes checkpoints at all; if so, it also saves its state when told to stop."""
        by_time = self.checkpoint_minutes is not None or self.local_checkpoints is not None
        return by_time or self.checkpoint_steps is not None or bool(self.checkpoint_at)
