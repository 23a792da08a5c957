"""What the scripts share. Importing any of it lets them find the package, wherever they are called from."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
