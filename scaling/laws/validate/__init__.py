"""Whether a law can be trusted: backtests, other laws, other approaches."""

from scaling.laws.validate.approaches import Approach, Approaches, approaches
from scaling.laws.validate.backtest import Backtest, backtest
from scaling.laws.validate.comparison import Comparison, compare

__all__ = ["Approach", "Approaches", "Backtest", "Comparison", "approaches", "backtest", "compare"]
