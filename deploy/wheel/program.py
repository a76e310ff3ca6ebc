#!python
"""Becomes the installed package's program of this name. The package is found, not imported: that takes longer."""

import importlib.util
import os
import sys

package = importlib.util.find_spec("keepstep")
if package is None or not package.submodule_search_locations:
    sys.exit("keepstep: the package is not installed for this Python: pip install the wheel again")
program = os.path.join(package.submodule_search_locations[0], "bin", os.path.basename(__file__))
os.execv(program, [program, *sys.argv[1:]])
