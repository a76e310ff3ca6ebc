/* libkeepstep: hands a process's tensors to its node's checkpoint daemon. C ABI, version 1.
 *
 * A `ks_client` is one rank of one job (or a reader). Register what the rank holds once; then every `ks_save`
 * is one small message, the daemon copies in the background, and `ks_before_update` keeps the next update
 * from tearing the copy. The daemon may restart underneath: the client reconnects, registers again and
 * reports what became of its saves.
 *
 * Thread-safety: every function may be called from any thread. A forked child gets KS_FAILED_PRECONDITION
 * with reason FORKED from everything but ks_close, which then only frees memory. Ownership: the library
 * copies everything that it is given, except the buffers: their memory must stay mapped and unchanged in
 * place until a later registration drops it or the client is closed. That holds for GPU memory too, which is
 * named by its device address (KS_CUDA): CUDA is used in the caller's process only once such a shard is
 * registered. Errors: every function that can fail
 * returns a ks_code and, where `error` is not NULL, fills it. Strings are UTF-8, NUL-terminated. Times are in
 * milliseconds; a negative timeout waits without limit. Where a caller chooses from an enum the type is
 * int32_t, so that any number may be given: one that is none of the enum's is KS_INVALID_ARGUMENT.
 */
#ifndef KEEPSTEP_CLIENT_KEEPSTEP_H_
#define KEEPSTEP_CLIENT_KEEPSTEP_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KS_ABI_VERSION 1
#define KS_API __attribute__((visibility("default")))

/* The canonical codes of gRPC. */
typedef enum ks_code {
  KS_OK = 0,
  KS_CANCELLED = 1,
  KS_UNKNOWN = 2,
  KS_INVALID_ARGUMENT = 3,
  KS_DEADLINE_EXCEEDED = 4,
  KS_NOT_FOUND = 5,
  KS_ALREADY_EXISTS = 6,
  KS_PERMISSION_DENIED = 7,
  KS_RESOURCE_EXHAUSTED = 8,
  KS_FAILED_PRECONDITION = 9,
  KS_ABORTED = 10,
  KS_OUT_OF_RANGE = 11,
  KS_UNIMPLEMENTED = 12,
  KS_INTERNAL = 13,
  KS_UNAVAILABLE = 14,
  KS_DATA_LOSS = 15,
  KS_UNAUTHENTICATED = 16
} ks_code;

typedef struct ks_error {
  ks_code code;
  int32_t rank;    /* -1: none to blame */
  char reason[64]; /* UPPER_SNAKE_CASE, an entry of docs/errors.md */
  char stage[32];
  char message[1024]; /* says what to do next */
} ks_error;

typedef enum ks_mode { KS_TRAIN = 0, KS_READ = 1 } ks_mode;
typedef enum ks_transfer { KS_TRANSFER_AUTO = 0, KS_TRANSFER_PULL = 1, KS_TRANSFER_WINDOW = 2 } ks_transfer;
typedef enum ks_on_busy { KS_WAIT = 0, KS_SKIP = 1, KS_SUPERSEDE = 2 } ks_on_busy;
typedef enum ks_component { KS_MODEL = 1, KS_OPTIMIZER = 2, KS_EXTRA = 3 } ks_component;
typedef enum ks_state {
  KS_ACCEPTED = 1,
  KS_SNAPSHOTTED = 2,
  KS_PERSISTED = 3,
  KS_COMMITTED = 4,
  KS_SKIPPED = 5,
  KS_SUPERSEDED = 6,
  KS_STATE_CANCELLED = 7,
  KS_FAILED = 8
} ks_state;

typedef struct ks_client ks_client;

