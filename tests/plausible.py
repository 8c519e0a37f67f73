"""Numbers of the size that configurations take, for hypothesis."""

from hypothesis import strategies as st


def shares(most: float = 1.0) -> st.SearchStrategy[float]:
    """From 0 on; none of the sizes that are refused as a slip of the pen."""
    return st.just(0.0) | st.floats(1e-30, most)
