"""The userlands to emulate: a release of Debian for arm64, and the wheels that a user of a board of that age installs."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import UsageError, did_you_mean

_BASE = (
    *("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libbz2-1.0", "liblzma5", "libexpat1", "libcrypt1", "libuuid1", "libgomp1"),
    *("busybox-static", "openssh-sftp-server"),
)
_TOO_LARGE = ("*libLiteRtWebGpuAccelerator*", "tvm/3rdparty/*", "*libtvm_runtime_cuda*")


@dataclass(frozen=True, slots=True)
class Userland:
    """What a userland holds.

    name      the release's name, e.g. "bookworm"
    python    version of its Python, e.g. "3.11"
    glibc     version of its C library
    packages  Debian packages for arm64, unpacked without being configured
    wheels    requirements of PyPI packages for aarch64, without what they depend on
    leave_out patterns of files in wheels that nothing here needs
    """

    name: str
    python: str
    glibc: str
    packages: tuple[str, ...]
    wheels: tuple[str, ...]
    leave_out: tuple[str, ...] = _TOO_LARGE


def _python(version: str) -> tuple[str, ...]:
    return f"python{version}-minimal", f"libpython{version}-minimal", f"libpython{version}-stdlib"


USERLANDS = {
    u.name: u
    for u in (
        # Raspberry Pi OS of the same age; the runtimes in the versions that this project is tested with
        Userland(
            "bookworm",
            python="3.11",
            glibc="2.36",
            packages=(*_BASE, "libffi8", "libssl3", *_python("3.11")),
            wheels=(
                *("numpy==2.4.6", "onnxruntime==1.31.1", "ai-edge-litert==2.3.0", "flatbuffers==25.12.19", "protobuf==7.36.2"),
                *("apache-tvm==0.26.0", "apache-tvm-ffi==0.1.13.post3", "ml_dtypes==0.6.0", "packaging==26.3", "typing_extensions==4.16.0"),
            ),
        ),
        # JetPack 5's glibc, and the newest wheels for it; its own Python is 3.8, for which there is the same ONNX Runtime
        Userland(
            "bullseye",
            python="3.9",
            glibc="2.31",
            packages=(*_BASE, "libffi7", "libssl1.1", *_python("3.9")),
            wheels=(
                *("numpy==1.26.4", "onnxruntime==1.19.2", "ai-edge-litert==2.1.0", "flatbuffers==25.12.19", "protobuf==6.33.6"),
                *("apache-tvm-ffi==0.1.13.post3", "packaging==26.3", "typing_extensions==4.13.2"),
            ),
        ),
    )
}


def userland(name: str) -> Userland:
    """The userland of that name; raises UsageError for an unknown one."""
    if name not in USERLANDS:
        raise UsageError("emulate", f"unknown userland '{name}'", did_you_mean(name, USERLANDS))
    return USERLANDS[name]
