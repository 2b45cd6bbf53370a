"""The commands that run on a board: POSIX sh with the tools of coreutils, busybox or toybox.

Each is a constant; what varies comes as positional parameters, so nothing is ever interpolated. Scripts that start with ``cd`` end
with status 9 when the folder is not there.
"""

from __future__ import annotations

_HEAD = "export LC_ALL=C\n"

IDENTITY = (
    _HEAD
    + r"""
say() { v=$(printf '%s' "$2" | tr '\n\r' '  '); [ -z "$v" ] || printf '%s=%s\n' "$1" "$v"; }
first() { cat "$@" 2>/dev/null | tr -d '\000' | head -n 1; }
say machine "$(uname -m)"
say hostname "$(uname -n)"
say system "$(uname -s) $(uname -r)"
say uid "$(id -u)"
say user "$(id -un 2>/dev/null)"
say home "$HOME"
say tmp "${TMPDIR:-/tmp}"
say model "$(first /proc/device-tree/model)"
say compatible "$(tr '\000' ' ' < /proc/device-tree/compatible 2>/dev/null)"
say l4t "$(first /etc/nv_tegra_release)"
say cpu "$(sed -n -e 's/^model name[^:]*: *//p' -e 's/^Hardware[^:]*: *//p' -e 's/^CPU part[^:]*: *//p' /proc/cpuinfo | head -n 1)"
if command -v getprop >/dev/null 2>&1; then
  say model "$(getprop ro.product.model)"; say soc "$(getprop ro.soc.model)"
  say android "$(getprop ro.build.version.release)"; say abi "$(getprop ro.product.cpu.abi)"
  getprop | sed -n 's/^\[\(ro\.\(product\|soc\|board\|hardware\)[^]]*\)\]: \[\(.*\)\]$/\1=\3/p'
fi
say features "$(sed -n -e 's/^Features[^:]*: *//p' -e 's/^flags[^:]*: *//p' /proc/cpuinfo 2>/dev/null | head -n 1)"
missing=
for tool in timeout sha256sum tail head wc df; do command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"; done
say missing "$missing"
[ -n "$1" ] || exit 0
command -v "$1" >/dev/null 2>&1 || { say lacks "$1"; exit 0; }
"$1" -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("numpy"))' >/dev/null 2>&1 || say lacks numpy
"""
)
"""Parameter: the Python to look for, "" for none. Prints ``key=value`` lines."""

LOCK = (
    _HEAD
    + r"""
umask 022
lock=$1; token=$2; owner=$3; limit=$4; was=
now=$(date +%s)
mine() { printf '%s\n' "$owner" > "$lock/owner"; echo "$now" > "$lock/beat"; printf '%s\n' "$token" > "$lock/token"; }
if [ -d "$lock" ]; then
  seen=$(cat "$lock/token" 2>/dev/null)
  [ "$seen" = "$token" ] && { echo taken; exit 0; }
  was=$(cat "$lock/owner" 2>/dev/null)
  beat=$(cat "$lock/beat" 2>/dev/null || echo "$now")
  job=$(cat "$lock/job" 2>/dev/null)
  age=$((now - beat))
  if [ "$age" -lt "$limit" ] || { [ -n "$job" ] && [ -d "/proc/$job" ]; }; then echo "held $age $was"; exit 0; fi
  mv "$lock" "$lock.$token" 2>/dev/null || { echo "stuck $age $was"; exit 0; }
  if [ "$(cat "$lock.$token/token" 2>/dev/null)" != "$seen" ]; then
    mv "$lock.$token" "$lock" 2>/dev/null; echo "held 0 somebody"; exit 0
  fi
  rm -rf "$lock.$token"
fi
if mkdir "$lock" 2>/dev/null; then mine; [ -n "$was" ] && echo "stale $age $was" || echo taken; exit 0; fi
[ -d "$lock" ] && echo "held 0 somebody" || echo "denied"
"""
)
"""Parameters: lock, token, owner, seconds without a sign of life after which a lock is stale. Prints ``word age owner``."""

BEAT = (
    _HEAD
    + r"""
[ "$(cat "$1/token" 2>/dev/null)" = "$2" ] || { echo lost; exit 0; }
date +%s > "$1/beat"
"""
)
"""Parameters: lock, token."""

MAKE = (
    _HEAD
    + r"""
umask 077
if [ -e "$1" ] || [ -h "$1" ]; then
  { [ ! -h "$1" ] && [ "$(cat "$1/.deblur-bench" 2>/dev/null)" = "$2" ]; } || { echo foreign; exit 0; }
else
  mkdir "$1" || exit 1
  printf '%s\n' "$2" > "$1/.deblur-bench" || { rm -rf "$1"; exit 1; }
fi
df -Pk "$1"
"""
)
"""Parameters: folder, mark. Prints ``foreign``, or what ``df -Pk`` says of the folder."""

FREE = (
    _HEAD
    + r"""
df -Pk "$1"
"""
)
"""Parameter: folder."""

