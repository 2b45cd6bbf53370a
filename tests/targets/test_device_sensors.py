"""Sensors on recorded forms: every line and dump here is synthetic, in the form that the named release prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tests.targets.device_path  # noqa: F401

from board import android, basics, sensors, settings, tegrastats, trtexec  # isort: skip

SYNTHETIC = {
    "nano-r32": (
        "RAM 1324/3964MB (lfb 318x4MB) SWAP 0/1982MB (cached 0MB) IRAM 0/252kB(lfb 252kB) CPU [12%@1479,off,5%@1479,0%@102] "
        "EMC_FREQ 4%@1600 GR3D_FREQ 39% PLL@31C CPU@34.5C PMIC@100C GPU@32C AO@39.5C thermal@33C "
        "POM_5V_IN 2532/2698 POM_5V_GPU 120/98 POM_5V_CPU 480/510"
    ),
    "xavier-r32": (
        "RAM 3021/31919MB (lfb 6742x4MB) SWAP 0/15960MB (cached 0MB) CPU [3%@1190,2%@1190,off,off] EMC_FREQ 0%@2133 GR3D_FREQ 0%@0 "
        "AO@36C GPU@-256C Tboard@37C Tdiode@39.25C CPU@38.5C GPU 1084/1080 CPU 542/540 SOC 1930/1920 CV 0/0 VDDRQ 193/193 SYS5V 2161/2150"
    ),
    "xavier-nx-r35": (
        "05-13-2024 12:00:01 RAM 2201/6853MB (lfb 790x4MB) SWAP 12/3426MB (cached 0MB) CPU [1%@1190,2%@1190] EMC_FREQ 1%@1600 "
        "GR3D_FREQ 98%@1109 VIC_FREQ 0%@115 APE 150 CPU@43.5C GPU@42.5C VDD_IN 9871mW/9500mW VDD_CPU_GPU_CV 5200mW/5000mW "
        "VDD_SOC 1400mW/1400mW"
    ),
    "orin-r36": (
        "01-02-2025 08:00:00 RAM 6254/62841MB (lfb 3x4MB) SWAP 0/31420MB (cached 0MB) CPU [0%@2201,off,7%@729] EMC_FREQ 0%@2133 "
        "GR3D_FREQ 15%@[305,1300] NVENC off cpu@49.406C tboard@37C soc2@45.5C gpu@-256C VDD_GPU_SOC 2399mW/2399mW VDD_CPU_CV 799mW/799mW "
        "VIN_SYS_5V0 4219mW/4219mW VDDQ_VDD2_1V8AO 401mW/401mW"
    ),
}


def test_tegrastats_of_a_nano():
    found = tegrastats.parse_line(SYNTHETIC["nano-r32"])
    assert (found["ram_mb"], found["swap_mb"]) == (1324, 0)
    assert found["cpu"] == [{"load": 12, "mhz": 1479}, None, {"load": 5, "mhz": 1479}, {"load": 0, "mhz": 102}]
    assert found["gpu"] == {"load": 39, "mhz": None} and found["emc"] == {"load": 4, "mhz": [1600]}
    assert found["celsius"] == {"PLL": 31, "CPU": 34.5, "PMIC": 100, "GPU": 32, "AO": 39.5, "thermal": 33}
    assert found["rails_mw"] == {"POM_5V_IN": 2532, "POM_5V_GPU": 120, "POM_5V_CPU": 480}
    assert tegrastats.total_mw(found["rails_mw"]) == 2532


def test_tegrastats_of_a_xavier():
    found = tegrastats.parse_line(SYNTHETIC["xavier-r32"])
    assert found["rails_mw"] == {"GPU": 1084, "CPU": 542, "SOC": 1930, "CV": 0, "VDDRQ": 193, "SYS5V": 2161}
    assert tegrastats.total_mw(found["rails_mw"]) == 5910
    assert "GPU" not in found["celsius"], "a sensor that is off"
    assert found["celsius"]["Tdiode"] == 39.25 and found["gpu"] == {"load": 0, "mhz": [0]}


def test_tegrastats_of_a_xavier_nx():
    found = tegrastats.parse_line(SYNTHETIC["xavier-nx-r35"])
    assert found["rails_mw"] == {"VDD_IN": 9871, "VDD_CPU_GPU_CV": 5200, "VDD_SOC": 1400}
    assert (tegrastats.total_mw(found["rails_mw"]), found["gpu"], found["swap_mb"]) == (9871, {"load": 98, "mhz": [1109]}, 12)


def test_tegrastats_of_an_orin():
    found = tegrastats.parse_line(SYNTHETIC["orin-r36"])
    assert found["gpu"] == {"load": 15, "mhz": [305, 1300]}
    assert found["celsius"] == {"cpu": 49.406, "tboard": 37, "soc2": 45.5}
    assert tegrastats.total_mw(found["rails_mw"]) == 2399 + 799 + 4219 + 401


def test_a_log_and_its_mean_power():
    lines = tegrastats.parse("\n".join(["nonsense", SYNTHETIC["xavier-nx-r35"], SYNTHETIC["xavier-nx-r35"].replace("9871", "9771")]))
    assert len(lines) == 2
    assert tegrastats.mean_rails(lines)["total"] == tegrastats.mean_rails(lines)["VDD_IN"] == 9821
    assert tegrastats.mean_rails([]) == {}


def test_tegrastats_is_recorded_beside_a_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script = tmp_path / "tegrastats"
    script.write_text(f"#!/bin/sh\nwhile :; do echo '{SYNTHETIC['orin-r36']}'; sleep 0.02; done\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    import time

    with tegrastats.Recorder() as log:
        time.sleep(0.5)
    assert len(log.lines) > 1 and log.lines[0]["ram_mb"] == 6254


TIMES = [
    {"startEnqMs": 0, "endEnqMs": 1, "h2dMs": 0.5, "computeMs": 2.25, "d2hMs": 0.25, "latencyMs": 3.0},
    {"startEnqMs": 3, "endEnqMs": 4, "h2dMs": 0.5, "computeMs": 2.5, "d2hMs": 0.25, "latencyMs": 3.25},
]


def test_trtexec_s_times_and_profile():
    assert trtexec.parse_times(json.dumps(TIMES)) == {"compute": [2.25, 2.5], "latency": [3.0, 3.25]}
    rows = [{"name": n, "timeMs": 10 * t, "averageMs": t, "medianMs": t, "percentage": p} for n, t, p in (("a", 1, 25), ("b", 3, 75))]
    profile = [{"count": 10}, *rows]
    assert trtexec.parse_profile(json.dumps(profile)) == {"runs": 10, "rows": [{"name": "a", "ms": 1.0}, {"name": "b", "ms": 3.0}]}
    assert trtexec.parse_profile("") == trtexec.parse_profile("[]") == trtexec.parse_profile('[{"count": 1}]') == {}


@pytest.mark.parametrize(("text", "words"), [("", "no times that can"), ("[]", "give more --seconds"), ('[{"a": 1}]', "no times that can")])
def test_what_is_no_trtexec_json(text: str, words: str):
    with pytest.raises(basics.DeviceError, match=words):
        trtexec.parse_times(text)


THERMAL = """\
IsStatusOverride: false
Thermal Status: 2
Cached temperatures:
\tTemperature{mValue=30.1, mType=0, mName=CPU, mStatus=0}
Current temperatures from HAL:
\tTemperature{mValue=41.5, mType=3, mName=skin, mStatus=2}
\tTemperature{mValue=-12.0, mType=0, mName=CPU, mStatus=0}
Current cooling devices from HAL:
\tCoolingDevice{mValue=3, mType=2, mName=cpu}
"""


def test_android_s_thermal_state():
    assert android.parse_thermal(THERMAL) == {"status": "moderate", "celsius": {"skin": 41.5, "CPU": -12.0}, "throttling": ["skin"]}
    old = "Thermal Status: 0\nCached temperatures:\n Temperature{mValue=30.1, mType=0, mName=CPU}\n"  # Android 10 has no mStatus
    assert android.parse_thermal(old) == {"status": "none", "celsius": {"CPU": 30.1}, "throttling": []}
    assert android.parse_thermal("Can't find service: thermalservice") == {}


def test_android_s_cpu_state():
    assert android.parse_cpu_list("0-3,6") == [0, 1, 2, 3, 6]
    assert android.parse_cpu_list("") == []
    text = "Load: 4.21 / 3.5 / 3.1\nCPU usage from 10ms to 5ms ago:\n  12% 1234/system_server: 8% user + 4% kernel\n31% TOTAL: 20% user\n"
    assert android.parse_load(text) == {"1min": 4.21, "5min": 3.5, "15min": 3.1, "total_percent": 31.0}
    assert android.parse_load("") == {}


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("NV Power Mode: MAXN\n0\n", {"name": "MAXN", "id": 0}),
        ("NVPM WARN: fan mode is not set!\nNV Power Mode: MODE_15W_6CORE\n2\n", {"name": "MODE_15W_6CORE", "id": 2}),
        ("NV Fan Mode:quiet\nNV Power Mode: 15W\n2", {"name": "15W", "id": 2}),
        ("NV Power Mode: MAXN", {"name": "MAXN", "id": None}),
        ("nvpmodel: not found", {}),
    ],
)
def test_the_power_mode(text: str, mode: dict[str, object]):
    assert sensors.parse_power_mode(text) == mode


def test_a_raspberry_pi_that_is_held_back():
    assert sensors.parse_throttled("throttled=0x50005") == 0x50005
    assert sensors.parse_throttled("VCHI initialization failed") == 0
    assert sensors.pi_reasons(0, 0x50005) == ["under-voltage", "throttled"]
    assert sensors.pi_reasons(0x50000, 0x50000) == [], "that was before"
    assert sensors.pi_reasons(0x10000, 0x50000) == ["throttled"]


def write(root: Path, files: dict[str, object]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")


ZONE, POLICY = "sys/class/thermal/thermal_zone0/", "sys/devices/system/cpu/cpufreq/policy0/"
BOARD = {
    **{ZONE + "type": "cpu-thermal", ZONE + "temp": 61234, ZONE + "trip_point_0_type": "passive", ZONE + "trip_point_0_temp": 80000},
    **{POLICY + "scaling_governor": "ondemand", POLICY + "related_cpus": "0 1 2 3", POLICY + "scaling_cur_freq": 1500000},
    **{POLICY + "scaling_min_freq": 600000, POLICY + "scaling_max_freq": 1800000},
    **{"sys/class/devfreq/17000000.gv11b/cur_freq": 1377000000, "sys/class/devfreq/17000000.gv11b/max_freq": 1377000000},
    **{"sys/class/thermal/thermal_zone1/type": "off", "sys/class/thermal/thermal_zone1/temp": -256000},
    **{"sys/devices/system/cpu/online": "0-3", "sys/class/hwmon/hwmon0/oc1_event_cnt": 0},
}


def test_temperatures_and_clocks_of_a_synthetic_board(tmp_path: Path):
    write(tmp_path, BOARD)
    state = sensors.State(tmp_path)
    assert state.temperatures == {"thermal_zone0 cpu-thermal": 61.234}
    assert state.clocks["policy0"] == {"governor": "ondemand", "cpus": "0 1 2 3", "cur": 1500000, "min": 600000, "max": 1800000}
    assert state.clocks["17000000.gv11b"]["cur"] == 1377000000 and state.clocks["online"] == [0, 1, 2, 3]
    assert sensors.throttling(state, sensors.State(tmp_path)) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({ZONE + "temp": 81000}, "cpu-thermal at 81 C, it slows down from 80 C"),
        ({POLICY + "scaling_max_freq": 1200000}, "policy0: the highest clock fell from 1800000 to 1200000"),
        ({"sys/class/hwmon/hwmon0/oc1_event_cnt": 3}, "the over-current protection stepped in"),
    ],
)
def test_a_board_that_was_held_back(tmp_path: Path, change: dict[str, object], text: str):
    write(tmp_path, BOARD)
    before = sensors.State(tmp_path)
    write(tmp_path, change)
    assert sensors.throttling(before, sensors.State(tmp_path)) == [text]


def test_power_from_both_kinds_of_driver(tmp_path: Path):
    new, old = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/", "sys/bus/i2c/drivers/ina3221x/1-0041/iio_device1/"
    write(tmp_path, {new + "in1_label": "VDD_IN", new + "in1_input": 5000, new + "curr1_input": 1500})
    write(tmp_path, {old + "rail_name_0": "POM_5V_GPU", old + "in_power0_input": 480})
    assert sensors.rails_mw(tmp_path) == {"VDD_IN": 7500.0, "POM_5V_GPU": 480.0}
    import time

    with sensors.RailSampler(tmp_path) as rails:
        time.sleep(0.5)
    assert rails.samples and rails.samples[0]["VDD_IN"] == 7500


def test_clocks_are_locked_and_given_back(tmp_path: Path):
    write(tmp_path, BOARD)
    governor = tmp_path / POLICY / "scaling_governor"
    with pytest.raises(KeyboardInterrupt), settings.LockedClocks(tmp_path):
        assert governor.read_text() == "performance"
        raise KeyboardInterrupt
    assert governor.read_text() == "ondemand"
    with pytest.raises(basics.DeviceError, match="shows no governor to set"):
        settings.LockedClocks(tmp_path / "bare").__enter__()


TOOL = '#!/bin/sh\necho "$(basename "$0") $*" >> {log}\n'


def test_a_jetson_s_clocks_and_mode_are_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("jetson_clocks", "nvpmodel"):
        (tmp_path / name).write_text(TOOL.format(log=tmp_path / "log"))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with settings.PowerMode(0, 2), settings.LockedClocks() as clocks:
        pass
    called = (tmp_path / "log").read_text().replace(str(clocks.store), "FILE").splitlines()
    locked = ["jetson_clocks --store FILE", "jetson_clocks", "jetson_clocks --restore FILE"]
    assert [c.strip() for c in called] == ["nvpmodel -m 0", *locked, "nvpmodel -m 2"]
    with pytest.raises(basics.DeviceError, match="--power-mode: this board has no nvpmodel"):
        settings.PowerMode(0, None).__enter__()


def test_memory_is_that_of_the_process_asked_for():
    assert sensors.peak_rss_mb() > 20
    assert sensors.peak_rss_mb(2**30) == 0.0
