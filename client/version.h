// The version of libkeepstep, in one place.

#ifndef KEEPSTEP_CLIENT_VERSION_H_
#define KEEPSTEP_CLIENT_VERSION_H_

namespace keepstep::client {

inline constexpr char kVersion[] = "0.1.0";

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_VERSION_H_
