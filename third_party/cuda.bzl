"""The header of CUDA's driver API as the repository `@cuda`, where it is installed.

Only the header is wanted: the driver library itself is loaded at run time, so nothing is linked. `@cuda//:headers` holds
cuda.h, and `@cuda//:defs.bzl` says `HAVE_CUDA_HEADERS`, by which a BUILD file chooses its sources. Where no header of
CUDA 13 or later is found, the library is empty and the build goes on without what needs it.

Looked for, in this order: $CUDA_HOME, /usr/local/cuda, the Python package nvidia-cuda-runtime in .venv. Nowhere where $CUDA_HOME
is `none`: `--config=no-cuda` builds as a machine without the header does.
"""

_NONE = "none"
_OLDEST = 13000  # CUDA_VERSION: symbols of that version are named in the sources

def _version(ctx, header):
    for line in ctx.read(header).split("\n"):
        if line.startswith("#define CUDA_VERSION "):
            return int(line.split(" ")[-1])
    return 0

def _candidates(ctx):
    folders = []
    home = ctx.os.environ.get("CUDA_HOME", "")
    if home == _NONE:
        return []
    if home:
        folders.append(ctx.path(home + "/include"))
    folders.append(ctx.path("/usr/local/cuda/include"))
    venv = ctx.path(Label("//:WORKSPACE")).dirname.get_child(".venv").get_child("lib")
    if venv.exists:
        for python in venv.readdir():
            folders.append(ctx.path(str(python) + "/site-packages/nvidia/cu13/include"))
    return folders

# Not with print: .bazelrc hides what rules print.
def _say(ctx, found):
    ctx.execute(["echo", "@cuda: " + found], quiet = False)

def _cuda_headers_impl(ctx):
    found = None
    for folder in _candidates(ctx):
        header = folder.get_child("cuda.h")
        if not header.exists:
            continue
        version = _version(ctx, header)
        if version >= _OLDEST:
            found = header
            _say(ctx, "%s, CUDA %d.%d" % (header, version // 1000, version % 1000 // 10))
            break
        _say(ctx, "%s is older than CUDA %d and not used" % (header, _OLDEST // 1000))
    if found:
        ctx.symlink(found, "include/cuda.h")
    else:
        _say(ctx, "no cuda.h found; building without GPU support (set CUDA_HOME, or install nvidia-cuda-runtime in .venv)")
    ctx.file("defs.bzl", "HAVE_CUDA_HEADERS = %s\n" % bool(found))
    ctx.file("BUILD.bazel", """
cc_library(
    name = "headers",
    hdrs = {headers},
    includes = ["include"],
    visibility = ["//visibility:public"],
)
""".format(headers = ["include/cuda.h"] if found else []))

cuda_headers = repository_rule(
    implementation = _cuda_headers_impl,
    environ = ["CUDA_HOME"],
    local = True,
)
