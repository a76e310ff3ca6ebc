#include "tests/fake_cuda/transfer.h"

#include <cstring>

namespace keepstep::fake_cuda {
namespace {

struct Pieces {
  std::vector<Piece> to;
  std::vector<Piece> from;
};

CUresult Resolve(const std::vector<Row>& rows, Access read, Access write, Pieces& into) {
  const MemoryMap& memory = Driver::Get().memory();
  for (const Row& row : rows) {
    CUresult found = memory.Resolve(row.to, row.size_bytes, write, into.to);
    if (found == CUDA_SUCCESS) found = memory.Resolve(row.from, row.size_bytes, read, into.from);
    if (found != CUDA_SUCCESS) return found;
  }
  return CUDA_SUCCESS;
}

bool IsPageable(uint64_t address) {
  const MemoryMap& memory = Driver::Get().memory();
  return !memory.IsDevice(address) && !memory.FindHost(address);
}

struct Direction {
  CopyEngine* engine;
  Counter counter;
};

Direction DirectionOf(Context& context, const Row& row) {
  const bool to_device = Driver::Get().memory().IsDevice(row.to);
  const bool from_device = Driver::Get().memory().IsDevice(row.from);
  if (to_device && from_device) return {&context.device_to_device, kDeviceToDeviceBytes};
  if (from_device) return {&context.device_to_host, kDeviceToHostBytes};
  return {&context.host_to_device, kHostToDeviceBytes};
}

// Copies what pageable memory holds now, as a driver stages it, and lets `rows` begin there.
std::shared_ptr<std::vector<char>> Stage(std::vector<Row>& rows) {
  size_t size_bytes = 0;
  for (const Row& row : rows) size_bytes += row.size_bytes;
  auto staged = std::make_shared<std::vector<char>>(size_bytes);
  char* next = staged->data();
  for (Row& row : rows) {
    std::memcpy(next, reinterpret_cast<const char*>(row.from), row.size_bytes);
    row.from = reinterpret_cast<uint64_t>(next);
    next += row.size_bytes;
  }
  return staged;
}

}  // namespace

CUresult Transfer(Context& context, Stream& stream, std::vector<Row> rows) {
  if (rows.empty()) return CUDA_SUCCESS;
  Pieces now;
  const CUresult found = Resolve(rows, Access::kMapped, Access::kMapped, now);
  if (found != CUDA_SUCCESS) return found;
  const Direction direction = DirectionOf(context, rows.front());
  const bool returns_when_over = IsPageable(rows.front().to);
  std::shared_ptr<std::vector<char>> staged;
  if (IsPageable(rows.front().from)) staged = Stage(rows);
  size_t size_bytes = 0;
  for (const Row& row : rows) size_bytes += row.size_bytes;
  const uint64_t ticket = context.Enqueue(stream, [&context, rows = std::move(rows), direction,
                                                   staged = std::move(staged), size_bytes](Time ready) {
    Pieces pieces;
    if (Resolve(rows, Access::kRead, Access::kWrite, pieces) != CUDA_SUCCESS) {
      context.sticky().Set(CUDA_ERROR_ILLEGAL_ADDRESS);
      return ready;
    }
    for (const Piece& piece : pieces.from) {
      if (!Driver::Get().options().outliving && piece.keep && piece.keep->MakerIsGone())
        std::memset(piece.data, 0xEE, piece.size_bytes);
    }
    const Time due = direction.engine->Copy(pieces.to, pieces.from, ready);
    Driver::Get().counters().Add(direction.counter, static_cast<int64_t>(size_bytes));
    return due;
  });
  if (!returns_when_over) return CUDA_SUCCESS;
  stream.Wait(ticket);
  return Waited(context);
}

CUresult TransferNow(Context& context, std::vector<Row> rows) {
  const std::shared_ptr<Stream> legacy = context.LegacyStream();
  const CUresult queued = Transfer(context, *legacy, std::move(rows));
  if (queued != CUDA_SUCCESS) return queued;
  legacy->Wait(legacy->queued());
  return Waited(context);
}

CUresult Fill(Context& context, Stream& stream, CUdeviceptr to, uint32_t value, size_t unit_bytes,
              size_t count) {
  MemoryMap& memory = Driver::Get().memory();
  const size_t size_bytes = unit_bytes * count;
  std::vector<Piece> now;
  if (to % unit_bytes != 0 || !memory.IsDevice(to)) return CUDA_ERROR_INVALID_VALUE;
  const CUresult found = memory.Resolve(to, size_bytes, Access::kMapped, now);
  if (found != CUDA_SUCCESS) return found;
  context.Enqueue(stream, [&context, &memory, to, value, unit_bytes, size_bytes](Time ready) {
    std::vector<Piece> pieces;
    if (memory.Resolve(to, size_bytes, Access::kWrite, pieces) != CUDA_SUCCESS) {
      context.sticky().Set(CUDA_ERROR_ILLEGAL_ADDRESS);
      return ready;
    }
    for (const Piece& piece : pieces) {
      for (size_t done = 0; unit_bytes == 4 && done < piece.size_bytes; done += 4) {
        std::memcpy(piece.data + done, &value, 4);
      }
      if (unit_bytes == 1) std::memset(piece.data, static_cast<int>(value), piece.size_bytes);
    }
    return ready;
  });
  return CUDA_SUCCESS;
}

}  // namespace keepstep::fake_cuda
