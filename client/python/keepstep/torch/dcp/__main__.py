"""`python -m keepstep.torch.dcp`: DCP directories into Keepstep and back."""

from __future__ import annotations

import argparse
import os
import sys

from keepstep.errors import KeepstepError
from keepstep.torch.dcp.export_directory import export_directory
from keepstep.torch.dcp.import_directory import import_directory


def main() -> int:
    """Exit status: 0 done, 1 failed, 2 usage."""
    parser = argparse.ArgumentParser(prog="python -m keepstep.torch.dcp", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    into = verbs.add_parser("import", help="commit an existing DCP directory as one step of a job")
    into.add_argument("source", metavar="SOURCE", help="a directory with .metadata and .distcp files")
    into.add_argument("job", metavar="DIRECTORY", help="the job; made when missing")
    into.add_argument("--step", type=int, default=0)
    into.add_argument("--address", default="auto", help="of the daemon; by default as in Checkpointer")
    out = verbs.add_parser("export", help="write a checkpoint as a DCP directory")
    out.add_argument("job", metavar="DIRECTORY", help="the job")
    out.add_argument("target", metavar="TARGET", help="where the DCP directory goes; made when missing")
    out.add_argument("--step", type=int, default=None, help="by default the latest")
    arguments = parser.parse_args()
    try:
        if arguments.verb == "import":
            count, size = import_directory(
                arguments.source, arguments.job, step=arguments.step, daemon=arguments.address
            )
            name = os.path.basename(os.path.abspath(arguments.job))
            print(f"{name}/{arguments.step}: {count} tensors, {size} bytes committed")
        else:
            size = export_directory(arguments.job, arguments.target, step=arguments.step)
            print(f"{arguments.target}: {size} bytes of tensors")
    except (KeepstepError, OSError) as error:
        print(f"keepstep: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
