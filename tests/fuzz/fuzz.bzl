"""One fuzz target, twice: a test that replays its corpus, and a libFuzzer program for `--config=fuzz`."""

def fuzz_target(name, deps, srcs = None, size = "small", tags = []):
    """`<name>_replay_test` runs the files of corpus/<name>; `<name>_fuzz` (by hand, tests/fuzz/run.sh) looks for more.

    Args:
      name: the target; its code is <name>_target.cc.
      deps: what it drives.
      srcs: further sources.
      size: of the replay test.
      tags: of both.
    """
    sources = [name + "_target.cc"] + (srcs or [])
    native.cc_test(
        name = name + "_replay_test",
        size = size,
        srcs = sources + ["replay_main.cc"],
        args = ["tests/fuzz/corpus/" + name],
        data = native.glob(["corpus/%s/*" % name]),
        tags = tags,
        deps = deps,
    )
    native.cc_binary(
        name = name + "_fuzz",
        testonly = True,
        srcs = sources,
        linkopts = ["-fsanitize=fuzzer"],
        linkstatic = True,
        tags = tags + ["manual"],
        deps = deps,
    )
