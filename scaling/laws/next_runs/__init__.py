"""Which runs to train next."""

from scaling.laws.next_runs.suggestion import SuggestedRun, Suggestion, default_candidates, suggest

__all__ = ["SuggestedRun", "Suggestion", "default_candidates", "suggest"]
