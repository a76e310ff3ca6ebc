"""A client that knows nothing of the services that it calls: server reflection tells it names, methods, messages."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tests.attack.api import LIMIT_SECONDS


class Reflection:
    """Finds services in a running server: descriptors come from it, messages are made from the descriptors."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._pool = descriptor_pool.DescriptorPool()
        self._pool.Add(descriptor_pb2.FileDescriptorProto.FromString(_reflection_protocol()))
        request = self._message("grpc.reflection.v1alpha.ServerReflectionRequest")
        answer = self._message("grpc.reflection.v1alpha.ServerReflectionResponse")
        self._request = request
        self._ask = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            request_serializer=request.SerializeToString,
            response_deserializer=answer.FromString,
        )

    def services(self) -> list[str]:
        answer = self._one(list_services="")
        return [service.name for service in answer.list_services_response.service]

    def method(self, service: str, name: str) -> tuple[Any, type[Any]]:
        """A callable for one unary or server-streaming method, and the class of its request."""
        self._learn(service)
        method = self._pool.FindServiceByName(service).FindMethodByName(name)
        request = message_factory.GetMessageClass(method.input_type)
        response = message_factory.GetMessageClass(method.output_type)
        kind = {
            (False, False): self._channel.unary_unary,
            (False, True): self._channel.unary_stream,
            (True, False): self._channel.stream_unary,
        }[method.client_streaming, method.server_streaming]
        call = kind(
            f"/{service}/{name}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        return call, request

    def _learn(self, symbol: str) -> None:
        files = {}
        for raw in self._one(file_containing_symbol=symbol).file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(raw)
            files[file.name] = file
        while missing := [name for file in files.values() for name in file.dependency if name not in files]:
            for raw in self._one(file_by_filename=missing[0]).file_descriptor_response.file_descriptor_proto:
                file = descriptor_pb2.FileDescriptorProto.FromString(raw)
                files[file.name] = file
        added: set[str] = set()
        while len(added) < len(files):  # whatever needs nothing that is still to come
            ready = [f for f in files.values() if f.name not in added and added.issuperset(f.dependency)]
            assert ready, f"files that need each other: {sorted(files)}"
            for file in ready:
                self._pool.Add(file)
            added.update(file.name for file in ready)

    def _one(self, **fields: str) -> Any:
        (answer,) = self._ask(iter([self._request(**fields)]), timeout=LIMIT_SECONDS)
        return answer

    def _message(self, name: str) -> Any:
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(name))


def _reflection_protocol() -> bytes:
    """The part of grpc/reflection/v1alpha/reflection.proto that is used here, by its public field numbers."""
    file = descriptor_pb2.FileDescriptorProto(
        name="reflection.proto", package="grpc.reflection.v1alpha", syntax="proto3"
    )
    string, raw, message = 9, 12, 11

    def add(name: str, *fields: tuple[int, str, int, int, str]) -> None:
        made = file.message_type.add(name=name)
        for number, field, kind, label, of in fields:
            made.field.add(name=field, number=number, type=kind, label=label, type_name=of or None)

    add("ServerReflectionRequest", (3, "file_by_filename", string, 1, ""),
        (4, "file_containing_symbol", string, 1, ""), (7, "list_services", string, 1, ""))  # fmt: skip
    # These three are one oneof, so that an empty list_services is sent at all.
    request = file.message_type[0]
    request.oneof_decl.add(name="message_request")
    for field in request.field:
        field.oneof_index = 0
    add("FileDescriptorResponse", (1, "file_descriptor_proto", raw, 3, ""))
    add("ServiceResponse", (1, "name", string, 1, ""))
    add("ListServiceResponse", (1, "service", message, 3, ".grpc.reflection.v1alpha.ServiceResponse"))
    add("ServerReflectionResponse",
        (4, "file_descriptor_response", message, 1, ".grpc.reflection.v1alpha.FileDescriptorResponse"),
        (6, "list_services_response", message, 1, ".grpc.reflection.v1alpha.ListServiceResponse"))  # fmt: skip
    return file.SerializeToString()
