"""Nothing is wrong with this plugin but the name that it declares."""

from kernels_core import DeviceFacts, hookimpl
from kernels_core.hookspecs import BackendInfo, BackendTag, Detection, Match


@hookimpl
def kernels_backend():
    return BackendInfo(
        name="xpu",
        api_version=1,
        torch_device_type="privateuseone",
        noarch_name="acme",
        facts=DeviceFacts,
    )


@hookimpl
def kernels_detect(host):
    return Detection(device_count=1)


@hookimpl
def kernels_device_facts(index):
    return DeviceFacts(index, "Acme X")


@hookimpl
def kernels_parse_tag(text):
    return BackendTag("xpu", "acme") if text == "acme" else None


@hookimpl
def kernels_match_tag(tag):
    return Match.yes()
