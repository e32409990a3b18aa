"""Messages hold no secrets, whatever the library that wrote them."""

import errno
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dao_flows.errors import InputError, explain
from dao_flows.makers.machine.masking import mask, remember_secret

SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="@/'\",&;"), min_size=4)


@given(
    SECRETS, st.sampled_from(["mongodb://{}@host/db", "mongodb+srv://user:{}@host", "password={}", "'Password': '{}'"])
)
def test_credentials_are_masked_where_they_stand(secret, pattern):
    secret = f"§{secret}"  # so that it is no part of the pattern's own words
    assert secret not in mask(f"cannot reach {pattern.format(secret)} now")


@given(st.text(min_size=4), st.text(), st.text())
def test_a_remembered_secret_is_never_shown(secret, before, after):
    remember_secret(f"§{secret}§")
    assert f"§{secret}§" not in mask(f"{before}§{secret}§{after}")


def test_short_values_are_not_taken_for_secrets():
    remember_secret("a")
    assert mask("a database") == "a database"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (InputError("no formula given"), "no formula given"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "free some space"),
        (sqlite3.OperationalError("database or disk is full"), "free some space"),
        (MemoryError(), "fewer candidates"),
    ],
)
def test_what_the_user_can_put_right_is_explained(error, words):
    assert words in explain(error)


@pytest.mark.parametrize("error", [ValueError("of a library"), RuntimeError("x"), KeyError("x")])
def test_what_is_our_own_fault_is_not(error):
    assert explain(error) is None
