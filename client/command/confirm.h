// Asks before something is deleted.

#ifndef KEEPSTEP_CLIENT_COMMAND_CONFIRM_H_
#define KEEPSTEP_CLIENT_COMMAND_CONFIRM_H_

namespace keepstep::client {

// Asks "Go on?" on the terminal; false unless somebody is there and says yes.
bool Confirmed();

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_COMMAND_CONFIRM_H_
