"""Omniboard is shown the databases that the package writes to."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from incasem_like.tracking.address import MongoAddress, parse_address
from incasem_like.tracking.kinds import KINDS

OMNIBOARD = Path(__file__).resolve().parents[2] / "scripts" / "omniboard"
CODE = "console.log(JSON.stringify(require('./databases').databases(process.argv[1])))"

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")


def databases(url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["node", "-e", CODE, url], cwd=OMNIBOARD, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:27017", "mongodb://localhost:27017", "mongodb://localhost:27017/", "mongodb://h:1/admin",
        "mongodb://h:1/lab", "mongodb://h:1/lab_trainings", "mongodb://h:1/lab_predictions?retryWrites=false",
        "mongodb+srv://cluster.example.org", "mongodb://a:1,b:2/?replicaSet=r",
    ],
)  # fmt: skip
def test_the_databases_are_those_of_the_tracking_url(url: str, tmp_path: Path) -> None:
    address = parse_address(url, tmp_path)
    assert isinstance(address, MongoAddress)
    found = json.loads(databases(url).stdout)
    assert list(found) == list(KINDS)
    for kind, entry in found.items():
        server, _, rest = entry["mongodbURI"].partition("://")[2].partition("/")
        assert server == address.url.partition("://")[2].partition("/")[0]
        assert rest.partition("?")[0] == address.database(kind)
        assert rest.partition("?")[2] == url.partition("?")[2]
        assert entry["path"] == f"/{kind}"


@pytest.mark.parametrize(("url", "source"), [("u:p@h:1", "admin"), ("mongodb://u:p@h:1/lab", "lab")])
def test_credentials_are_looked_for_where_the_package_looks(url: str, source: str) -> None:
    for entry in json.loads(databases(url).stdout).values():
        assert entry["mongodbURI"].startswith("mongodb://u:p@h:1/")
        assert entry["mongodbURI"].endswith(f"?authSource={source}")


def test_incasems_json_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "db.json"
    file.write_text(json.dumps({"url": "h:1", "db_name": "lab_trainings"}))
    assert json.loads(databases(str(file)).stdout)["predictions"]["mongodbURI"] == "mongodb://h:1/lab_predictions"


def test_what_is_no_server_is_refused_without_quoting_it() -> None:
    for url in ("postgres://u:s3cret@h", "/data/runs"):
        finished = subprocess.run(
            ["node", "start.js", url], cwd=OMNIBOARD, capture_output=True, text=True, check=False, timeout=60
        )
        assert finished.returncode == 2
        assert "no address of a MongoDB server" in finished.stderr
        assert "s3cret" not in finished.stderr
