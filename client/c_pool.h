// Which client the allocators of frameworks take memory from: the part of it that the rest of the C ABI calls.

#ifndef KEEPSTEP_CLIENT_C_POOL_H_
#define KEEPSTEP_CLIENT_C_POOL_H_

struct ks_client;

namespace keepstep::client {

// Before the client is closed: no allocation uses it from then on. Waits for one that is under way.
void PoolClientCloses(ks_client* client);

void UseForPool(ks_client* client);  // null: none

}  // namespace keepstep::client

#endif  // KEEPSTEP_CLIENT_C_POOL_H_