INVENTORY = (
    _HEAD
    + r"""
cd "$1" || exit 9
shift
while [ $# -gt 1 ]; do
  size=-; hash=-
  if [ -f "./$1" ]; then
    size=$(wc -c < "./$1")
    if [ "$size" -eq "$2" ]; then hash=$(sha256sum < "./$1"); hash=${hash%% *}; fi
  fi
  echo $size "$hash"
  shift 2
done
"""
)
"""Parameters: folder, then name and expected size of each file. Prints ``size hash`` of each, "-" where there is none."""

WRITE = (
    _HEAD
    + r"""
cd "$1" || exit 9
umask 077
mkdir -p "./$2" || exit 1
if [ "$4" -gt 0 ]; then
  [ "$(wc -c < "./$3")" -eq "$4" ] || exit 8
  cat >> "./$3" || exit 1
else
  cat > "./$3" || exit 1
fi
"""
)
"""Parameters: folder, the file's own folder, its name, how many bytes of it are there already. The rest comes on standard input."""

PROGRAMS = (
    _HEAD
    + r"""
cd "$1" || exit 9
shift
for name in "$@"; do chmod 700 "./$name" || exit 1; done
"""
)
"""Parameters: folder, names."""

START = (
    _HEAD
    + r"""
cd "$1" || exit 9
lock=$2; digest=$3; limit=$4; shift 4
rm -f .bench.rc .bench.pid .bench.shell .bench.tmp
echo "$digest" > .bench.job || exit 1
alone=$(command -v setsid); hand="${TMPDIR:-/tmp}/deblur-bench.lock"
# runtimes leave files in the home folder: let it be ours, and the user's own packages be found all the same
export PYTHONUSERBASE="${PYTHONUSERBASE:-$HOME/.local}" PYTHONDONTWRITEBYTECODE=1 HOME="$PWD" TMPDIR="$PWD"
( trap '' HUP INT
  # whoever runs bench.py by hand holds this file
  if [ -f "$hand" ] && command -v flock >/dev/null 2>&1; then exec 9< "$hand" && flock 9; fi
  $alone timeout "$limit" "$@" > .bench.log 2>&1 < /dev/null &
  echo $! > .bench.pid
  wait $!
  echo $? > .bench.tmp && mv .bench.tmp .bench.rc ) > /dev/null 2>&1 < /dev/null &
echo $! > .bench.shell
echo $! > "$lock/job"
echo started
"""
)
"""Parameters: folder, lock, digest of the job, limit in seconds, command. Prints ``started``; the job goes on without the connection."""

POLL = (
    _HEAD
    + r"""
cd "$1" || exit 9
code=-; [ -f .bench.rc ] && code=$(cat .bench.rc)
lives() { [ -n "$1" ] && [ -d "/proc/$1" ] && ! grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null; }
alive=0; pid=$(cat .bench.pid 2>/dev/null)
if lives "$(cat .bench.shell 2>/dev/null)"; then alive=1; [ -n "$pid" ] || alive=w; fi
lives "$pid" && alive=1
echo "$code" $alive "$(cat .bench.job 2>/dev/null)"
[ -f .bench.log ] && tail -c "+$(($2 + 1))" .bench.log
exit 0
"""
)
"""Parameters: folder, bytes of the log that are known. Prints ``status alive digest``, then the log's rest.

The status is "-" as long as there is none; alive is 1, 0, or w for a job that waits for a benchmark started by hand.
"""

STOP = (
    _HEAD
    + r"""
cd "$1" || exit 0
[ ! -f .bench.rc ] || exit 0
[ -f .bench.pid ] || kill -KILL "$(cat .bench.shell 2>/dev/null)" 2>/dev/null
pid=$(cat .bench.pid 2>/dev/null)
[ -n "$pid" ] || exit 0
kill -TERM "$pid" 2>/dev/null
n=0; while [ -d "/proc/$pid" ] && [ $n -lt 5 ]; do sleep 1; n=$((n + 1)); done
kill -KILL "-$pid" 2>/dev/null
exit 0
"""
)
"""Parameter: folder."""

READ = (
    _HEAD
    + r"""
cd "$1" || exit 9
[ -f "./$2" ] || exit 8
hash=$(sha256sum < "./$2"); echo "${hash%% *}"
cat "./$2"
"""
)
"""Parameters: folder, name. Prints the hash on a line of its own, then the content; status 8 when there is no such file."""

FORGET = (
    _HEAD
    + r"""
cd "$1" || exit 0
shift
rm -f .bench.rc .bench.pid .bench.shell .bench.log .bench.job .bench.tmp
for name in "$@"; do rm -f "./$name"; done
exit 0
"""
)
"""Parameters: folder, names of the results to remove."""

CLEAN = (
    _HEAD
    + r"""
if [ -n "$1" ] && [ ! -h "$1" ] && [ "$(cat "$1/.deblur-bench" 2>/dev/null)" = "$2" ]; then rm -rf "$1" || exit 1; fi
if [ "$(cat "$3/token" 2>/dev/null)" = "$4" ]; then rm -rf "$3" || exit 1; fi
"""
)
"""Parameters: folder ("" to leave it), its mark, lock, token. Removes what is ours and nothing else."""