typedef struct ks_open_options {
  uint32_t struct_bytes; /* sizeof(ks_open_options): lets the struct grow */
  const char* directory; /* the job; made (one level) in KS_TRAIN when absent */
  const char* address;   /* unix:///run/keepstep/keepstep.sock; NULL: $KEEPSTEP_ADDR, then the places of
                            ks_default_address */
  const char* label;     /* NULL: the directory's last part */
  const char* run;       /* KS_READ with several ranks; NULL: none */
  int32_t mode;          /* a ks_mode */
  int32_t rank, world_size;
  const char* const* mesh_names; /* NULL: one dimension of world_size */
  const int64_t* mesh_sizes;
  size_t mesh_dims;
  int32_t transfer;   /* a ks_transfer; KS_TRANSFER_AUTO reads $KEEPSTEP_TRANSFER (pull, window) */
  int64_t timeout_ms; /* of the opening; 0: 60 000 */
  int64_t keep_last;  /* KS_TRAIN: checkpoints that stay, the newest; 0: all. The same on every rank */
  int64_t keep_every; /* and steps that are multiples of this; 0: none; only with keep_last */
  /* KS_TRAIN: 1: when every rank's process has died, the daemon saves the newest step that all of them held whole (crash
   * flush, docs/gpu.md). Every rank has to ask, to announce each update by ks_before_update_on and ks_after_update_on,
   * and to call ks_note_step once a step. */
  int32_t rescue;
  /* KS_TRAIN: 1: warm restart (docs/gpu.md), which wants updates announced and steps noted as rescue does. What this
   * rank holds in memory from ks_device_alloc is kept when its process dies, and such memory may be that of the process
   * before: it is not written before the first ks_load. The same on every rank. */
  int32_t warm;
} ks_open_options;

/* Where a shard lies: exactly one of `boxes`, `flat`, `placements` is used, by `where`. */
typedef enum ks_where { KS_BOXES = 0, KS_FLAT = 1, KS_PLACED = 2 } ks_where;
/* What `data` is an address of. KS_CUDA: of GPU memory, however it was allocated; a driver must be there. */
typedef enum ks_memory { KS_HOST = 0, KS_CUDA = 1 } ks_memory;
typedef enum ks_placement_kind { KS_REPLICATE = 0, KS_SHARD = 1, KS_STRIDED_SHARD = 2 } ks_placement_kind;

typedef struct ks_placement {
  int32_t kind; /* a ks_placement_kind */
  int32_t tensor_dim;
  int32_t split_factor;
} ks_placement;

typedef struct ks_box {
  const int64_t* origin;        /* ndim elements */
  const int64_t* shape;         /* ndim elements */
  const int64_t* strides_bytes; /* NULL: row-major contiguous */
  int64_t offset_bytes;         /* from the buffer's start */
} ks_box;

typedef struct ks_shard {
  const char* fqn;
  const char* dtype; /* as safetensors spells it: "F32", "BF16", … */
  const int64_t* global_shape;
  size_t ndim;
  int32_t component; /* a ks_component */
  uint32_t group;
  int32_t module_buffer; /* 1: saved from the lowest replica, replicas may differ */
  void* data;            /* the buffer's start in this process */
  int64_t data_bytes;    /* shards with equal `data` and `data_bytes` share one buffer */
  int32_t where;         /* a ks_where */
  const ks_box* boxes;   /* KS_BOXES */
  size_t box_count;
  const int64_t* flat_origin; /* KS_FLAT: the box that is flattened; NULL: the whole tensor */
  const int64_t* flat_shape;
  int64_t flat_begin, flat_end;   /* elements */
  const ks_placement* placements; /* KS_PLACED: one per mesh dimension */
  size_t placement_count;
  const int64_t* local_strides_bytes; /* KS_PLACED; NULL: contiguous */
  const int32_t*
      replica_ranks; /* every holder of the same content, this rank included; NULL: not replicated */
  size_t replica_count;
  int32_t memory; /* a ks_memory */
} ks_shard;

typedef struct ks_extra {
  const char* name;
  const void* const* items;
  const size_t* item_bytes;
  size_t item_count; /* 1 unless splittable */
  int32_t splittable;
} ks_extra;

typedef struct ks_save_options {
  uint32_t struct_bytes;
  int32_t on_busy;        /* a ks_on_busy */
  const ks_extra* extras; /* together at most 1 MiB */
  size_t extra_count;
  const char* const* metric_names;
  const double* metric_values;
  size_t metric_count;
  const char* const* tags;
  size_t tag_count;
  int64_t
      timeout_ms; /* of the call; 0: 10 000. After a timeout the gate stays shut until the outcome is known */
  /* CUstream handles: what is saved is what GPU memory holds once the work queued on them so far is done. 0, 1
   * and 2 are CUDA's default streams, of every GPU that holds registered memory. A GPU for which no stream is
   * named: its default stream. */
  void* const* streams;
  size_t stream_count;
} ks_save_options;

typedef struct ks_save_status {
  uint64_t number;
  int64_t step;
  ks_state state;
  char attempt[64];
  int64_t bytes_total, bytes_copied, bytes_written;
  double call_seconds, snapshot_seconds, persist_seconds, commit_seconds;
  ks_error error; /* of FAILED, SKIPPED, SUPERSEDED, CANCELLED */
} ks_save_status;

