"""Libraries of the operating system as Bazel repositories.

`pkg_config_library` asks pkg-config for flags; `header_library` is for packages without a .pc file. Both fail with the
name of the Debian package to install.
"""

def _cc_library(ctx, copts, linkopts):
    ctx.file("BUILD.bazel", """
cc_library(
    name = "{name}",
    copts = [],
    defines = [],
    linkopts = {linkopts},
    includes = {includes},
    visibility = ["//visibility:public"],
)
""".format(name = ctx.name, linkopts = repr(linkopts), includes = repr(copts)))

def _pkg_config_impl(ctx):
    if not ctx.which("pkg-config"):
        fail("pkg-config is missing: run deploy/setup.sh")
    result = ctx.execute(["pkg-config", "--libs"] + ctx.attr.modules)
    if result.return_code != 0:
        fail("%s is missing (%s): run deploy/setup.sh" % (ctx.name, result.stderr.strip()))
    flags = [f for f in result.stdout.strip().split(" ") if f]
    _cc_library(ctx, [], ["-l" + l for l in ctx.attr.extra_libs] + flags)

pkg_config_library = repository_rule(
    implementation = _pkg_config_impl,
    attrs = {
        "modules": attr.string_list(mandatory = True),
        "extra_libs": attr.string_list(),
    },
    local = True,
)

def _header_impl(ctx):
    if not ctx.path(ctx.attr.header).exists:
        fail("%s is missing: install %s, or run deploy/setup.sh" % (ctx.attr.header, ctx.attr.package))
    _cc_library(ctx, [], ["-l" + l for l in ctx.attr.libs])

header_library = repository_rule(
    implementation = _header_impl,
    attrs = {
        "header": attr.string(mandatory = True),
        "package": attr.string(mandatory = True),
        "libs": attr.string_list(),
    },
    local = True,
)
