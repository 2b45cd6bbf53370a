from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def nobody_s_phone_is_asked() -> Iterator[None]:
    """The server of adb that somebody may run here is not the tests'; theirs has a port of its own, and where none is, none starts."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("ANDROID_ADB_SERVER_PORT", "none")
        yield
