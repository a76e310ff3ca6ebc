// Copies and fills.

#include "tests/fake_cuda/transfer.h"

using namespace keepstep::fake_cuda;

namespace {

uint64_t Address(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

// A direction that the caller named must be the one there is.
bool AreDevice(std::initializer_list<CUdeviceptr> pointers) {
  for (CUdeviceptr pointer : pointers) {
    if (!Driver::Get().memory().IsDevice(pointer)) return false;
  }
  return true;
}

std::vector<Row> OneRow(uint64_t to, uint64_t from, size_t size_bytes) {
  if (size_bytes == 0) return {};
  return {{to, from, size_bytes}};
}

CUresult Copy(const char* call, bool named_rightly, std::vector<Row> rows) {
  return InContext(call, [&](Context& context) -> CUresult {
    return named_rightly ? TransferNow(context, std::move(rows)) : CUDA_ERROR_INVALID_VALUE;
  });
}

CUresult CopyOn(const char* call, CUstream stream, bool named_rightly, std::vector<Row> rows) {
  return OnStream(call, stream, [&](Context& context, Stream& on) -> CUresult {
    return named_rightly ? Transfer(context, on, std::move(rows)) : CUDA_ERROR_INVALID_VALUE;
  });
}

// The address of one side of a 2D copy; 0 for arrays, which this driver does not have.
uint64_t Side(CUmemorytype type, const void* host, CUdeviceptr device, size_t x, size_t y, size_t pitch) {
  const uint64_t base = type == CU_MEMORYTYPE_HOST ? Address(host) : type == CU_MEMORYTYPE_ARRAY ? 0 : device;
  return base == 0 ? 0 : base + y * pitch + x;
}

// False when the description makes no sense.
bool RowsOf(const CUDA_MEMCPY2D* copy, std::vector<Row>& rows) {
  if (!copy) return false;
  const size_t from_pitch = copy->srcPitch ? copy->srcPitch : copy->WidthInBytes;
  const size_t to_pitch = copy->dstPitch ? copy->dstPitch : copy->WidthInBytes;
  const uint64_t from =
      Side(copy->srcMemoryType, copy->srcHost, copy->srcDevice, copy->srcXInBytes, copy->srcY, from_pitch);
  const uint64_t to =
      Side(copy->dstMemoryType, copy->dstHost, copy->dstDevice, copy->dstXInBytes, copy->dstY, to_pitch);
  if (from == 0 || to == 0 || from_pitch < copy->srcXInBytes + copy->WidthInBytes ||
      to_pitch < copy->dstXInBytes + copy->WidthInBytes) {
    return false;
  }
  for (size_t y = 0; y < copy->Height && copy->WidthInBytes > 0; ++y) {
    rows.push_back({to + y * to_pitch, from + y * from_pitch, copy->WidthInBytes});
  }
  return true;
}

}  // namespace

CUresult CUDAAPI cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t size_bytes) {
  return Copy("cuMemcpy", true, OneRow(to, from, size_bytes));
}

CUresult CUDAAPI cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t size_bytes, CUstream stream) {
  return CopyOn("cuMemcpyAsync", stream, true, OneRow(to, from, size_bytes));
}

CUresult CUDAAPI cuMemcpyHtoD(CUdeviceptr to, const void* from, size_t size_bytes) {
  return Copy("cuMemcpyHtoD", AreDevice({to}), OneRow(to, Address(from), size_bytes));
}

CUresult CUDAAPI cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t size_bytes, CUstream stream) {
  return CopyOn("cuMemcpyHtoDAsync", stream, AreDevice({to}), OneRow(to, Address(from), size_bytes));
}

CUresult CUDAAPI cuMemcpyDtoH(void* to, CUdeviceptr from, size_t size_bytes) {
  return Copy("cuMemcpyDtoH", AreDevice({from}), OneRow(Address(to), from, size_bytes));
}

CUresult CUDAAPI cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t size_bytes, CUstream stream) {
  return CopyOn("cuMemcpyDtoHAsync", stream, AreDevice({from}), OneRow(Address(to), from, size_bytes));
}

CUresult CUDAAPI cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t size_bytes) {
  return Copy("cuMemcpyDtoD", AreDevice({to, from}), OneRow(to, from, size_bytes));
}

CUresult CUDAAPI cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t size_bytes, CUstream stream) {
  return CopyOn("cuMemcpyDtoDAsync", stream, AreDevice({to, from}), OneRow(to, from, size_bytes));
}

CUresult CUDAAPI cuMemcpy2D(const CUDA_MEMCPY2D* copy) {
  std::vector<Row> rows;
  const bool makes_sense = RowsOf(copy, rows);
  return Copy("cuMemcpy2D", makes_sense, std::move(rows));
}

CUresult CUDAAPI cuMemcpy2DUnaligned(const CUDA_MEMCPY2D* copy) {
  std::vector<Row> rows;
  const bool makes_sense = RowsOf(copy, rows);
  return Copy("cuMemcpy2DUnaligned", makes_sense, std::move(rows));
}

CUresult CUDAAPI cuMemcpy2DAsync(const CUDA_MEMCPY2D* copy, CUstream stream) {
  std::vector<Row> rows;
  const bool makes_sense = RowsOf(copy, rows);
  return CopyOn("cuMemcpy2DAsync", stream, makes_sense, std::move(rows));
}

CUresult CUDAAPI cuMemsetD8(CUdeviceptr to, unsigned char value, size_t count) {
  return InContext("cuMemsetD8", [&](Context& context) {
    return Fill(context, *context.LegacyStream(), to, value, 1, count);
  });
}

CUresult CUDAAPI cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream) {
  return OnStream("cuMemsetD8Async", stream,
                  [&](Context& context, Stream& on) { return Fill(context, on, to, value, 1, count); });
}

CUresult CUDAAPI cuMemsetD32(CUdeviceptr to, unsigned int value, size_t count) {
  return InContext("cuMemsetD32", [&](Context& context) {
    return Fill(context, *context.LegacyStream(), to, value, 4, count);
  });
}

CUresult CUDAAPI cuMemsetD32Async(CUdeviceptr to, unsigned int value, size_t count, CUstream stream) {
  return OnStream("cuMemsetD32Async", stream,
                  [&](Context& context, Stream& on) { return Fill(context, on, to, value, 4, count); });
}
