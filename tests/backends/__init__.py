"""The real collector and the real Jaeger, as processes of this machine."""

import pytest

pytest.register_assert_rewrite("tests.backends.cases", "tests.backends.stack")
