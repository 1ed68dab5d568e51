"""Grids of tokens for property tests."""

from hypothesis import strategies as st

from sparsecc.passes.attention.modes import Grid

GRIDS = st.builds(
    Grid,
    frames=st.integers(1, 5),
    height=st.integers(1, 4),
    width=st.integers(1, 5),
    text=st.integers(0, 9),
    text_first=st.booleans(),
)
