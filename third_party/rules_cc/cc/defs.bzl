"""The native rules under the names that rules_cc gives them."""

cc_binary = native.cc_binary
cc_import = native.cc_import
cc_library = native.cc_library
cc_test = native.cc_test
cc_toolchain = native.cc_toolchain
cc_toolchain_suite = native.cc_toolchain_suite
objc_library = native.objc_library
fdo_profile = native.fdo_profile

def _empty_impl(ctx):
    return [platform_common.TemplateVariableInfo({})]

cc_flags_supplier = rule(implementation = _empty_impl)
compiler_flag = rule(implementation = _empty_impl)
