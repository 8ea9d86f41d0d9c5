"""What a saved program may hold: no text in it reaches torch that torch would evaluate, import, or write a file for."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgemobile.errors import EdgemobileError, Unsupported
from edgemobile.loading.model import load_model
from edgemobile.loading.own_model import load_program

Change = Callable[[dict[str, Any]], object]


class _Net(nn.Module):
    """A small classifier; a constant of it is computed, and its batch may be dynamic."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 5)
        self.register_buffer("ramp", torch.arange(8.0).reshape(1, 8, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu6(self.norm(self.conv(x))) * torch.sqrt(self.ramp + 1)
        return self.fc(x.mean([2, 3]).view(x.shape[0], -1))


class _SpatialNet(nn.Module):
    """Its sizes, where they are dynamic, are long expressions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = (
            nn.Sequential(*(nn.Conv2d(3, 3, 3, stride=2, padding=1) for _ in range(5))),
            nn.Linear(3, 5),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(nn.functional.max_pool2d(self.stem(x), 2, stride=1).mean([2, 3]))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "net.pt2"
    torch.manual_seed(0)
    torch.export.save(torch.export.export(_Net().eval(), (torch.zeros(1, 3, 8, 8),)), path)
    return path


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[Path]:
    """A file that only what runs on loading makes."""
    path = tmp_path / "it-ran"
    yield path
    assert not path.exists(), "code in the file ran"


def _changed(saved: Path, to: Path, change: Change, member: str = "models/model.json") -> Path:
    """A copy of `saved` with `change` made to one of its JSON members."""
    changes = 0
    with zipfile.ZipFile(saved) as good, zipfile.ZipFile(to, "w") as bad:
        for info in good.infolist():
            data = good.read(info)
            if info.filename.endswith(member):
                value = json.loads(data)
                change(value)
                data, changes = json.dumps(value).encode(), changes + 1
            bad.writestr(info.filename, data)
    assert changes == 1
    return to


def _run(path: Path) -> None:
    """What every command does with a program: load it, trace its module, run it."""
    model = load_model(str(path))
    model.net(torch.zeros(1, 3, 8, 8))


def _graph(program: dict[str, Any]) -> dict[str, Any]:
    return program["graph_module"]["graph"]


def _size(text: str) -> Change:
    def change(program: dict[str, Any]) -> None:
        sizes = next(iter(_graph(program)["tensor_values"].values()))["sizes"]
        sizes[0] = {"as_expr": {"expr_str": text, "hint": {"as_int": 2}}}

    return change


def _node(target: str, **arguments: Any) -> Change:
    """Replaces the last node by a call of `target`."""

    def change(program: dict[str, Any]) -> None:
        node = _graph(program)["nodes"][-1]
        node["target"] = target
        node["inputs"] = [{"name": name, "arg": value, "kind": 1} for name, value in arguments.items()]

    return change


def _renamed(new: str, old: str = "x") -> Change:
    """Gives the tensor called `old` another name wherever it stands."""

    def change(program: dict[str, Any]) -> None:
        text = json.dumps(program).replace(f'"{old}"', json.dumps(new))
        program.clear()
        program.update(json.loads(text))

    return change


def _spec(node: dict[str, Any]) -> Change:
    def change(program: dict[str, Any]) -> None:
        program["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = json.dumps([1, node])

    return change


def _python(trace: Path) -> str:
    return f"__import__('os').system('touch {trace}')"


# Each of these made the file when torch loaded, or ran, the program.
_RUNS_CODE: dict[str, Callable[[Path], Change]] = {
    "the size of a tensor": lambda trace: _size(_python(trace)),
    "a call below a function that is known": lambda trace: _size(f"Max({_python(trace)}, 1)"),
    "a name of a symbol": lambda trace: _size(f"Symbol({_python(trace)!r} + '')"),
    "a size of a scalar": lambda trace: (
        lambda program: _graph(program)["sym_int_values"].update(
            n={"as_expr": {"expr_str": _python(trace), "hint": None}}
        )
    ),
    "an op that is a function of a module of torch": lambda trace: _node(
        "torch.os.system", command={"as_string": f"touch {trace}"}
    ),
    "an op that maps a file": lambda trace: _node(
        "torch.ops.aten.from_file.default",
        filename={"as_string": str(trace)},
        shared={"as_bool": True},
        size={"as_int": 5},
    ),
    "the name of an input": lambda trace: _renamed(f"x={_python(trace)}"),
    "the name of a result": lambda trace: _renamed(f"linear = {_python(trace)}; linear", "linear"),
    "a guard": lambda trace: lambda program: program.update(guards_code=[_python(trace)]),
    "what a result is packed in": lambda trace: _spec(
        {
            "type": "collections.defaultdict",
            "context": {
                "default_factory_module": "it_runs_when_imported",
                "default_factory_name": "x",
                "dict_context": ["a"],
            },
            "children_spec": [{"type": None, "context": None, "children_spec": []}],
        }
    ),
    "a key of a result": lambda trace: _spec(
        {
            "type": "builtins.dict",
            "context": '[{"__enum__": true, "fqn": "it_runs_when_imported:x", "name": "y"}]',
            "children_spec": [{"type": None, "context": None, "children_spec": []}],
        }
    ),
}


@pytest.mark.parametrize("where", _RUNS_CODE)
def test_no_text_in_a_program_runs(
    where: str, saved: Path, tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "it_runs_when_imported.py").write_text(f"open({str(trace)!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    path = _changed(saved, tmp_path / "bad.pt2", _RUNS_CODE[where](trace))
    # A guard is left behind; everything else is refused.
    if where == "a guard":
        _run(path)
        return
    with pytest.raises(EdgemobileError) as caught:
        _run(path)
    assert "\n" not in str(caught.value)
    assert "bad.pt2" in str(caught.value)


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(kind of place, container, key or index) of every text in a JSON value, and of every key."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        below = f"{path}/{'*' if isinstance(key, int) else key}"
        if isinstance(item, str):
            yield below, value, key
        yield from _texts(item, below)


def test_no_text_of_any_field_runs(saved: Path, tmp_path: Path, trace: Path) -> None:
    """Each kind of text in each JSON member, one after the other, becomes code; whether it is refused or not."""
    for member in ("models/model.json", "weights_config.json"):
        with zipfile.ZipFile(saved) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(member))
            kinds = {kind: None for kind, _, _ in _texts(json.loads(archive.read(name)))}
        assert kinds
        for kind in kinds:

            def change(value: dict[str, Any], kind: str = kind) -> None:
                _, container, key = next(found for found in _texts(value) if found[0] == kind)
                container[key] = _python(trace)

            _changed(saved, tmp_path / "bad.pt2", change, member)
            with suppress(EdgemobileError):
                _run(tmp_path / "bad.pt2")
            assert not trace.exists(), kind


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_size("9**9**9**9"), "not an expression of symbols, numbers and known functions"),
        (_size("Pow(Pow(Symbol('s0'), 16), 16)"), "not an expression of symbols, numbers and known functions"),
        (_size("Symbol('s0').__class__"), "not an expression of symbols, numbers and known functions"),
        (_size("factorial(1000000)"), "not an expression of symbols, numbers and known functions"),
        (_size("s0 if s0 else lambda: 1"), "not an expression of symbols, numbers and known functions"),
        (_size("(" * 300 + "s0" + ")" * 300), "not an expression of a size"),
        (_size("s0+" * 20_000 + "s0"), "not an expression of a size"),
        (_size("s0+" * 5_000 + "s0"), "not an expression of"),
        (_node("torch.ops.aten.from_file.default"), "from_file.default', at 'fc', is not known to only compute"),
        (_node("torch.ops.mylib.gelu.default"), "mylib.gelu.default"),
        (_node("torch.ops.aten._native_batch_norm_legit_no_training.default"), "save it before run_decompositions"),
        (_node("torch.ops.aten.add.out"), "aten.add.out"),
        (_node("torch.ops.higher_order.cond"), "higher_order.cond"),
        (_node("torch.hub.load"), "torch.hub.load"),
        (_node("torch.ops.aten.relu.default", x={"as_custom_obj": {"name": "a", "class_fqn": "b"}}), "as_custom_obj"),
        (_renamed("x.y"), "'x.y' is not the name of a tensor"),
        (lambda program: program.update(a=[[[]]] * 2), None),
        (lambda program: program.update(a=json.loads("[" * 100 + "]" * 100)), "nested more than 60 deep"),
        (lambda program: program.update(a=10**400), "numbers have at most 64 bits"),
        (lambda program: program.pop("graph_module"), "it is not a program of torch.export"),
        (lambda program: _graph(program).update(nodes=3), "it does not have a list of nodes"),
    ],
)
def test_what_no_program_says_is_refused(change: Change, says: str | None, saved: Path, tmp_path: Path) -> None:
    path = _changed(saved, tmp_path / "bad.pt2", change)
    if says is None:
        _run(path)
        return
    with pytest.raises(EdgemobileError, match=says) as caught:
        load_program(path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda weights: weights["config"]["conv.weight"].update(use_pickle=True), "conv.weight is pickled"),
        (lambda weights: weights["config"]["conv.weight"].update(path_name="weight_99"), "is not in any member"),
        (
            lambda weights: weights["config"]["conv.weight"]["tensor_meta"].update(storage_offset={"as_int": 10**6}),
            "read",
        ),
    ],
)
def test_weights_that_are_none_are_refused(change: Change, says: str, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgemobileError, match=says):
        load_program(_changed(saved, tmp_path / "bad.pt2", change, "weights_config.json"))


def _rewritten(saved: Path, to: Path, compression: int = zipfile.ZIP_STORED, **added: bytes) -> Path:
    with zipfile.ZipFile(saved) as good, zipfile.ZipFile(to, "w", compression) as bad:
        for info in good.infolist():
            bad.writestr(info.filename, good.read(info))
        for name, data in added.items():
            bad.writestr(f"net/{name}", data)
    return to


def test_members_that_torch_does_not_write_are_refused(saved: Path, tmp_path: Path) -> None:
    for name in ("models/other.json", "data/weights/evil.so"):
        with pytest.raises(EdgemobileError, match=f"contains 'net/{name}', which torch.export.save does not write"):
            load_program(_rewritten(saved, tmp_path / "bad.pt2", **{name: b"{}"}))
    with pytest.warns(UserWarning, match="Duplicate"), pytest.raises(EdgemobileError, match=r"model\.json twice"):
        load_program(_rewritten(saved, tmp_path / "bad.pt2", **{"models/model.json": b"{}"}))
    bomb = _rewritten(saved, tmp_path / "bad.pt2", zipfile.ZIP_DEFLATED, **{"extra/zeros": bytes(10**6)})
    with pytest.raises(EdgemobileError, match="unpacks to more than its own size"):
        load_program(bomb)


def test_files_beside_a_program_are_no_part_of_it(saved: Path, tmp_path: Path) -> None:
    _run(_rewritten(saved, tmp_path / "more.pt2", **{"extra/notes.txt": b"__import__('os')"}))


def test_an_example_that_names_code_is_refused(tmp_path: Path, trace: Path) -> None:
    """The name of a keyword of the example stands in the text of a guard, which torch compiles."""

    class Keyword(nn.Module):
        def forward(self, **kwargs: torch.Tensor) -> torch.Tensor:
            return next(iter(kwargs.values())).mean([2, 3])

    name = f'x"); {_python(trace)} #'
    try:
        torch.export.save(torch.export.export(Keyword(), (), {name: torch.zeros(1, 3, 8, 8)}), tmp_path / "bad.pt2")
    except Exception:
        pytest.skip("torch saves no such program")
    with pytest.raises(EdgemobileError, match=r"bad\.pt2"):
        load_program(tmp_path / "bad.pt2")


# ---- programs as torch saves them -----------------------------------------------------------------------------------

_DYNAMIC = {
    "batch of a range": (_Net, {0: torch.export.Dim("batch", min=1, max=64)}),
    "batch": (_Net, {0: torch.export.Dim.AUTO}),
    "height and width": (_Net, {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}),
    "all, through strides": (
        _SpatialNet,
        {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},
    ),
}


@pytest.mark.parametrize("case", _DYNAMIC)
def test_a_program_of_dynamic_shapes_loads(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, dynamic = _DYNAMIC[case]
    net, images = make().eval(), torch.randn(2, 3, 96, 64)
    torch.export.save(torch.export.export(net, (images,), dynamic_shapes=(dynamic,)), tmp_path / "net.pt2")
    program, _ = load_program(tmp_path / "net.pt2")
    theirs = torch.export.load(tmp_path / "net.pt2")
    ranges = [
        {str(symbol): str(bounds) for symbol, bounds in one.range_constraints.items()} for one in (program, theirs)
    ]
    assert ranges[0] == ranges[1] != {}
    assert torch.equal(program.module()(images), net(images))
    with pytest.raises(Unsupported, match="traced with dynamic shapes"):
        load_model(str(tmp_path / "net.pt2"))


def test_a_program_of_a_fixed_batch_refuses_another(saved: Path) -> None:
    """Without its example torch would not check it."""
    with pytest.raises(AssertionError, match="Guard failed"):
        load_program(saved)[0].module()(torch.zeros(2, 3, 8, 8))


def test_a_program_as_older_versions_saved_it(saved: Path, tmp_path: Path) -> None:
    from torch._export.serde.schema import SCHEMA_VERSION
    from torch._export.serde.serialize import serialize

    net = _Net().eval()
    parts = serialize(torch.export.export(net, (torch.zeros(1, 3, 8, 8),)))
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr("version", ".".join(map(str, SCHEMA_VERSION)))
        archive.writestr("serialized_exported_program.json", parts.exported_program)
        archive.writestr("serialized_state_dict.pt", parts.state_dict)
        archive.writestr("serialized_constants.pt", parts.constants)
        archive.writestr("serialized_example_inputs.pt", parts.example_inputs)
    images = torch.randn(1, 3, 8, 8)
    assert torch.equal(load_program(tmp_path / "old.pt2")[0].module()(images), net(images))


def test_ops_without_a_lowering_run_as_a_reference(tmp_path: Path) -> None:
    """`eval` takes them; what `export` says of them names the op and its place."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.LazyLinear(5), nn.Softmax(dim=1)).eval()
    net(torch.zeros(1, 3, 8, 8))
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 8, 8),)), tmp_path / "net.pt2")
    model = load_model(str(tmp_path / "net.pt2"))
    images = torch.randn(1, 3, 8, 8)
    assert torch.equal(model.net(images), net(images))
