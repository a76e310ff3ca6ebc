"""C++ from .proto files with the installed protoc."""

def cc_proto(name, src, deps = [], grpc = False, visibility = None):
    """A cc_library of one .proto file.

    Args:
      name: the library.
      src: the .proto file, in this package.
      deps: cc_proto targets of the files it imports.
      grpc: whether to generate its services too.
      visibility: as everywhere.
    """
    base = src[:-len(".proto")]
    outs = [base + ".pb.h", base + ".pb.cc"]
    flags = "--cpp_out=$(GENDIR)"
    if grpc:
        outs += [base + ".grpc.pb.h", base + ".grpc.pb.cc"]
        flags += " --grpc_out=$(GENDIR) --plugin=protoc-gen-grpc=$$(command -v grpc_cpp_plugin)"
    native.filegroup(name = name + "_src", srcs = [src] + [d + "_src" for d in deps], visibility = visibility)
    native.genrule(
        name = name + "_gen",
        srcs = [":" + name + "_src"],
        outs = outs,
        cmd = "protoc -I. -I/usr/include %s %s/%s" % (flags, native.package_name(), src),
    )
    native.cc_library(
        name = name,
        srcs = [o for o in outs if o.endswith(".cc")],
        hdrs = [o for o in outs if o.endswith(".h")],
        copts = ["-O1", "-Wno-all", "-Wno-extra"],
        deps = deps + (["@grpc"] if grpc else ["@protobuf"]),
        visibility = visibility,
    )
