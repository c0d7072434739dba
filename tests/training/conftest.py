"""Makes `standin`, the tiny model of these tests, importable from them and from their subprocesses."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
