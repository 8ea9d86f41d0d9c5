"""What a board says of itself, on made file trees of real boards and on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgemobile.devices.board import probe
from edgemobile.devices.host.records import Facts, probed
from edgemobile.errors import EdgemobileError
from edgemobile.util.strict_json import decode

PI5 = {
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp asimdhp crc32\nCPU implementer\t: 0x41\n"
    "CPU part\t: 0xd0b\n\nprocessor\t: 1\nFeatures\t: fp asimd asimddp asimdhp crc32\nCPU implementer\t: 0x41\n"
    "CPU part\t: 0xd0b\n\nRevision\t: c04170\nSerial\t\t: 10000000deadbeef\nModel\t\t: Raspberry Pi 5 Model B\n",
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
    "proc/meminfo": "MemTotal:        8245696 kB\nMemFree: 1 kB\nMemAvailable:    6000000 kB\n",
    "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "sys/class/thermal/thermal_zone0/type": "battery\n",
    "sys/class/thermal/thermal_zone0/temp": "20000\n",
    "sys/class/thermal/thermal_zone1/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "61250\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
    **{f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor": "ondemand\n" for cpu in (0, 1)},
    **{f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq": f"{2400000 - cpu}\n" for cpu in (0, 1)},
    **{f"sys/devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq": "2400000\n" for cpu in (0, 1)},
}


@pytest.fixture
def pi5(tmp_path: Path) -> Path:
    for name, text in PI5.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_pi_5(pi5: Path) -> None:
    found = probe.facts(pi5)
    assert found["model"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert found["soc"] == "brcm,bcm2712"
    assert found["cores"] == [{"cpu": cpu, "kind": "Cortex-A76", "max_mhz": 2400.0} for cpu in (0, 1)]
    assert found["features"] == ["dotprod", "fp16", "neon"]
    assert found["memory_mib"] == 8245696 / 1024
    assert found["os"] == "Debian GNU/Linux 12 (bookworm)"
    assert "deadbeef" not in json.dumps(found)
    assert decode(Facts, json.loads(json.dumps(found)), "facts").int8_isa == "dotprod"


def test_the_conditions_of_a_pi_5(pi5: Path) -> None:
    found = probe.conditions(pi5)
    assert found["governor"] == "ondemand"
    assert found["freq_mhz"] == [2400.0, 2399.999]
    assert found["temp_c"] == 61.25
    assert found["throttled"] == 0x50005
    assert found["available_mib"] == 6000000 / 1024


def test_what_is_not_told_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = probe.conditions(tmp_path)
    assert {found[name] for name in ("governor", "freq_mhz", "temp_c", "throttled", "available_mib")} == {None}
    assert probe.power_w(tmp_path) is None


@pytest.fixture
def vcgencmd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for a Pi's program: no machine here has one."""
    program = tmp_path / "bin" / "vcgencmd"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = get_throttled ]; then echo throttled=0x4; fi\n'
        'if [ "$1" = pmic_read_adc ]; then\n'
        'printf "   VDD_CORE_A current(7)=2.5A\\n   3V3_SYS_A current(1)=0.5A\\n"\n'
        'printf "   VDD_CORE_V volt(15)=0.8V\\n   3V3_SYS_V volt(9)=3.3V\\n   EXT5V_V volt(24)=5.1V\\n"; fi\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return program


def test_vcgencmd_says_what_sysfs_does_not(tmp_path: Path, vcgencmd: Path) -> None:
    assert probe.conditions(tmp_path)["throttled"] == 4
    assert probe.power_w(tmp_path) == pytest.approx(2.5 * 0.8 + 0.5 * 3.3)
    vcgencmd.write_text("#!/bin/sh\nexit 255\n")
    assert probe.conditions(tmp_path)["throttled"] is None


def test_an_ina_sensor_comes_first(tmp_path: Path) -> None:
    for index, name in enumerate(("cpu_thermal", "ina219")):
        folder = tmp_path / f"sys/class/hwmon/hwmon{index}"
        folder.mkdir(parents=True)
        (folder / "name").write_text(name)
        (folder / "power1_input").write_text("3250000")
    assert probe.power_w(tmp_path) == 3.25


def test_this_machine_by_the_command(repo_root: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "edgemobile.devices.board.probe"], capture_output=True, check=True)
    facts, conditions = probed(done.stdout)
    assert facts.cores
    assert facts.machine
    assert conditions.load1 is not None
    assert "numpy" in facts.runtimes


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (b"", "not valid JSON"),
        (b"{}", "missing conditions, facts"),
        (b'{"facts": NaN, "conditions": {}}', "NaN is not a number"),
        (b" " * 2**21, "larger than"),
    ],
)
def test_a_board_that_says_something_else(output: bytes, said: str) -> None:
    with pytest.raises(EdgemobileError, match=said):
        probed(output)
