"""Running aarch64 programs on another machine: qemu's user mode inside a Debian userland of its own. Function only, never timing."""
