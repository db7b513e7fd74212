"""Values that JSON can hold, for properties."""

from hypothesis import strategies as st


def json_values(*, text: int, key: int, width: int, leaves: int) -> st.SearchStrategy:
    """Nested values without NaN and infinities.

    Args:
        text: most characters of a text
        key: of a name
        width: most items of a list or an object
        leaves: about so many values at the ends
    """
    return st.recursive(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(allow_nan=False, allow_infinity=False),
            st.text(max_size=text),
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=width), st.dictionaries(st.text(max_size=key), inner, max_size=width)
        ),
        max_leaves=leaves,
    )
