// The C ABI: checks arguments, refuses forked children, converts, calls.

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "client/address.h"
#include "client/c_convert.h"
#include "client/c_pool.h"
#include "client/c_shards.h"
#include "client/client.h"
#include "client/extras.h"
#include "client/failure.h"
#include "client/keepstep.h"
#include "client/version.h"

using keepstep::client::Adopt;
using keepstep::client::After;
using keepstep::client::MakeError;
using keepstep::client::ToError;

struct ks_client {
  std::unique_ptr<keepstep::client::Client> client;
};

namespace {

namespace v1 = keepstep::v1;
using keepstep::client::Client;

ks_code Invalid(absl::string_view message, ks_error* error) {
  return ToError(MakeError(absl::StatusCode::kInvalidArgument, "BAD_ARGUMENT", message), error);
}

// Whether `client` may be used in this process; else fills `error`.
ks_code Check(const ks_client* client, ks_error* error) {
  if (client == nullptr) return Invalid("client is NULL", error);
  if (!client->client->Forked()) return KS_OK;
  return ToError(
      MakeError(absl::StatusCode::kFailedPrecondition, "FORKED",
                "this process is a fork of the one that opened the client, which alone may use it"),
      error);
}

int64_t OrDefault(int64_t timeout_ms, int64_t default_ms) {
  return timeout_ms == 0 ? default_ms : timeout_ms;
}

// malloc'd, for ks_free; NULL when there is no memory.
template <typename Value>
Value* Duplicate(const void* bytes, size_t size_bytes) {
  void* copy = std::malloc(size_bytes == 0 ? 1 : size_bytes);
  if (copy != nullptr && size_bytes > 0) std::memcpy(copy, bytes, size_bytes);
  return static_cast<Value*>(copy);
}

ks_code NoMemory(ks_error* error) {
  return ToError(MakeError(absl::StatusCode::kResourceExhausted, "NO_MEMORY", "no memory for the answer"),
                 error);
}

}  // namespace

