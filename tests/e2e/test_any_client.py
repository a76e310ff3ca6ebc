"""What a generic gRPC client finds without any of our files: health, and the services by reflection."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from tests.harness.daemon import Daemon

SERVING = b"\x08\x01"  # HealthCheckResponse {status: SERVING}
LIST_SERVICES = b"\x3a\x00"  # ServerReflectionRequest {list_services: ""}
SERVICES = ("keepstep.v1.Sessions", "keepstep.v1.Checkpoints", "keepstep.v1.Node")


def raw(data: bytes) -> bytes:
    return data


@pytest.fixture
def channel(daemon: Daemon) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(daemon.address.replace("unix://", "unix:")) as channel:
        yield channel


@pytest.mark.parametrize("service", ["", *SERVICES])
def test_health(channel: grpc.Channel, service: str) -> None:
    check = channel.unary_unary("/grpc.health.v1.Health/Check", request_serializer=raw, response_deserializer=raw)
    name = service.encode()
    request = b"\x0a" + bytes([len(name)]) + name if name else b""
    assert check(request, timeout=30) == SERVING


def test_reflection_lists_the_services(channel: grpc.Channel) -> None:
    reflect = channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        request_serializer=raw,
        response_deserializer=raw,
    )
    (answer,) = reflect(iter([LIST_SERVICES]), timeout=30)
    for service in SERVICES:
        assert service.encode() in answer


def test_an_error_carries_a_reason_that_a_program_can_match(channel: grpc.Channel) -> None:
    get = channel.unary_unary("/keepstep.v1.Checkpoints/Get", request_serializer=raw, response_deserializer=raw)
    request = b"\x0a\x0b\x0a\x07nothing\x10\x05"  # GetRequest {name {job: "nothing" step: 5}}
    with pytest.raises(grpc.RpcError) as caught:
        get(request, timeout=30)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    details = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
    assert b"google.rpc.ErrorInfo" in details and b"UNKNOWN_JOB" in details and b"keepstep" in details