typedef struct ks_load_options {
  uint32_t struct_bytes;
  int32_t latest; /* 1: `step` is not used */
  int64_t step;
  int32_t strict; /* 1: a registered tensor that is not stored is an error */
  int32_t convert_dtype;
  const char* const* only; /* fnmatch patterns */
  size_t only_count;
  const char* const* exclude;
  size_t exclude_count;
  const char* const* rename_from; /* registered names … */
  const char* const* rename_to;   /* … and the stored names to read */
  size_t rename_count;
  int64_t timeout_ms; /* 0: without limit */
  void (*progress)(void* context, int64_t bytes_done,
                   int64_t bytes_total); /* NULL: none; on the calling thread */
  void* progress_context;
} ks_load_options;

typedef struct ks_load_report {
  int32_t found; /* 0: "latest" of a job that has no checkpoint */
  int64_t step, epoch;
  int64_t delivered_bytes, unique_bytes, read_bytes, warm_bytes;
  double seconds;
  char attempt[64];
  char* missing; /* names separated by '\n'; free with ks_free */
  char* unexpected;
  int32_t warm; /* 1: nothing was loaded: memory was kept, and holds `step`, which need not be committed */
  char why_cold[256]; /* of the first load with ks_open_options.warm, where it was not */
} ks_load_report;

typedef struct ks_info {
  int64_t epoch;
  ks_transfer transfer;
  char daemon_version[32];
  char job[256];
  int32_t connected;
  /* How registered memory reaches the daemon: "host by pull; 3 allocations by ipc, 2 by vmm" (docs/gpu.md). */
  char memory_paths[64];
} ks_info;

typedef struct ks_rescue_info {
  uint32_t struct_bytes; /* sizeof(ks_rescue_info), set by the caller */
  int32_t on;        /* 1: what is noted counts */
  int64_t step;      /* noted last since registering; -1: none */
  char why_not[256]; /* "": it is on, or nothing is registered yet */
} ks_rescue_info;

KS_API uint32_t ks_abi_version(void);
KS_API const char* ks_version(void);
/* $KEEPSTEP_ADDR, else keepstep.sock in $XDG_RUNTIME_DIR/keepstep, /tmp/keepstep-UID or /run/keepstep: the
 * first where somebody listens now. Valid until the thread's next call. */
KS_API const char* ks_default_address(void);

/* Connects, hands the directory over and joins the job. UNAVAILABLE (reason NO_DAEMON): nobody listens there.
 */
KS_API ks_code ks_open(const ks_open_options* options, ks_client** client, ks_error* error);
/* Waits for nothing, tells the daemon that the session is over, frees. NULL is fine. */
KS_API void ks_close(ks_client* client);
KS_API ks_code ks_get_info(ks_client* client, ks_info* info, ks_error* error);

/* `bytes` of new memory on this process's GPU `device` (CUDA's ordinal), in `data`: memory that the daemon owns, zeroed,
 * counted against gpu_pool.bytes. It is used and registered (KS_CUDA) as any other, and stays mapped until
 * ks_device_free or the process's end, also after ks_close. Which allocation of that GPU it is, first, second, …, is
 * its name for a warm restart. RESOURCE_EXHAUSTED: over the limit. */
KS_API ks_code ks_device_alloc(ks_client* client, int32_t device, int64_t bytes, void** data, ks_error* error);
/* Unmaps it, once the GPU has done what is queued: nothing registered lies there any more. `client` may be NULL when it is
 * closed. */
KS_API ks_code ks_device_free(ks_client* client, void* data, ks_error* error);

/* The same for allocators of frameworks, which know no client: PyTorch's CUDAPluggableAllocator takes the two functions
 * by name. Memory comes from the client that ks_pool_use named last, until it is closed; NULL: from none. ks_pool_alloc
 * returns NULL, and says why on stderr, where none is to be had. Streams are not looked at: memory is mapped when the
 * call returns, and freed once the GPU has done what is queued. */
KS_API ks_code ks_pool_use(ks_client* client, ks_error* error);
KS_API void* ks_pool_alloc(ptrdiff_t bytes, int32_t device, void* stream);
KS_API void ks_pool_free(void* data, ptrdiff_t bytes, int32_t device, void* stream);

