#!/usr/bin/env bash
# Whether GPU memory is saved and restored bit for bit on this machine, and how fast:
#
#   tests/gpu/run.sh [--bundle FOLDER] [--json FILE] [--quick] [--fake] [--directory DIR] [--only checks|figures]
#
# Builds nothing. It needs the folder that deploy/bundle.sh makes (or a built checkout), this checkout's tests/, Python
# 3.10 or newer with NumPy ($PYTHON, else .venv's, else python3), and the driver's libcuda.so.1; PyTorch is tried where it
# is. Where there is no GPU it says why and leaves with status 0. A wrong byte is status 1; no figure ever fails anything.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-}
[ -n "$python" ] || if [ -x "$root/.venv/bin/python" ]; then python=$root/.venv/bin/python; else python=python3; fi
PYTHONPATH="$root" PYTHONDONTWRITEBYTECODE=1 exec "$python" -m tests.gpu.main "$@"
