"""No key reaches a plan: what holds one is refused, in words that do not repeat it."""

from pathlib import Path

import pytest

from emray.endpoint.access import Access
from emray.errors import SpecError, UserError
from emray.spec import EndpointSpec, load_sweep
from emray.spec.unkept import key_in_url, names_of_keys

CANARY = "sk-canary-0123456789"


@pytest.mark.parametrize(
    "override",
    [
        f"judge.base_url=https://user:{CANARY}@api.example.org/v1",
        f"judge.base_url=https://{CANARY}@api.example.org/v1",
        f"judge.base_url=https://api.example.org/v1?api_key={CANARY}",
        f"judge.base_url=https://api.example.org/v1?subscription-key={CANARY}",
        f"generate.endpoint.base_url=https://u:{CANARY}@api.example.org/v1",
        f"judge.api_key_env={CANARY}",
        f"judge.extra_body={{api_key: {CANARY}}}",
        f"judge.extra_body={{provider: {{api_key: {CANARY}}}}}",
        f"judge.api_key={CANARY}",
        f"judge.also=[{{base_url: 'https://u:{CANARY}@api.example.org/v1'}}]",
    ],
)
def test_a_key_in_the_sweep_file_is_refused_and_not_repeated(override: str) -> None:
    with pytest.raises(SpecError) as refused:
        load_sweep(Path("sweeps/toy.yaml"), overrides=[override])
    assert CANARY not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_key_in_the_environments_url_is_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"https://user:{CANARY}@api.example.org/v1")
    with pytest.raises(UserError) as refused:
        Access.read(EndpointSpec(), base_url=None)
    assert CANARY not in str(refused.value)


def test_urls_without_a_key_are_taken_as_they_are() -> None:
    for url in ("http://127.0.0.1:8000/v1", "https://x.openai.azure.com/openai?api-version=2025-01-01", "toy", "[", ""):
        assert key_in_url(url) is None


def test_the_names_of_keys_are_known_from_names_that_only_resemble_them() -> None:
    assert names_of_keys(["api_key", "API-KEY", "token", "x-secret"]) == ["api_key", "API-KEY", "token", "x-secret"]
    assert names_of_keys(["max_tokens", "keyword", "tokenizer", "encoded", "top_k", "monkey"]) == []
