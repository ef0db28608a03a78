"""Lets the asserts of the contract suite explain themselves here as well."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.embedded.log_contract")
