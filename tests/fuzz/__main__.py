"""`python -m tests.fuzz --inputs 10000 --seed 0`: damage every format that is read, and count how the readers end.

An input ends well if it reads as before (same), if something else is read that no checksum could tell (other), or if
it is refused in one line that names the file. Anything else is a fault, and is printed with its name: the same name
and seed make it again (`--only FORMAT:SEED:NUMBER`). Exit status 1 if there is a fault.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter
from pathlib import Path

from tests.fuzz.formats import FORMATS
from tests.fuzz.harness import FAULTS, GOOD, prepare, run, try_input


def again(name: str, folder: Path) -> None:
    """One input, in this process."""
    kind = FORMATS[name.partition(":")[0]]
    data, clean = prepare(kind, folder)
    print(*try_input(kind, data, clean, name), sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000, help="of all formats together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--only", metavar="FORMAT:SEED:NUMBER", help="one input again")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["RANDAR_CACHE"] = f"{temporary}/cache"
        if args.only:
            return again(args.only, Path(temporary))
        total: Counter[str] = Counter()
        each = -(-args.inputs // len(args.formats))
        for name in args.formats:
            found: Counter[str] = Counter()
            for outcome in run([name], each, args.seed, Path(temporary)):
                found[outcome.kind] += 1
                if outcome.kind in FAULTS:
                    print(
                        f"{outcome.kind.upper()} {outcome.input}\n    " + outcome.detail.strip().replace("\n", "\n    ")
                    )
            print(f"{name:20}", *(f"{kind} {found[kind]}" for kind in (*GOOD, *FAULTS) if found[kind]), flush=True)
            total += found
        print(f"{sum(total.values())} inputs:", ", ".join(f"{kind} {total[kind]}" for kind in (*GOOD, *FAULTS)))
    raise SystemExit(1 if any(total[kind] for kind in FAULTS) else 0)


if __name__ == "__main__":
    main()
