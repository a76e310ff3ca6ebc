#include "client/grpc_status.h"

#include "absl/strings/numbers.h"
#include "client/failure.h"
#include "proto/rpc_status.pb.h"

namespace keepstep::client {

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  Blame blame;
  google::rpc::Status details;
  if (details.ParseFromString(status.error_details())) {
    for (const google::protobuf::Any& detail : details.details()) {
      google::rpc::ErrorInfo info;
      if (!detail.Is<google::rpc::ErrorInfo>() || !detail.UnpackTo(&info) || info.domain() != "keepstep")
        continue;
      blame.reason = info.reason();
      if (auto stage = info.metadata().find("stage"); stage != info.metadata().end())
        blame.stage = stage->second;
      auto rank = info.metadata().find("rank");
      if (rank == info.metadata().end() || !absl::SimpleAtoi(rank->second, &blame.rank)) blame.rank = -1;
    }
  }
  return MakeError(static_cast<absl::StatusCode>(status.error_code()), blame.reason, status.error_message(),
                   blame.stage, blame.rank);
}

}  // namespace keepstep::client
