"""A fixture for pytest: ``assert_flat_memory``. Imports nothing until a test asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from safe_embed.diagnosis.growth import Growth


@pytest.fixture
def assert_flat_memory() -> Callable[..., Growth]:
    """The function :func:`safe_embed.testing.assert_flat_memory`.

    Returns:
        The function.
    """
    from safe_embed import testing

    return testing.assert_flat_memory
