"""Where the device scripts lie: importing this puts them on the path, as they lie in a bundle."""

from __future__ import annotations

import sys
from pathlib import Path

import targets.device

FOLDER = Path(targets.device.__file__).parent
SCRIPTS = sorted(p for p in FOLDER.rglob("*.py") if p.parent != FOLDER or p.name != "__init__.py")
if str(FOLDER) not in sys.path:
    sys.path.insert(0, str(FOLDER))
