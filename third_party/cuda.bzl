"""CUDA's headers as a Bazel repository.

Only headers: the driver is loaded by the programs themselves (third_party/cuda_driver). Where there are none the
repository's defs.bzl says `HAVE_CUDA_HEADERS = False`, and what needs them is left out of the build.
"""

def _folders(ctx):
    named = ctx.os.environ.get("CUDA_HOME")
    if named:
        return [named + "/include"]
    workspace = ctx.path(Label("//:WORKSPACE")).dirname
    wheel = ctx.execute(["sh", "-c", "ls -d %s/.venv/lib/python3*/site-packages/nvidia/*/include" % workspace])
    return ["/usr/local/cuda/include"] + [path for path in wheel.stdout.split("\n") if path]

def _cuda_impl(ctx):
    found = [path for path in _folders(ctx) if ctx.path(path + "/cuda.h").exists]
    ctx.file("defs.bzl", "HAVE_CUDA_HEADERS = %s\n" % bool(found))
    if not found:
        # buildifier: disable=print
        print("no CUDA headers: this build moves host memory alone (install CUDA, or set CUDA_HOME)")
        ctx.file("BUILD.bazel", "")
        return
    ctx.symlink(found[0], "include")
    ctx.file("BUILD.bazel", """
cc_library(
    name = "headers",
    hdrs = ["include/cuda.h"],
    includes = ["include"],
    visibility = ["//visibility:public"],
)
""")

cuda_headers = repository_rule(
    implementation = _cuda_impl,
    environ = ["CUDA_HOME"],
    local = True,
)