extern "C" {

uint32_t ks_abi_version(void) { return KS_ABI_VERSION; }
const char* ks_version(void) { return keepstep::client::kVersion; }

const char* ks_default_address(void) {
  thread_local std::string address;
  address = keepstep::client::DefaultAddress();
  return address.c_str();
}

ks_code ks_open(const ks_open_options* options, ks_client** client, ks_error* error) {
  if (client == nullptr) return Invalid("client is NULL", error);
  *client = nullptr;
  ks_open_options adopted;
  if (!Adopt(options, &adopted)) return Invalid("options is NULL or its struct_bytes is not set", error);
  auto spec = keepstep::client::ToSpec(adopted);
  if (!spec.ok()) return ToError(spec.status(), error);
  const int64_t timeout_ms = OrDefault(adopted.timeout_ms, spec->limits.open_ms);
  auto opened = Client::Open(*std::move(spec), After(timeout_ms));
  if (!opened.ok()) return ToError(opened.status(), error);
  *client = new ks_client{*std::move(opened)};
  return ToError(absl::OkStatus(), error);
}

void ks_close(ks_client* client) {
  if (client == nullptr) return;
  if (!client->client->Forked()) keepstep::client::PoolClientCloses(client);
  if (client->client->Forked()) {
    client->client->Abandon();
    (void)client->client.release();
  }
  delete client;
}

ks_code ks_get_info(ks_client* client, ks_info* info, ks_error* error) {
  if (const ks_code code = Check(client, error); code != KS_OK) return code;
  if (info == nullptr) return Invalid("info is NULL", error);
  const keepstep::client::SessionInfo now = client->client->session().info();
  *info = ks_info{.epoch = now.epoch, .transfer = static_cast<ks_transfer>(now.transfer)};
  keepstep::client::CopyText(now.daemon_version, info->daemon_version, sizeof(info->daemon_version));
  keepstep::client::CopyText(now.job, info->job, sizeof(info->job));
  info->connected = now.connected;
  keepstep::client::CopyText(keepstep::client::MemoryPaths(now), info->memory_paths,
                             sizeof(info->memory_paths));
  return ToError(absl::OkStatus(), error);
}

ks_code ks_device_alloc(ks_client* client, int32_t device, int64_t bytes, void** data, ks_error* error) {
  if (const ks_code code = Check(client, error); code != KS_OK) return code;
  if (data == nullptr) return Invalid("data is NULL", error);
  *data = nullptr;
  auto address = client->client->owned_memory().Allocate(device, bytes, After(client->client->limits().register_ms));
  if (address.ok()) *data = reinterpret_cast<void*>(*address);
  return ToError(address.status(), error);
}

ks_code ks_device_free(ks_client* client, void* data, ks_error* error) {
  if (data == nullptr) return Invalid("data is NULL", error);
  const auto address = reinterpret_cast<uint64_t>(data);
  if (client == nullptr) return ToError(keepstep::client::UnmapOwned(address).status(), error);
  if (const ks_code code = Check(client, error); code != KS_OK) return code;
  return ToError(client->client->owned_memory().Free(address, After(client->client->limits().rpc_ms)), error);
}

ks_code ks_pool_use(ks_client* client, ks_error* error) {
  if (client != nullptr) {
    if (const ks_code code = Check(client, error); code != KS_OK) return code;
  }
  keepstep::client::UseForPool(client);
  return ToError(absl::OkStatus(), error);
}

ks_code ks_register(ks_client* client, const ks_shard* shards, size_t count, ks_error* error) {
  if (const ks_code code = Check(client, error); code != KS_OK) return code;
  if (shards == nullptr && count > 0) return Invalid("shards is NULL", error);
  auto declared = keepstep::client::DeclareShards(shards, count);
  if (!declared.ok()) return ToError(declared.status(), error);
  return ToError(
      client->client->saves().Register(*std::move(declared), After(client->client->limits().register_ms)),
      error);
}

ks_code ks_save(ks_client* client, int64_t step, const ks_save_options* options, uint64_t* number,
                ks_error* error) {
  if (const ks_code code = Check(client, error); code != KS_OK) return code;
  if (number == nullptr) return Invalid("number is NULL", error);
  *number = 0;
  ks_save_options adopted{};
  if (options != nullptr && !Adopt(options, &adopted))
    return Invalid("options' struct_bytes is not set", error);
  auto request = keepstep::client::ToSave(step, adopted);
  if (!request.ok()) return ToError(request.status(), error);
  const int64_t timeout_ms = OrDefault(adopted.timeout_ms, client->client->limits().save_ms);
  if (adopted.stream_count > 0 && adopted.streams == nullptr) return Invalid("streams is NULL", error);
  const absl::Span<void* const> streams(adopted.streams, adopted.stream_count);
  return ToError(client->client->saves().Save(*std::move(request), streams, After(timeout_ms), number),
                 error);
}

ks_code ks_before_update(ks_client* client, uint32_t group, int64_t timeout_ms, ks_error* error) {
  if (const ks_code code = Check(client, error); code != KS_OK) return code;
  return ToError(client->client->BeforeUpdate(group, After(timeout_ms)), error);
}

ks_code ks_before_update_on(ks_client* client, uint32_t group, void* stream, int64_t timeout_ms, ks_error* error) {
  if (const ks_code code = Check(client, error); code != KS_OK) return code;
  return ToError(client->client->BeforeUpdateOn(group, stream, After(timeout_ms)), error);
}

ks_code ks_await_gate(ks_client* client, uint32_t group, int64_t timeout_ms, ks_error* error) {
  if (const ks_code code = Check(client, error); code != KS_OK) return code;
  return ToError(client->client->gate().Wait(group, After(timeout_ms)), error);
}

ks_code ks_after_update_on(ks_client* client, uint32_t group, void* stream, ks_error* error) {
  if (const ks_code code = Check(client, error); code != KS_OK) return code;
  auto* const recorder = client->client->recorder();
  return ToError(recorder == nullptr ? absl::OkStatus() : recorder->Done(group, stream), error);
}

ks_code ks_note_step(ks_client* client, int64_t step, const ks_save_options* options, ks_error* error) {
  if (const ks_code code = Check(client, error); code != KS_OK) return code;
  ks_save_options adopted{};
  if (options != nullptr && !Adopt(options, &adopted))
    return Invalid("options' struct_bytes is not set", error);
  auto* const recorder = client->client->recorder();
  if (recorder == nullptr) return ToError(absl::OkStatus(), error);
  if (step < 0) {
    recorder->Forget();
    return ToError(absl::OkStatus(), error);
  }
  auto request = keepstep::client::ToSave(step, adopted);
  if (!request.ok()) return ToError(request.status(), error);
  return ToError(recorder->Note(*std::move(request)), error);
}

ks_code ks_get_rescue(ks_client* client, ks_rescue_info* info, ks_error* error) {
  if (const ks_code code = Check(client, error); code != KS_OK) return code;
  ks_rescue_info adopted;
  if (!Adopt(info, &adopted)) return Invalid("info is NULL or its struct_bytes is not set", error);
  auto* const recorder = client->client->recorder();
  ks_rescue_info answer{.struct_bytes = info->struct_bytes, .step = -1};
  std::string why_not = "crash flush was not asked for";
  if (recorder != nullptr) {
    const auto now = recorder->info();
    answer.on = now.on;
    answer.step = now.step;
    why_not = now.why_not;
  }
  keepstep::client::CopyText(why_not, answer.why_not, sizeof(answer.why_not));
  std::memcpy(info, &answer, std::min<size_t>(info->struct_bytes, sizeof(answer)));
  return ToError(absl::OkStatus(), error);
}

int32_t ks_gate_open(ks_client* client, uint32_t group) {
  return Check(client, nullptr) == KS_OK && client->client->gate().IsOpen(group);
}

ks_code ks_wait(ks_client* client, uint64_t number, int32_t state, int64_t timeout_ms, ks_save_status* status,
                ks_error* error) {
  if (const ks_code code = Check(client, error); code != KS_OK) return code;
  if (status == nullptr) return Invalid("status is NULL", error);
  *status = ks_save_status{};
  if (state < KS_ACCEPTED || state > KS_COMMITTED)
    return Invalid("state is none that a save waits for", error);
  v1::SaveStatus found;
  const absl::Status waited =
      client->client->saves().Wait(number, static_cast<v1::SaveState>(state), After(timeout_ms), &found);
  keepstep::client::ToStatus(found, client->client->saves().CallSeconds(number), status);
  return ToError(waited, error);
}

int32_t ks_should_save(ks_client* client, int64_t step, int64_t every) {
  return Check(client, nullptr) == KS_OK && client->client->ShouldSave(step, every);
}

ks_code ks_wish_save(ks_client* client, ks_error* error) {
  const ks_code code = Check(client, error);
  if (code == KS_OK) client->client->WishSave();
  return code;
}

ks_code ks_load(ks_client* client, const ks_load_options* options, ks_load_report* report, ks_error* error) {
  if (const ks_code code = Check(client, error); code != KS_OK) return code;
  if (report == nullptr) return Invalid("report is NULL", error);
  *report = ks_load_report{};
  ks_load_options adopted;
  if (!Adopt(options, &adopted)) return Invalid("options is NULL or its struct_bytes is not set", error);
  auto request = keepstep::client::ToLoad(adopted);
  if (!request.ok()) return ToError(request.status(), error);
  const auto on_progress = [&](const v1::LoadProgress& progress) {
    if (adopted.progress != nullptr)
      adopted.progress(adopted.progress_context, progress.bytes_done(), progress.bytes_total());
  };
  auto loaded =
      client->client->Load(*std::move(request), After(OrDefault(adopted.timeout_ms, -1)), on_progress);
  if (!loaded.ok()) return ToError(loaded.status(), error);
  return ToError(keepstep::client::ToReport(*loaded, report), error);
}

ks_code ks_get_extras(ks_client* client, int32_t latest, int64_t step, int32_t rank, uint8_t** bytes,
                      size_t* size, ks_error* error) {
  if (const ks_code code = Check(client, error); code != KS_OK) return code;
  if (bytes == nullptr || size == nullptr) return Invalid("bytes or size is NULL", error);
  *bytes = nullptr;
  *size = 0;
  v1::GetExtraRequest request;
  request.set_latest(latest != 0);
  request.set_step(step);
  request.set_rank(rank);
  auto response = client->client->GetExtras(request, After(client->client->limits().open_ms));
  if (!response.ok()) return ToError(response.status(), error);
  const std::string record = keepstep::client::EncodeExtras(*response);
  *bytes = Duplicate<uint8_t>(record.data(), record.size());
  if (*bytes == nullptr) return NoMemory(error);
  *size = record.size();
  return ToError(absl::OkStatus(), error);
}

ks_code ks_steps(ks_client* client, int64_t** steps, size_t* count, ks_error* error) {
  if (const ks_code code = Check(client, error); code != KS_OK) return code;
  if (steps == nullptr || count == nullptr) return Invalid("steps or count is NULL", error);
  *steps = nullptr;
  *count = 0;
  auto found = client->client->Steps(After(client->client->limits().open_ms));
  if (!found.ok()) return ToError(found.status(), error);
  *steps = Duplicate<int64_t>(found->data(), found->size() * sizeof(int64_t));
  if (*steps == nullptr) return NoMemory(error);
  *count = found->size();
  return ToError(absl::OkStatus(), error);
}

void ks_free(void* memory) { std::free(memory); }

void ks_prefetch(const uint64_t* addresses, size_t count) {
  if (addresses == nullptr) return;
  for (size_t i = 0; i < count; ++i) __builtin_prefetch(reinterpret_cast<const void*>(addresses[i]));
}

}  // extern "C"
