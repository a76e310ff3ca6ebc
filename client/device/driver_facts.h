// What the CUDA driver of this machine offers, for people.

#ifndef KEEPSTEP_CLIENT_DEVICE_DRIVER_FACTS_H_
#define KEEPSTEP_CLIENT_DEVICE_DRIVER_FACTS_H_

#include <string>

namespace keepstep::client {

struct DriverFacts {
  bool works = false;  // CUDA starts, or there is no driver at all
  std::string
      text;  // "CUDA 13.0, 1 GPU: NVIDIA H100 (ipc events, vmm descriptors, stream memory operations)"
};

// Starts CUDA in this process, and makes no context.
DriverFacts LookAtDriver();

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_DEVICE_DRIVER_FACTS_H_
