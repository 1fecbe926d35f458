"""The pipeline with parts of it killed at random, for as long as you like: nothing may be lost or doubled.

The same as ``tests/integration/test_chaos.py``, which continuous integration runs with 20 kills: a real daemon, code
server and MariaDB, which a supervisor starts again, while another program inserts rows. It prints every fault and how
long it took to be noticed, and at the end how soon after the last fault every image had its answer. Ends with 1 if an
image was lost, doubled or left behind.

    python benchmarks/chaos.py [--kills 200 | --minutes 30] [--seed 42]
"""

import argparse
import os
import random
import subprocess
import sys
from pathlib import Path

TEST = Path(__file__).parent.parent / "tests" / "integration" / "test_chaos.py"
KILLS_A_MINUTE = 6  # about so many on two cores


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--kills", type=int, default=200)
    length.add_argument("--minutes", type=float, help=f"instead of a number of kills: {KILLS_A_MINUTE} a minute")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    options = parser.parse_args()
    kills = round(options.minutes * KILLS_A_MINUTE) if options.minutes else options.kills
    environment = {**os.environ, "IMGPIPE_CHAOS_KILLS": str(kills), "IMGPIPE_CHAOS_SEED": str(options.seed)}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "--quiet", "--capture=no", str(TEST)], env=environment, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
