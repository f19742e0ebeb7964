"""Tokens are known by their shape, and never shown."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import secrets

TOKENS = {
    "GitHub token": "ghp_" + "a1B2" * 9,
    "Hugging Face token": "hf_" + "x" * 34,
    "OpenAI or Anthropic key": "sk-proj-" + "x1" * 20,
    "AWS access key": "AKIA" + "A1" * 8,
    "Google API key": "AIza" + "x" * 35,
    "Slack token": "xoxb-" + "1" * 24,
    "GitLab token": "glpat-" + "x" * 20,
    "npm token": "npm_" + "x" * 36,
    "JSON web token": ".".join(["eyJ" + "x" * 20, "eyJ" + "y" * 20, "z" * 20]),
    "password in a URL": "postgres://ada:hunter22@example.org/db",
    "private key": "-----BEGIN OPENSSH PRIVATE KEY-----",
}


@pytest.mark.parametrize("kind", sorted(TOKENS))
def test_a_token_is_found_anywhere_in_a_text(kind):
    assert secrets.find(f'{{"a": "x", "b": "{TOKENS[kind]}"}}') == kind


@pytest.mark.parametrize("kind", sorted(TOKENS))
def test_redacting_leaves_nothing_to_find(kind):
    redacted, count = secrets.redact(f"before {TOKENS[kind]} after".encode())
    assert count == 1
    assert secrets.find(redacted) is None
    assert redacted.startswith(b"before ")


@pytest.mark.parametrize(
    "text",
    ["hf_model", "sk-learn", "https://example.org/a:b@c", "ghp_short", "AKIA", "task-" + "x" * 40, "npm_config"],
)
def test_what_only_resembles_a_token_passes(text):
    assert secrets.find(text) is None


@given(st.text() | st.binary())
def test_any_text_can_be_searched(text):
    secrets.find(text)


@given(st.data(), st.binary(max_size=20), st.binary(max_size=20))
@settings(max_examples=200, deadline=None)
def test_what_is_found_in_one_text_is_found_in_many_at_once(data, before, after):
    shape = data.draw(st.sampled_from(secrets._SHAPES))
    text = before + data.draw(st.from_regex(shape.pattern, fullmatch=True)) + after
    if secrets.find(text):
        assert secrets.suspected(b"\n".join([b"{}", text, b"{}"]))


@given(st.lists(st.text() | st.sampled_from([*TOKENS.values(), "://", "sk-", "AKIA", "@", ":"]), max_size=6))
@settings(max_examples=200, deadline=None)
def test_many_texts_that_pass_together_pass_one_by_one(texts):
    raw = [text.encode("utf-8", "surrogatepass") for text in texts]
    assert secrets.suspected(b"\n".join(raw)) or not any(map(secrets.find, raw))


def test_plain_events_are_cleared_at_once():
    texts = ["https://example.org/a?b=c", "hf_model", "sk-learn", "risk-averse", "a:b@c", "npm_config", "0" * 64]
    assert not secrets.suspected("\n".join(texts).encode())
