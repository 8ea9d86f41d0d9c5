"""Turns an untrusted .pt2 into an archive that is safe for torch.export.load: data, never code.

torch never reads the file itself. It loads a new archive with the members that torch.export.save writes. Their JSON is
parsed strictly, checked text by text (program_text.py) and rewritten without the parts that no model needs.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Mapping
from typing import Any

from edgemobile.errors import EdgemobileError
from edgemobile.loading.program_text import check_texts
from edgemobile.util.strict_json import parse

__all__ = ["checked_archive"]

_MAX_JSON_BYTES = 64 * 2**20
_MAX_MEMBERS, _MAX_EXAMPLES = 20_000, 1000
_ADVICE = "Save the plain program: torch.export.save(torch.export.export(net, (example,)), FILE)"
# What torch.export.load would run: compiled libraries and pickled objects.
_RUNNABLE = re.compile(r"data/aotinductor|(^|/)(custom_obj_|opaque_obj_)")
# What torch.export.save writes, up to 2.7 and later, below the folder with the archive's name.
_MEMBERS = re.compile(
    r"models/model\.json"
    r"|data/weights/(model_weights_config\.json|weight_\d+|model\.pt)"
    r"|data/constants/(model_constants_config\.json|tensor_\d+|model\.pt)"
    r"|data/sample_inputs/model\.pt"
    r"|archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)"
    r"|serialized_exported_program\.json|serialized_(state_dict|constants)\.(pt|json)|serialized_example_inputs\.pt"
)
# Extra files of the user: nothing reads them.
_BESIDE = re.compile(r"extra/.*|extra_files/.*")
_PROGRAMS = ("models/model.json", "serialized_exported_program.json")
_EXAMPLES = ("data/sample_inputs/model.pt", "serialized_example_inputs.pt")


def checked_archive(data: bytes, name: str) -> io.BytesIO:
    """Convert the bytes of a .pt2 called `name` to an archive that is safe to load.

    Raises EdgemobileError for anything that would run code, that torch.export.save does not write, or that is damaged.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = _members(archive, len(data), name)
    try:
        checked = {member: _checked(member, content, members) for member, content in members.items()}
    except ValueError as error:
        raise EdgemobileError(f"{name} is refused: {error}. {_ADVICE}") from error
    return _archive(checked)


def _members(archive: zipfile.ZipFile, size: int, name: str) -> dict[str, bytes]:
    """The members that torch reads, by their names below their folder."""
    infos = [info for info in archive.infolist() if not info.is_dir()]
    legacy = any(info.filename in _PROGRAMS for info in infos)
    if len(infos) > _MAX_MEMBERS or sum(info.file_size for info in infos) > size:
        raise EdgemobileError(f"{name} unpacks to more than its own size; torch.export.save does not compress")
    members: dict[str, bytes] = {}
    for info in infos:
        member = info.filename if legacy else info.filename.partition("/")[2]
        if _RUNNABLE.search(member):
            raise EdgemobileError(f"{name} contains {member}, which would run code when loaded. {_ADVICE}")
        if member in members or not (_MEMBERS.fullmatch(member) or _BESIDE.fullmatch(member)):
            found = f"{member} twice" if member in members else repr(info.filename[:200])
            raise EdgemobileError(f"{name} contains {found}, which torch.export.save does not write. {_ADVICE}")
        if _MEMBERS.fullmatch(member):
            members[member] = archive.read(info)
    return members


def _checked(member: str, content: bytes, members: Mapping[str, bytes]) -> bytes:
    """The content of a member that torch gets. Raises ValueError, EdgemobileError."""
    if member in _EXAMPLES and content:
        _check_example(content)
    if not member.endswith(".json") or member in ("serialized_state_dict.json", "serialized_constants.json"):
        return content
    value = parse(content, member, _MAX_JSON_BYTES)
    if member in _PROGRAMS:
        value = _without_remarks(value)
    check_texts(value)
    if isinstance(value, dict) and "config" in value:
        _check_payloads(value["config"], member.rpartition("/")[0], members)
    return json.dumps(value).encode()


def _without_remarks(program: Any) -> Any:
    """A program without the parts that only a debugger or a tracer reads.

    Guards are Python code that torch runs on each input. They check dynamic sizes, which are refused anyway.
    """
    if not isinstance(program, dict) or not isinstance(module := program.get("graph_module"), dict):
        raise ValueError("it is not a program of torch.export")
    nodes = module["graph"].get("nodes") if isinstance(module.get("graph"), dict) else None
    if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes):
        raise ValueError("it does not have a list of nodes")
    for node in nodes:
        stack = node.get("metadata", {}).get("nn_module_stack") if isinstance(node.get("metadata", {}), dict) else None
        node["metadata"] = {} if stack is None else {"nn_module_stack": stack}
    module |= {"metadata": {}, "treespec_namedtuple_fields": {}}
    program["guards_code"] = []
    return program


def _check_payloads(config: Any, folder: str, members: Mapping[str, bytes]) -> None:
    """Weights and constants must be plain tensors, each stored in a member or in part of one."""
    for key, payload in config.items() if isinstance(config, dict) else ():
        if not isinstance(payload, dict) or payload.get("use_pickle"):
            raise ValueError(f"{key} is pickled, so it is not a tensor")
        content = members.get(f"{folder}/{payload.get('path_name')}")
        if content is None:
            raise ValueError(f"{key} is not in any member of the file")
        if not content and _elements(payload):
            raise ValueError(f"{key} has a shape but no values")


def _elements(payload: Mapping[str, Any]) -> int:
    meta = payload.get("tensor_meta")
    sizes = meta.get("sizes") if isinstance(meta, dict) else None
    if not isinstance(sizes, list):
        return 1
    known = [size.get("as_int") for size in sizes if isinstance(size, dict)]
    return math.prod(size for size in known if isinstance(size, int))


def _check_example(content: bytes) -> None:
    """Check the names of inputs, which torch puts into code. Raises UnpicklingError for anything but plain data."""
    import torch

    example = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    pending = [example]
    # A pickle may contain itself.
    for _ in range(_MAX_EXAMPLES):
        if not pending:
            return
        one = pending.pop()
        if isinstance(one, dict):
            if odd := [key for key in one if not (isinstance(key, str) and key.isidentifier())]:
                raise ValueError(f"its example inputs have the name {str(odd[0])[:80]!r}")
            pending += one.values()
        elif isinstance(one, list | tuple):
            pending += one
    raise ValueError("its example inputs contain themselves")


def _archive(members: Mapping[str, bytes]) -> io.BytesIO:
    legacy = any(member in members for member in _PROGRAMS[1:])
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for member, content in members.items():
            archive.writestr(member if legacy else f"program/{member}", content)
    file.seek(0)
    return file
