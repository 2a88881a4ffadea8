"""What docker-compose.yml promises, as far as it can be told without docker."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_nothing_is_published_beyond_this_machine() -> None:
    published = [port for service in COMPOSE["services"].values() for port in service["ports"]]
    assert len(published) == 2
    assert all(re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-\d+\}:\d+", port) for port in published)


def test_no_password_stands_in_the_file_and_every_setting_is_in_the_example() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    used = set(re.findall(r"\$\{(\w+)", text))
    assert {name for name in used if "PASSWORD" in name} == {"MONGO_PASSWORD"}
    assert set(re.findall(r"MONGO_PASSWORD:-(\w*)\}", text)) == {""}
    assert used == set(re.findall(r"^#?(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))


def test_runs_outlive_the_containers() -> None:
    (volume,) = COMPOSE["services"]["mongo"]["volumes"]
    assert volume == "runs:/data/db"
    assert "runs" in COMPOSE["volumes"]


def test_versions_are_named() -> None:
    assert re.fullmatch(r"mongo:\d+\.\d+", COMPOSE["services"]["mongo"]["image"])
    folder = ROOT / COMPOSE["services"]["omniboard"]["build"]
    dockerfile = (folder / "Dockerfile").read_text()
    assert re.search(r"^FROM node:\d+-\w+", dockerfile, re.MULTILINE)
    copied = re.findall(r"[\w-]+\.(?:json|js)\b", " ".join(re.findall(r"^COPY .*", dockerfile, re.MULTILINE)))
    assert {path.name for path in folder.glob("*.js*")} == set(copied)
