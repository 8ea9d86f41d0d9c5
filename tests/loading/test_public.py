"""A public checkpoint arrives whole or not at all, and one line says what to do where it cannot. Loopback only."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from edgemobile.errors import EdgemobileError
from edgemobile.loading import public as module
from edgemobile.loading.checkpoint import build, load_weights
from edgemobile.loading.public import PUBLIC, SPECS, PublicWeights, fetch, public_weights
from edgemobile.models.arch import get_arch, scaled
from edgemobile.models.nets import build_net

CONTENT = bytes(range(256)) * 5000


class _Server(http.server.ThreadingHTTPServer):
    """Serves `files`, and says what was asked for. `cut` bytes in, a response breaks off."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.cut: int | None = None
        self.knows_ranges = True
        self.ranges: list[str | None] = []


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.ranges.append(asked)
        content = self.server.files.get(self.path.lstrip("/"))
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.knows_ranges else 0
        if content is None or start >= len(content):
            self.send_error(404 if content is None else 416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : self.server.cut])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    with _Server() as server:
        threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
        monkeypatch.setattr(module, "_HOST", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()


@pytest.fixture
def row(server: _Server) -> PublicWeights:
    row = PublicWeights("v2", 1, f"net-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth", 256)
    server.files[row.file] = CONTENT
    return row


def test_a_file_is_fetched_once(server: _Server, row: PublicWeights, tmp_path: Path) -> None:
    heard: list[tuple[int, int | None]] = []
    for _ in range(2):
        path = fetch(row, tmp_path / "new", on_progress=lambda done, total: heard.append((done, total)))
    assert path == tmp_path / "new" / row.file
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None]
    assert heard[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    assert [p.name for p in path.parent.iterdir()] == [row.file]


def test_a_cut_download_goes_on_where_it_stopped(server: _Server, row: PublicWeights, tmp_path: Path) -> None:
    server.cut = 400_000
    with pytest.raises(EdgemobileError, match=r"closed at 400,000 of 1,280,000 bytes\)\. Run again to resume"):
        fetch(row, tmp_path)
    assert not (tmp_path / row.file).exists()
    server.cut = None
    heard: list[int] = []
    assert fetch(row, tmp_path, on_progress=lambda done, total: heard.append(done)).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=400000-"]
    assert heard[0] > 400_000


def test_a_server_without_ranges_starts_again(server: _Server, row: PublicWeights, tmp_path: Path) -> None:
    server.knows_ranges = False
    (tmp_path / f"{row.file}.partial").write_bytes(CONTENT[:1000])
    assert fetch(row, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("extra", [b"", b"more"])
def test_a_partial_that_is_all_there_is_checked(
    extra: bytes, server: _Server, row: PublicWeights, tmp_path: Path
) -> None:
    partial = tmp_path / f"{row.file}.partial"
    partial.write_bytes(CONTENT + extra)
    if extra:
        with pytest.raises(EdgemobileError, match="it was deleted; run again"):
            fetch(row, tmp_path)
        assert not partial.exists()
    assert fetch(row, tmp_path).read_bytes() == CONTENT


def test_another_file_under_that_name_is_refused(server: _Server, row: PublicWeights, tmp_path: Path) -> None:
    server.files[row.file] = CONTENT[::-1]
    with pytest.raises(
        EdgemobileError, match=rf"its sha256 starts with \w{{8}}, expected {row.sha256_start}; it was deleted"
    ):
        fetch(row, tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / row.file).write_bytes(b"other")
    with pytest.raises(EdgemobileError, match="remove it, and it will be downloaded again"):
        fetch(row, tmp_path)


def test_what_the_server_does_not_have_is_said(server: _Server, row: PublicWeights, tmp_path: Path) -> None:
    server.files.clear()
    with pytest.raises(EdgemobileError, match=rf"the server answered 404 .* or put {row.file} into {tmp_path}"):
        fetch(row, tmp_path)


def test_without_a_network_one_line_says_what_to_put_where(
    row: PublicWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HOST", "http://127.0.0.1:9")
    with pytest.raises(EdgemobileError, match=rf"refused.*put {row.file} into {tmp_path} yourself") as caught:
        fetch(row, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_said(row: PublicWeights, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EdgemobileError, match="cannot download"):
        fetch(row, tmp_path / "file")


@pytest.mark.parametrize(
    ("model", "spec", "file"),
    [
        ("v2", "imagenet", "mobilenet_v2-7ebf99e0.pth"),
        ("v2", "imagenet-v1", "mobilenet_v2-b0353104.pth"),
        ("v3-large", "imagenet", "mobilenet_v3_large-5c1a4163.pth"),
        ("v3-large", "imagenet-v1", "mobilenet_v3_large-8738ca79.pth"),
        ("v3-small", "imagenet", "mobilenet_v3_small-047dcff4.pth"),
    ],
)
def test_the_latest_recipe_is_taken(model: str, spec: str, file: str) -> None:
    assert public_weights(model, spec).file == file


def test_what_is_not_public_says_what_is() -> None:
    for model, spec in (("v1", "imagenet"), ("v3-small", "imagenet-v2")):
        with pytest.raises(EdgemobileError, match=rf"no public {spec} weights of {model}.*v2 \(imagenet-v1\)"):
            public_weights(model, spec)


def test_rows_name_their_hash() -> None:
    assert all(len(row.sha256_start) == 8 and int(row.sha256_start, 16) for row in PUBLIC)
    assert {row.version for row in PUBLIC} == {version for version in SPECS.values() if version}


def test_weights_imagenet_end_to_end(server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    arch = scaled(get_arch("v2"), width=0.25)
    torch.save(build_net(arch).state_dict(), tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    row = PublicWeights("v2", 3, f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth", 232)
    server.files[row.file] = content
    monkeypatch.setattr(module, "PUBLIC", (row,))
    checkpoint = load_weights("imagenet", get_arch("v2"))
    assert (checkpoint.classes, checkpoint.labels, checkpoint.preprocess) == (1000, None, row.preprocess)
    assert checkpoint.source == f"torchvision's ImageNet {row.file}"
    assert checkpoint.notes == ()
    built, _ = build(get_arch("v2"), checkpoint)
    assert (built.width, built.input_px) == (0.25, 224)
    assert (tmp_path / "hub" / "checkpoints" / row.file).is_file()


def test_a_response_without_an_end_is_given_up(
    row: PublicWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK_BYTES", 1000)
    monkeypatch.setattr(module, "_MOST_BYTES", 5000)
    with pytest.raises(EdgemobileError, match=r"it sends more than 5,000 bytes"):
        fetch(row, tmp_path)
    assert list(tmp_path.iterdir()) == []
