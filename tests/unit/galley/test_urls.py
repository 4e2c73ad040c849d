"""Which URLs carry credentials, and that no message repeats them."""

from __future__ import annotations

import pytest

from galley.errors import ConfigError
from galley.urls import cleaned, resolved, secrets_in, url_problem

SECRET = "hunter2"  # noqa: S105
WITH = [
    f"postgresql://me:{SECRET}@host/db",
    f"postgresql://me:{SECRET}/w@host/db",
    f"postgresql://me:w/{SECRET}@host/db",
    f"postgresql://me:w?{SECRET}@host/db",
    f"postgresql://me:w#{SECRET}@host/db",
    f"postgresql://me:a@{SECRET}@host/db",
    f"postgresql://:{SECRET}@host/db",
    f"postgresql://host/db?user=me&password={SECRET}",
    f"postgresql://host/db?password={SECRET}&user=me",
    f"postgresql://host/db?PassWord={SECRET}",
    f"postgresql://host/db?%70assword={SECRET}",
    f"postgresql://host/db?passfile=/home/me/.pgpass&sslpassword={SECRET}",
    f"mysql+pymysql://me@host/db?passwd={SECRET}",
    f"mssql+pyodbc:///?odbc_connect=DRIVER%3D%7BODBC%7D%3BUID%3Dme%3BPWD%3D{SECRET}",
    f"https://me:{SECRET}@mlflow.example.org/path",
    f"https://{SECRET}@mlflow.example.org/path",
    f"https://mlflow.example.org/?api_key={SECRET}",
    f"https://mlflow.example.org/?access_token={SECRET}",
    f"http://mlflow.example.org/#token={SECRET}",
    f"me:{SECRET}@host",
]
WITHOUT = [
    "sqlite:///studies.db",
    "sqlite:////home/me@site/studies.db",
    "postgresql://host/db",
    "postgresql://me@host:5432/db?sslmode=require",
    "postgresql://host/db?sslkey=/home/me/key.pem&passfile=/home/me/.pgpass",
    "mysql+pymysql://me@host:3306/db",
    "http://mlflow.example.org:5000",
    "http://[::1]:5000/path",
    "file:///home/me/mlruns",
    "databricks",
    "databricks://profile",
    "runs/mlruns",
    "env:STUDY_DB",
]


@pytest.mark.parametrize("url", WITH)
def test_a_url_with_credentials_is_refused_and_not_repeated(url: str) -> None:
    problem = url_problem("tracker.uri", url)
    assert problem is not None
    assert "tracker.uri=env:NAME" in problem.hint
    assert SECRET not in str(problem)
    with pytest.raises(ConfigError) as raised:
        resolved("tracker.uri", url)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("url", WITHOUT)
def test_a_url_without_credentials_is_taken(url: str) -> None:
    assert not secrets_in(url)
    assert url_problem("tracker.uri", url) is None


@pytest.mark.parametrize("url", WITH)
def test_what_a_library_says_is_cleaned_of_the_credentials(url: str) -> None:
    assert SECRET not in cleaned(f"API request to {url}/api/2.0 failed", url)


def test_a_part_of_a_url_is_cleaned_too() -> None:
    said = f"no user 'me' with the password '{SECRET}'"
    assert cleaned(said, WITH[0]) == "no user 'me' with the password '…'"
    assert cleaned(said, None) == said
    said = f"could not translate host name '{SECRET}@host'"
    assert SECRET not in cleaned(said, f"postgresql://me:a@{SECRET}@host/db")


def test_a_variable_holds_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDY_DB", WITH[0])
    assert resolved("hpo.storage", "env:STUDY_DB") == WITH[0]
    with pytest.raises(ConfigError, match="the variable NOWHERE is not set"):
        resolved("hpo.storage", "env:NOWHERE")
