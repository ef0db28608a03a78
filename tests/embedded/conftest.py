"""The contract suite is not a test module by its name, yet its asserts shall explain themselves."""

import pytest

pytest.register_assert_rewrite(f"{__package__}.log_contract")
