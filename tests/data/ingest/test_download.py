"""Photos from a server that misbehaves: what is accepted, what is rejected and why, and what is never requested."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from data.ingest.__main__ import IngestConfig
from data.ingest.addresses import AddressRefusedError, GuardedBackend, is_public
from data.ingest.download import Downloader, FetchLimits, retry_after
from data.ingest.download_store import DownloadStore
from data.ingest.pipeline import ingest
from mlx_phi3v.catalogue import Catalogue
from tests.helpers.misbehaving_server import Server, photo_bytes, running_server
from tests.helpers.paths import ROOT


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server() as running:
        yield running


LIMITS = FetchLimits(max_bytes=200_000, timeout=60, total_timeout=120, retries=2, backoff=0.01, longest_wait=5)
# For what never ends only: on a busy machine anything may take a second.
QUICK = replace(LIMITS, timeout=0.5, total_timeout=1.0)


def fetch(folder: Path, urls: list[str], limits: FetchLimits = LIMITS, **backend: Any) -> DownloadStore:
    store = DownloadStore(folder / "pictures", folder / "failures")
    Downloader(store, limits, GuardedBackend(**backend)).run(urls)
    return store


def reason(store: DownloadStore, url: str) -> str:
    from data.ingest.photos import PhotoUnusableError

    with pytest.raises(PhotoUnusableError) as error:
        store.read(url)
    return error.value.reason


def test_each_misbehaviour_has_its_outcome(server: Server, tmp_path: Path) -> None:
    expected = {
        "/ok/1.jpg": None,
        "/twice500/2.jpg": None,
        "/moved/3.jpg": None,
        "/notfound/4.jpg": "download_http_404",
        "/forever500/5.jpg": "download_http_500",
        "/stall/6.jpg": "download_timeout",
        "/drip/7.jpg": "download_timeout",
        "/half/8.jpg": "download_connection",
        "/announced2gb/9.jpg": "download_too_many_bytes",
        "/endless2gb/10.jpg": "download_too_many_bytes",
        "/loop/11.jpg": "download_too_many_redirects",
        "/muchlater/12.jpg": "download_http_503",
        "/to/file:///etc/passwd": "download_scheme",
    }
    for limits in (QUICK, LIMITS):
        urls = [server.url + path for path, why in expected.items() if (why == "download_timeout") == (limits is QUICK)]
        store = fetch(tmp_path, urls, limits, allowed=[server.host])
    for path, why in expected.items():
        if why is None:
            seed = int("".join(c for c in path.split("/")[-1] if c.isdigit()))
            assert store.read(server.url + path) == photo_bytes(seed), path
        else:
            assert reason(store, server.url + path) == why, path
    assert server.requests["/notfound/4.jpg"] == 1  # no use in asking again
    assert server.requests["/forever500/5.jpg"] == 1 + LIMITS.retries
    assert server.requests["/twice500/2.jpg"] == 3
    assert server.requests["/muchlater/12.jpg"] == 1  # it said how long, and that is too long
    assert server.poured < 50_000_000


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:{other}/ok/1.jpg",
        "http://localhost:{other}/ok/1.jpg",
        "http://[::1]:{other}/ok/1.jpg",
        "http://[::ffff:127.0.0.1]:{other}/ok/1.jpg",
        "http://2130706433:{other}/ok/1.jpg",
        "http://0x7f.1:{other}/ok/1.jpg",
        "http://0.0.0.0:{other}/ok/1.jpg",
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/ok/1.jpg",
    ],
)
def test_neither_url_nor_redirect_reaches_a_private_address(server: Server, tmp_path: Path, target: str) -> None:
    with running_server() as secret:
        inner = target.format(other=secret.server_port)
        redirect = f"{server.url}/to/{inner}"
        store = fetch(tmp_path, [inner, redirect], allowed=[server.host])
        assert reason(store, inner) == "download_private_address"
        assert reason(store, redirect) == "download_private_address"
        assert server.requests[f"/to/{inner}"] == 1
        assert not secret.requests


def test_a_name_is_judged_by_the_address_that_is_connected_to(server: Server, tmp_path: Path) -> None:
    answers = {"innocent.example": ["127.0.0.1"], "mixed.example": ["93.184.216.34", "10.1.2.3"]}
    asked: list[str] = []

    async def resolver(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers[host]

    urls = [f"http://{host}:{server.server_port}/ok/1.jpg" for host in answers]
    store = fetch(tmp_path, urls, resolver=resolver)
    assert [reason(store, url) for url in urls] == ["download_private_address"] * 2
    assert not server.requests
    # One lookup a connection: nothing can change between the check and the use.
    assert sorted(asked) == sorted(answers)


def test_a_private_address_is_reached_only_on_demand(server: Server, tmp_path: Path) -> None:
    url = f"{server.url}/ok/1.jpg"
    assert reason(fetch(tmp_path / "a", [url]), url) == "download_private_address"
    assert not server.requests
    assert fetch(tmp_path / "b", [url], allow_private=True).read(url) == photo_bytes(1)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::808:808", True),
        ("2002:7f00:1::", False),
        ("not an address", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_a_unix_socket_is_never_opened() -> None:
    import asyncio

    with pytest.raises(AddressRefusedError):
        asyncio.run(GuardedBackend().connect_unix_socket("/var/run/docker.sock"))


def test_retry_after_is_obeyed_by_all_urls_of_the_host(server: Server, tmp_path: Path) -> None:
    urls = [f"{server.url}/later/1.jpg", *(f"{server.url}/ok/{k}.jpg" for k in range(20, 40))]
    store = fetch(tmp_path, urls, replace(LIMITS, per_host=1), allowed=[server.host])
    assert all(store.read(url) for url in urls)
    first = next(moment for moment, path in server.times if path == "/later/1.jpg")
    gaps = [moment - first for moment, _ in server.times if moment > first]
    assert min(gaps) >= 0.95


def test_retry_after_in_both_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_800_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    assert retry_after("7") == 7
    assert retry_after(formatdate(now + 60, usegmt=True)) == 60
    assert retry_after(formatdate(now - 60, usegmt=True)) == 0
    assert retry_after(None) is None
    assert retry_after("soon") is None


def test_no_more_than_the_limit_at_a_time_from_one_host(server: Server, tmp_path: Path) -> None:
    server.delay, server.together = 0.02, 3
    urls = [f"{server.url}/ok/{k}.jpg" for k in range(40)]
    fetch(tmp_path, urls, replace(LIMITS, connections=20, per_host=3), allowed=[server.host])
    assert server.most_inside == 3
    assert sum(server.requests.values()) == 40


def write_products(path: Path, server: Server, names: list[str]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["title", "imageurl", "product_code"])
        for number, name in enumerate(names):
            writer.writerow([f"Product {number}", f"{server.url}/{name}", "../../../evil" if number == 0 else f"p{number}"])


def test_rows_of_a_misbehaving_server_are_accepted_or_rejected_with_their_reason(server: Server, tmp_path: Path) -> None:
    names = ["ok/1.jpg", "ok/2.jpg", "notfound/3.jpg", "cut/4.jpg", "html/5.jpg", "ok/6.jpg", "to/http://127.0.0.1:9/x"]
    write_products(tmp_path / "products.csv", server, names)
    settings = IngestConfig(
        source=str(tmp_path / "products.csv"),
        output=tmp_path / "out",
        fields={"title": "title"},
        code="product_code",
        allow_hosts=(server.host,),
        processes=1,
        validation=0.34,
        csv=True,
    )
    info = ingest(settings)
    catalogue = Catalogue(tmp_path / "out")
    rows = [row for name in catalogue.info["splits"] for row in catalogue.split(name)]
    assert {row["title"] for row in rows} == {"Product 0", "Product 1", "Product 5"}
    rejected = {int(r["row"]): r["reason"] for r in csv.DictReader((tmp_path / "out" / "rejected.csv").open())}
    assert rejected == {
        3: "download_http_404",
        4: "picture_broken",
        5: "not_a_picture",
        7: "download_private_address",
    }
    assert info["counts"]["read"] == 7
    for row in rows:  # nothing from the data names a file
        image = Path(row["images"][0])
        assert image.parent.parent == tmp_path / "out" / "images" and len(image.stem) == 64
    published = list(csv.DictReader((tmp_path / "out" / "products.csv").open()))
    assert all(Path(row["local_image_path"]).read_bytes().startswith(b"\xff\xd8") for row in published)
    assert not (tmp_path / ".out.ingest").exists()


def test_a_killed_run_fetches_nothing_twice(server: Server, tmp_path: Path) -> None:
    server.delay = 0.02
    names = [f"ok/{k}.jpg" for k in range(60)] + ["notfound/61.jpg", "forever500/62.jpg"]
    write_products(tmp_path / "products.csv", server, names)
    command = [sys.executable, "-m", "data.ingest", str(tmp_path / "products.csv"), "-o", str(tmp_path / "out"), "--json"]
    command += ["--allow-hosts", server.host, "--connections", "4", "--per-host", "4", "--retries", "0", "--processes", "1"]
    stored = tmp_path / ".out.ingest" / "downloads"
    whole: set[str] = set()
    for target in (15, 40):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        while sum(server.requests.values()) < target and process.poll() is None:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.1)
        for name in names:
            from data.ingest.download_store import url_key

            key = url_key(f"{server.url}/{name}")
            if (stored / key[:2] / key).exists():
                whole.add(f"/{name}")
        counted = dict(server.requests)
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(whole) >= 10
    assert all(server.requests[path] == counted[path] for path in whole)
    info = json.loads(finished.stdout.splitlines()[-1])
    assert info["counts"]["kept"] == 60
    assert info["counts"]["rejected"] == {"download_http_404": 1, "download_http_500": 1}

    # The same catalogue as from a run that nobody stopped.
    untouched = IngestConfig(
        source=str(tmp_path / "products.csv"), output=tmp_path / "again", allow_hosts=(server.host,), processes=2, retries=0
    )
    assert ingest(untouched)["fingerprint"] == info["fingerprint"]
