// The window path: copies between registered buffers and the shared window, as the daemon asks.
//
// The daemon is not trusted with this process's memory: an entry outside the registered buffers or the window
// gets EFAULT, and one that would write while no load is under way EACCES; then nothing of that request is
// copied. Entries in GPU memory are copied by the GPU, the others by threads meanwhile.

#ifndef KEEPSTEP_CLIENT_COPY_THREAD_H_
#define KEEPSTEP_CLIENT_COPY_THREAD_H_

#include <functional>
#include <memory>
#include <thread>

#include "client/buffer_table.h"
#include "client/device/devices.h"
#include "client/handoff_client.h"

namespace keepstep::client {

// 0, or the errno value that refuses the request.
int CheckCopy(const CopyRequest& request, const BufferTable& buffers, uint64_t window_bytes);

// Carries out a checked request with up to `threads` threads.
void RunCopy(const CopyRequest& request, std::byte* window, int threads);

class CopyThread {
 public:
  // `buffers` and `devices` outlive it. `before_copy` is called before each request that copies out of this process.
  CopyThread(std::shared_ptr<HandoffClient> handoff, BufferTable* buffers, Devices* devices, int threads,
             std::function<void()> before_copy);
  ~CopyThread();  // shuts the connection down and joins; a request under way is finished first

 private:
  void Run();
  int Carry(CopyRequest request);

  std::shared_ptr<HandoffClient> handoff_;
  BufferTable* buffers_;
  Devices* devices_;
  const int threads_;
  const std::function<void()> before_copy_;
  std::thread thread_;
};

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_COPY_THREAD_H_
