#include "client/command/tensor_list.h"

namespace keepstep::client {
namespace {

constexpr int32_t kPageSize = 10'000;

}  // namespace

grpc::Status ListTensors(const Connection& daemon, const Name& name, const std::string& prefix,
                         v1::QueryTensorsResponse* all) {
  v1::QueryTensorsRequest request;
  *request.mutable_name() = ToProto(name);
  request.set_prefix(prefix);
  request.set_page_size(kPageSize);
  do {
    v1::QueryTensorsResponse page;
    const auto context = daemon.Context();
    if (auto status = daemon.checkpoints().QueryTensors(context.get(), request, &page); !status.ok())
      return status;
    // One step from here on, even if "latest" moves meanwhile.
    request.mutable_name()->set_latest(false);
    request.mutable_name()->set_step(page.step());
    request.set_page_token(page.next_page_token());
    page.clear_next_page_token();
    all->MergeFrom(page);
  } while (!request.page_token().empty());
  return grpc::Status::OK;
}

}  // namespace keepstep::client
