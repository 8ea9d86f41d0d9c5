"""Options from edgemobile.toml and the environment, and what the Tab key offers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest


def _widths(ran) -> set[float]:
    assert ran.code == 0, ran.err
    return {row["width"] for row in json.loads(ran.out)}


def test_the_line_then_the_environment_then_the_file(edgemobile, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _widths(edgemobile("models", "--json")) == {1.0}
    Path("edgemobile.toml").write_text("[defaults.models]\nwidth = 0.75\njson = true\n")
    assert _widths(edgemobile("models")) == {0.75}
    monkeypatch.setenv("EDGEMOBILE_MODELS_WIDTH", "0.5")
    assert _widths(edgemobile("models")) == {0.5}
    assert _widths(edgemobile("models", "--width", "0.25")) == {0.25}


def test_another_file(edgemobile, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("other.toml").write_text("[defaults.models]\nwidth = 0.75\n")
    assert _widths(edgemobile("--config", "other.toml", "models", "--json")) == {0.75}
    monkeypatch.setenv("EDGEMOBILE_CONFIG", "other.toml")
    assert _widths(edgemobile("models", "--json")) == {0.75}
    monkeypatch.setenv("EDGEMOBILE_CONFIG", "none.toml")
    ran = edgemobile("models")
    assert (ran.code, "cannot read none.toml" in ran.err) == (2, True)


def test_lists_and_groups(edgemobile) -> None:
    """A list is a comma on the line, or the option again."""
    Path("edgemobile.toml").write_text(
        '[defaults.devices.list]\njson = true\n[defaults.export]\nto = ["onnx", "tflite"]\nkeep_float = ["a", "b"]\n'
        '[defaults.quantize]\nprint-recipe = true\nkeep-float = ["a.*", "b"]\n[defaults.bench]\nthreads = [1, 4]\n'
    )
    assert json.loads(edgemobile("devices", "list").out)[0]["name"] == "local"
    recipe = json.loads(edgemobile("quantize", "v3-small").out)
    assert [rule["pattern"] for rule in recipe["rules"]] == ["*", "a.*", "b"]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("[defaults.exprt]\nint8 = true", 1, "unknown command. Allowed: export, quantize"),
        ("[defaults.export]\nint4 = true", 2, "export does not have this option. Allowed: int8, fp16"),
        ("[defaults.export]\nint8 = 1", 2, "must be true or false; found 1"),
        ("[defaults.export]\n\nres = true", 3, "must be a number, text in quotes or a list"),
        ("[defaults.export]\nres = 'big'", 2, "'big' is not a valid integer"),
        ("[defaults.export]\nbackend = 'jax'", 2, "'jax' is not one of"),
        ("[defaults.bench]\ncooldown = 'hot'", 2, "'hot' is not a temperature"),
        ("[defaults]\nexport = 3", 2, "must be a table"),
        ("defaults = 3", 1, "must be a table"),
        ("[defaults.devices.add]\nname = 'pi'", 2, "add does not have this option"),
        ("[defaults", 1, "not TOML"),
        ("[defaults.export]\nint8 = true\n[default.export]\nint8 = true", 3, "unknown table. Allowed: [gate],"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(edgemobile, text: str, line: int, said: str) -> None:
    Path("edgemobile.toml").write_text(text)
    ran = edgemobile("models")
    assert ran.code == 2
    assert ran.err.startswith(f"error: edgemobile.toml:{line}: ")
    assert said in ran.err


def _commands(command: click.Command, variable: str = "EDGEMOBILE") -> Iterator[tuple[str, click.Command]]:
    """Every command, with what its variables begin with."""
    yield variable, command
    for name, below in getattr(command, "commands", {}).items():
        yield from _commands(below, f"{variable}_{name}".upper())


def test_every_option_has_the_variable_of_its_long_name() -> None:
    from edgemobile.cli import cli

    found = [
        (one.envvar, f"{variable}_{long[2:]}".upper().replace("-", "_"))
        for variable, command in _commands(cli)
        for one in command.params
        if isinstance(one, click.Option) and one.expose_value
        for long in one.opts
        if long.startswith("--")
    ]
    assert all(given == wanted for given, wanted in found)
    assert len({given for given, _ in found}) == len(found) > 100


@pytest.mark.parametrize(
    ("words", "variable", "value", "wanted"),
    [
        ("export v2", "EXPORT_TO", "tflite", {"formats": ("tflite",)}),
        ("export v2", "EXPORT_KEEP_FLOAT", "a b", {"keep_float": ("a", "b")}),
        ("quantize v2", "QUANTIZE_ADAROUND", "0", {"adaround": False}),
        ("inspect a.onnx", "INSPECT_DIFF", "b.onnx", {"other": Path("b.onnx")}),
        ("parity v2 a.onnx", "PARITY_MIN", "sqnr_db=40", {"minimums": "sqnr_db=40"}),
        ("bench a.onnx", "BENCH_JSON", "1", {"as_json": True}),
        ("bench a.onnx", "BENCH_SUSTAINED", "10m", {"sustained_s": 600}),
        ("bench a.onnx", "BENCH_COOLDOWN", "60C", {"cooldown_c": 60}),
        ("devices add pi ssh://pi", "DEVICES_ADD_SSH_CONFIG", "here", {"ssh_config": "here"}),
        ("devices setup pi", "DEVICES_SETUP_RUNTIME", "litert", {"runtimes": ("litert",)}),
        ("doctor", "DOCTOR_ON", "pi", {"on": "pi"}),
    ],
)
def test_a_variable_is_heard(
    words: str, variable: str, value: str, wanted: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgemobile.cli import cli

    monkeypatch.setenv(f"EDGEMOBILE_{variable}", value)
    command: click.Command = cli
    rest = words.split()
    while isinstance(command, click.Group):
        command = command.commands[rest.pop(0)]
    context = command.make_context(command.name, rest)
    assert wanted.items() <= context.params.items()


# ---- completion -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("edgemobile comp", ["compare", "completion"]),
        ("edgemobile export v3-l", ["v3-large", "v3-large-minimalistic"]),
        ("edgemobile models v4", ["v4-conv-small"]),
        ("edgemobile export v2 --recipe ada", ["adaround"]),
        ("edgemobile export v2 --target micro", ["microcontroller"]),
        ("edgemobile export v2 --to onnx,tf", ["onnx,tflite"]),
        ("edgemobile export v2 --weights bun", ["bundled"]),
        ("edgemobile quantize v2 --preprocess inc", ["inception"]),
        ("edgemobile parity v4-c", ["v4-conv-small"]),
        ("edgemobile parity v2 a.onnx --runtime onnxruntime,lit", ["onnxruntime,litert"]),
        ("edgemobile parity v2 a.onnx --min sq", ["sqnr_db="]),
        ("edgemobile bench a.onnx --runtime tf", ["tflite_runtime"]),
        ("edgemobile doctor --on p", ["pi5"]),
        ("edgemobile eval a.onnx --on lo", ["local"]),
        (
            "edgemobile bench a.onnx --on local,emulated:cortex-a7",
            ["local,emulated:cortex-a72", "local,emulated:cortex-a76"],
        ),
        ("edgemobile devices probe emulated:cortex-a5", ["emulated:cortex-a53"]),
        ("edgemobile devices remove emulated:cortex-a5", []),
        ("edgemobile devices remove p", ["pi5"]),
        ("edgemobile ci --only s", ["small", "smaller"]),
    ],
)
def test_the_tab_key(line: str, offered: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.shell_completion import BashComplete

    from edgemobile.cli import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEMOBILE_DEVICES", str(tmp_path / "devices.toml"))
    (tmp_path / "devices.toml").write_text('[pi5]\naddress = "ssh://pi5"\n')
    Path("edgemobile.toml").write_text("[models.small]\n[models.smaller]\n[models.large]\n")
    *args, incomplete = line.split()[1:]
    found = BashComplete(cli, {}, "edgemobile", "_EDGEMOBILE_COMPLETE").get_completions(args, incomplete)
    values = [item.value for item in found]
    assert set(offered) <= set(values)
    assert bool(offered) is bool(values)
    assert all(value.startswith(incomplete) for value in values)


@pytest.mark.parametrize(
    "line",
    ["eval", "predict", "parity v2", "inspect", "bench", "export v2 --weights", "eval a.onnx --baseline", "report"],
)
def test_the_tab_key_completes_files(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.shell_completion import BashComplete

    from edgemobile.cli import cli

    monkeypatch.chdir(tmp_path)
    (found,) = BashComplete(cli, {}, "edgemobile", "_EDGEMOBILE_COMPLETE").get_completions(line.split(), "mine/mo")
    assert (found.type, found.value) == ("file", "mine/mo")


def test_help_has_its_options_under_headings(edgemobile) -> None:
    """Each option once, below the heading that says what it is about."""
    text = edgemobile("export", "--help").out
    headings = re.findall(r"^(\w[\w ]*):$", text, flags=re.MULTILINE)
    assert headings == ["Files to write", "Model", "Images", "int8", "Output"]
    options = re.findall(r"^  (?:-\w, )?(--[\w-]+)", text, flags=re.MULTILINE)
    assert sorted(options) == sorted(set(options))
    assert text.index("Images:") < text.index("  --calib ") < text.index("int8:") < text.index("  --recipe")


def test_a_heading_of_no_option_is_an_error() -> None:
    from edgemobile.commands.sections import SectionedCommand

    with pytest.raises(ValueError, match="no option --gone"):
        SectionedCommand("made", sections={"Output": "--gone"})


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script(edgemobile, shell: str, tmp_path: Path) -> None:
    ran = edgemobile("completion", shell)
    assert ran.code == 0, ran.err
    assert "_EDGEMOBILE_COMPLETE" in ran.out
    if shutil.which(shell):
        script = tmp_path / "script"
        script.write_text(ran.out)
        subprocess.run([shell, "-n", str(script)], check=True)
    assert edgemobile("completion", "csh").code == 2


def test_bash_completes_for_real(tmp_path: Path) -> None:
    """The script in a real bash, asked what the Tab key would ask."""
    if not shutil.which("bash"):
        pytest.skip("no bash here")
    program = tmp_path / "edgemobile"
    program.write_text(f"#!{sys.executable}\nfrom edgemobile.cli import main\nmain()\n")
    program.chmod(0o755)
    asked = (
        f'PATH="{tmp_path}:$PATH"; eval "$(edgemobile completion bash)"; '
        "COMP_WORDS=(edgemobile models v4); COMP_CWORD=2; _edgemobile_completion edgemobile v4 models; "
        'echo "${COMPREPLY[@]}"'
    )
    ran = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "v4-conv-small" in ran.stdout
