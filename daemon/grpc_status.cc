#include "daemon/grpc_status.h"

#include <string>

#include "daemon/error.h"
#include "proto/rpc_status.pb.h"

namespace keepstep::daemon {
namespace {

constexpr size_t kMaxMessageBytes = 2000;  // headers are limited to 8 KiB, and carry the message twice

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  google::rpc::ErrorInfo info;
  info.set_reason(ReasonOf(status));
  info.set_domain("keepstep");
  if (std::string stage = StageOf(status); !stage.empty()) (*info.mutable_metadata())["stage"] = stage;
  if (int32_t rank = RankOf(status); rank >= 0) (*info.mutable_metadata())["rank"] = std::to_string(rank);
  const std::string message(status.message().substr(0, kMaxMessageBytes));
  google::rpc::Status details;
  details.set_code(static_cast<int32_t>(status.code()));
  details.set_message(message);
  details.add_details()->PackFrom(info);
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message, details.SerializeAsString());
}

}  // namespace keepstep::daemon
