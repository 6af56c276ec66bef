import pytest

# Its asserts explain themselves like those of a test module.
pytest.register_assert_rewrite("tests.memo.conformance")
