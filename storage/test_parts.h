// Small true checkpoints for tests: blobs with their bytes, parts that describe them, an intent to commit
// them.

#ifndef KEEPSTEP_STORAGE_TEST_PARTS_H_
#define KEEPSTEP_STORAGE_TEST_PARTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "proto/storage.pb.h"
#include "storage/attempt.h"
#include "storage/blob_store.h"

namespace keepstep::storage {

struct TestCheckpoint {
  int64_t step = 0;
  std::string attempt;
  std::vector<v1::Part> parts;
  std::vector<std::string> part_names;
  std::vector<std::string> blobs;  // content, one blob per part

  v1::Decision intent() const { return parts[0].intent(); }
};

// `nodes` parts, each with one F32 blob that holds its rows of the tensor `w` (2 x nodes rows of 4) and, in
// part 0, a bias `b` with the alias `tied`. Contents depend on step and part.
TestCheckpoint MakeTestCheckpoint(int64_t step, const AttemptId& attempt, int nodes);

// Blobs, then parts; aborts on failure.
void WriteTestBlobs(BlobStore& store, const TestCheckpoint& checkpoint);
void WriteTestCheckpoint(BlobStore& store, const TestCheckpoint& checkpoint);
// The above, committed.
v1::Decision CommitTestCheckpoint(BlobStore& store, const TestCheckpoint& checkpoint);

}  // namespace keepstep::storage

#endif  // KEEPSTEP_STORAGE_TEST_PARTS_H_
