// The library's threads: they take no signals, which belong to the application's own.

#ifndef KEEPSTEP_CLIENT_THREAD_H_
#define KEEPSTEP_CLIENT_THREAD_H_

#include <pthread.h>
#include <signal.h>

#include <thread>
#include <utility>

namespace keepstep::client {

template <typename Body>
std::thread StartThread(const char* name, Body body) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread(std::move(body));
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_setname_np(thread.native_handle(), name);
  return thread;
}

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_THREAD_H_
