// A GPU and its primary context, which is the only kind there is here.

#ifndef KEEPSTEP_TESTS_FAKE_CUDA_CONTEXT_H_
#define KEEPSTEP_TESTS_FAKE_CUDA_CONTEXT_H_

#include <atomic>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "tests/fake_cuda/copy_engine.h"
#include "tests/fake_cuda/options.h"
#include "tests/fake_cuda/stream.h"

namespace keepstep::fake_cuda {

// Thread-safe. Never deleted: a CUcontext stays the same for the life of the process, retained or not.
class Context {
 public:
  Context(int ordinal, const DeviceOptions& options, int device_number);

  int ordinal() const { return ordinal_; }
  const DeviceOptions& options() const { return options_; }
  int device_number() const { return device_number_; }  // in the counters file
  Sticky& sticky() { return sticky_; }

  CopyEngine host_to_device;
  CopyEngine device_to_host;
  CopyEngine device_to_device;

  // How often it is retained. Whoever changes it holds `retained_mutex`.
  std::mutex retained_mutex;
  std::atomic<int> retained = 0;

  // Makes a stream. The one of CU_STREAM_PER_THREAD is made when a thread first asks for it.
  std::shared_ptr<Stream> NewStream(bool blocking);
  std::shared_ptr<Stream> LegacyStream();
  std::shared_ptr<Stream> ThreadStream();

  // Queues `operation`; the legacy default stream waits for all blocking streams, and they wait for it.
  uint64_t Enqueue(Stream& stream, Stream::Operation operation);

  // Forgets the stream, which ends when it is through. False when it is not one of NewStream's.
  bool CloseStream(const Stream* stream);

  // Blocks until all streams are through with what is queued now.
  void Synchronize();

  // Closes all streams. Returns how many NewStream had made.
  int CloseAll();

 private:
  std::vector<std::shared_ptr<Stream>> AllStreams();

  const int ordinal_;
  const DeviceOptions options_;
  const int device_number_;
  Sticky sticky_;

  std::mutex mutex_;
  std::mutex order_mutex_;  // what is queued where, in one order for all streams
  std::shared_ptr<Stream> legacy_;
  std::set<std::shared_ptr<Stream>> made_;
  std::vector<std::weak_ptr<Stream>> of_threads_;
  std::atomic<int> generation_ = 0;  // counts CloseAll: streams of threads from before are no more
};

}  // namespace keepstep::fake_cuda

#endif  // KEEPSTEP_TESTS_FAKE_CUDA_CONTEXT_H_