/* Replaces everything that is registered. Checked as a whole: on error the old registration stands. */
KS_API ks_code ks_register(ks_client* client, const ks_shard* shards, size_t count, ks_error* error);

/* Starts a save of everything registered after `step` completed updates. Returns when the daemon has accepted
 * it (or skipped it: the status says so); copying goes on. `number` names the save from here on. */
KS_API ks_code ks_save(ks_client* client, int64_t step, const ks_save_options* options, uint64_t* number,
                       ks_error* error);
/* The gate: returns when tensors of `group` may change. One comparison when nothing is in flight. The
 * library's watchdog opens it by itself when the daemon is gone or stuck, and that save then fails. */
KS_API ks_code ks_before_update(ks_client* client, uint32_t group, int64_t timeout_ms, ks_error* error);
/* The same for work that is queued on `stream` (a CUstream of the GPU that holds the group's memory) from now on: where the
 * driver can, the wait is queued there and the call returns at once; the group's memory must then be changed by that work
 * alone. Else, and for a group with host memory, it waits as ks_before_update does. */
KS_API ks_code ks_before_update_on(ks_client* client, uint32_t group, void* stream, int64_t timeout_ms,
                                   ks_error* error);
/* Waits as ks_before_update does, for a caller that changes nothing then: crash flush takes it for no update. */
KS_API ks_code ks_await_gate(ks_client* client, uint32_t group, int64_t timeout_ms, ks_error* error);
/* With crash flush, after the work that ks_before_update_on(group, stream) was called for is queued: marks its end in
 * stream order. One update of a group at a time. Never blocks; without crash flush it does nothing. */
KS_API ks_code ks_after_update_on(ks_client* client, uint32_t group, void* stream, ks_error* error);
/* With crash flush, once a step, when its last update is queued: what ks_save(step) would have sent, should this process
 * die before the next. Registered host memory is copied here (at most 64 MiB). The options' timeout and streams are not
 * used. A negative step makes void what was noted: registered memory is about to change by something else than announced
 * updates (ks_load does so by itself). Never waits for GPU or daemon; without crash flush it does nothing. */
KS_API ks_code ks_note_step(ks_client* client, int64_t step, const ks_save_options* options, ks_error* error);
/* Whether crash flush counts for what is registered, and if not, why: training goes on either way. */
KS_API ks_code ks_get_rescue(ks_client* client, ks_rescue_info* info, ks_error* error);
/* 1 when the gate of `group` is open; never blocks. */
KS_API int32_t ks_gate_open(ks_client* client, uint32_t group);
/* Waits until the save reached `state` or is over. KS_OK with status->state FAILED says that it failed. */
KS_API ks_code ks_wait(ks_client* client, uint64_t number, int32_t state, int64_t timeout_ms,
                       ks_save_status* status, ks_error* error);
/* The same answer on every rank: 1 when `step` should be saved (interval `every`, or a wish). 0: `every`
 * never. */
KS_API int32_t ks_should_save(ks_client* client, int64_t step, int64_t every);
/* Preemption: asks for a save at the next step that all ranks have still ahead. From about a second later on
 * ks_should_save says on every rank which one that is. Once for each client; later calls change nothing. */
KS_API ks_code ks_wish_save(ks_client* client, ks_error* error);

/* Fills the registered buffers. On error the buffers are undefined. Waits first for what is queued on the GPUs that
 * hold any. */
KS_API ks_code ks_load(ks_client* client, const ks_load_options* options, ks_load_report* report,
                       ks_error* error);
/* Extras of a committed step as one malloc'd record, free with ks_free: see client/extras.h for its layout.
 */
KS_API ks_code ks_get_extras(ks_client* client, int32_t latest, int64_t step, int32_t rank, uint8_t** bytes,
                             size_t* size, ks_error* error);
/* Committed steps as the daemon lists them, newest last; free with ks_free. */
KS_API ks_code ks_steps(ks_client* client, int64_t** steps, size_t* count, ks_error* error);
KS_API void ks_free(void* memory);

/* Tells the processor that the memory at each of `count` addresses will be read soon: for a caller that looks
 * at many small objects. Reads none of it, so any address may be given. Never blocks. */
KS_API void ks_prefetch(const uint64_t* addresses, size_t count);

#ifdef __cplusplus
}
#endif
#endif /* KEEPSTEP_CLIENT_KEEPSTEP_H_ */
