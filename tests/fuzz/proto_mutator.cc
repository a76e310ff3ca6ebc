#include "tests/fuzz/proto_mutator.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "google/protobuf/descriptor.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/text_format.h"

// libFuzzer's own mutation, which knows what the code compares with. Absent where corpora are replayed.
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size) __attribute__((weak));

namespace keepstep::fuzz {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr int kMostMessages = 4096, kMostElements = 64;
constexpr size_t kMostStringBytes = 2048;

struct Place {
  Message* message;
  const FieldDescriptor* field;
};

class Mutation {
 public:
  explicit Mutation(uint32_t seed) : random_(seed) {}

  void Edit(Message& root) {
    for (uint64_t edits = 1 + Below(3); edits > 0; --edits) {
      std::vector<Message*> messages = TreeOf(root);
      integers_.clear();
      strings_.clear();
      for (Message* message : messages) Remember(*message);
      Message& chosen = *messages[Below(messages.size())];
      const int fields = chosen.GetDescriptor()->field_count();
      if (fields > 0) EditField(chosen, *chosen.GetDescriptor()->field(static_cast<int>(Below(fields))));
    }
  }

  void Cross(const Message& from, Message& into) {
    Message* copy = from.New();
    copy->CopyFrom(from);
    const std::vector<Message*> sources = TreeOf(*copy);
    for (int tries = 0; tries < 16; ++tries) {
      const Message& source = *sources[Below(sources.size())];
      std::vector<Place> takers = PlacesFor(source, into);
      if (takers.empty()) continue;
      const Place place = takers[Below(takers.size())];
      const Reflection& reflection = *place.message->GetReflection();
      if (place.field->is_repeated()) {
        reflection.AddMessage(place.message, place.field)->CopyFrom(source);
      } else {
        reflection.MutableMessage(place.message, place.field)->CopyFrom(source);
      }
      if (Below(2) == 0) break;
    }
    delete copy;
  }

 private:
  uint64_t Below(uint64_t bound) { return random_() % bound; }
  bool OneIn(uint64_t n) { return Below(n) == 0; }

  // The root first, then what it holds, up to a limit.
  static std::vector<Message*> TreeOf(Message& root) {
    std::vector<Message*> tree = {&root};
    for (size_t i = 0; i < tree.size() && tree.size() < kMostMessages; ++i) {
      const Reflection& reflection = *tree[i]->GetReflection();
      std::vector<const FieldDescriptor*> fields;
      reflection.ListFields(*tree[i], &fields);
      for (const FieldDescriptor* field : fields) {
        if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) continue;
        if (!field->is_repeated()) {
          tree.push_back(reflection.MutableMessage(tree[i], field));
          continue;
        }
        const int size = reflection.FieldSize(*tree[i], field);
        for (int k = 0; k < size; ++k) tree.push_back(reflection.MutableRepeatedMessage(tree[i], field, k));
      }
    }
    return tree;
  }

  static std::vector<Place> PlacesFor(const Message& source, Message& into) {
    std::vector<Place> places;
    for (Message* message : TreeOf(into)) {
      for (int i = 0; i < message->GetDescriptor()->field_count(); ++i) {
        const FieldDescriptor* field = message->GetDescriptor()->field(i);
        if (field->message_type() != source.GetDescriptor()) continue;
        if (field->is_repeated() && message->GetReflection()->FieldSize(*message, field) >= kMostElements)
          continue;
        places.push_back({message, field});
      }
    }
    return places;
  }

  void Remember(const Message& message) {
    const Reflection& reflection = *message.GetReflection();
    std::vector<const FieldDescriptor*> fields;
    reflection.ListFields(message, &fields);
    for (const FieldDescriptor* field : fields) {
      const int size = field->is_repeated() ? reflection.FieldSize(message, field) : 1;
      for (int i = 0; i < size; ++i) {
        const bool repeated = field->is_repeated();
        if (field->cpp_type() == FieldDescriptor::CPPTYPE_INT64) {
          integers_.push_back(repeated ? reflection.GetRepeatedInt64(message, field, i)
                                       : reflection.GetInt64(message, field));
        } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
          strings_.push_back(repeated ? reflection.GetRepeatedString(message, field, i)
                                      : reflection.GetString(message, field));
        }
      }
    }
  }

  void EditField(Message& message, const FieldDescriptor& field) {
    const Reflection& reflection = *message.GetReflection();
    if (field.is_repeated()) {
      EditRepeated(message, field);
    } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      if (OneIn(6)) {
        reflection.ClearField(&message, &field);
      } else {
        Message* inner = reflection.MutableMessage(&message, &field);
        if (inner->GetDescriptor()->field_count() > 0) {
          EditField(*inner, *inner->GetDescriptor()->field(
                                static_cast<int>(Below(inner->GetDescriptor()->field_count()))));
        }
      }
    } else if (OneIn(10)) {
      reflection.ClearField(&message, &field);
    } else {
      SetValue(message, field, -1);
    }
  }

  void EditRepeated(Message& message, const FieldDescriptor& field) {
    const Reflection& reflection = *message.GetReflection();
    const int size = reflection.FieldSize(message, &field);
    const uint64_t choice = size == 0 ? 0 : Below(6);
    if (choice <= 1 && size < kMostElements) {
      AddElement(message, field, size);
    } else if (choice == 2) {
      reflection.SwapElements(&message, &field, static_cast<int>(Below(size)), size - 1);
      reflection.RemoveLast(&message, &field);
    } else if (choice == 3) {
      reflection.SwapElements(&message, &field, static_cast<int>(Below(size)), static_cast<int>(Below(size)));
    } else if (field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      SetValue(message, field, static_cast<int>(Below(size)));
    } else {
      Message* element = reflection.MutableRepeatedMessage(&message, &field, static_cast<int>(Below(size)));
      const int fields = element->GetDescriptor()->field_count();
      if (fields > 0) EditField(*element, *element->GetDescriptor()->field(static_cast<int>(Below(fields))));
    }
  }

  void AddElement(Message& message, const FieldDescriptor& field, int size) {
    const Reflection& reflection = *message.GetReflection();
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      Message* added = reflection.AddMessage(&message, &field);
      if (size > 0 && !OneIn(4)) {
        added->CopyFrom(reflection.GetRepeatedMessage(message, &field, static_cast<int>(Below(size))));
      }
      return;
    }
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32:
        reflection.AddInt32(&message, &field, 0);
        break;
      case FieldDescriptor::CPPTYPE_INT64:
        reflection.AddInt64(&message, &field, 0);
        break;
      case FieldDescriptor::CPPTYPE_UINT32:
        reflection.AddUInt32(&message, &field, 0);
        break;
      case FieldDescriptor::CPPTYPE_UINT64:
        reflection.AddUInt64(&message, &field, 0);
        break;
      case FieldDescriptor::CPPTYPE_DOUBLE:
        reflection.AddDouble(&message, &field, 0);
        break;
      case FieldDescriptor::CPPTYPE_BOOL:
        reflection.AddBool(&message, &field, false);
        break;
      case FieldDescriptor::CPPTYPE_ENUM:
        reflection.AddEnumValue(&message, &field, 0);
        break;
      case FieldDescriptor::CPPTYPE_STRING:
        reflection.AddString(&message, &field, "");
        break;
      default:
        return;
    }
    SetValue(message, field, size);
  }

  // Sets a singular field (`index` < 0) or an element to a value made from the one that is there.
  void SetValue(Message& message, const FieldDescriptor& field, int index) {
    const Reflection& r = *message.GetReflection();
    const bool one = index < 0;
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32: {
        const auto value =
            Integer<int32_t>(one ? r.GetInt32(message, &field) : r.GetRepeatedInt32(message, &field, index));
        one ? r.SetInt32(&message, &field, value) : r.SetRepeatedInt32(&message, &field, index, value);
        break;
      }
      case FieldDescriptor::CPPTYPE_INT64: {
        const auto value =
            Integer<int64_t>(one ? r.GetInt64(message, &field) : r.GetRepeatedInt64(message, &field, index));
        one ? r.SetInt64(&message, &field, value) : r.SetRepeatedInt64(&message, &field, index, value);
        break;
      }
      case FieldDescriptor::CPPTYPE_UINT32: {
        const auto value = Integer<uint32_t>(one ? r.GetUInt32(message, &field)
                                                 : r.GetRepeatedUInt32(message, &field, index));
        one ? r.SetUInt32(&message, &field, value) : r.SetRepeatedUInt32(&message, &field, index, value);
        break;
      }
      case FieldDescriptor::CPPTYPE_UINT64: {
        const auto value = Integer<uint64_t>(one ? r.GetUInt64(message, &field)
                                                 : r.GetRepeatedUInt64(message, &field, index));
        one ? r.SetUInt64(&message, &field, value) : r.SetRepeatedUInt64(&message, &field, index, value);
        break;
      }
      case FieldDescriptor::CPPTYPE_DOUBLE: {
        const double value = Double();
        one ? r.SetDouble(&message, &field, value) : r.SetRepeatedDouble(&message, &field, index, value);
        break;
      }
      case FieldDescriptor::CPPTYPE_BOOL: {
        const bool value = OneIn(2);
        one ? r.SetBool(&message, &field, value) : r.SetRepeatedBool(&message, &field, index, value);
        break;
      }
      case FieldDescriptor::CPPTYPE_ENUM: {
        const int count = field.enum_type()->value_count();
        const int value = OneIn(8) ? 77 : field.enum_type()->value(static_cast<int>(Below(count)))->number();
        one ? r.SetEnumValue(&message, &field, value)
            : r.SetRepeatedEnumValue(&message, &field, index, value);
        break;
      }
      case FieldDescriptor::CPPTYPE_STRING: {
        std::string value = one ? r.GetString(message, &field) : r.GetRepeatedString(message, &field, index);
        value = String(std::move(value), field.type() == FieldDescriptor::TYPE_STRING);
        one ? r.SetString(&message, &field, value) : r.SetRepeatedString(&message, &field, index, value);
        break;
      }
      default:
        break;
    }
  }

  template <typename T>
  T Integer(T old) {
    static constexpr int64_t kEdges[] = {0,
                                         1,
                                         2,
                                         3,
                                         4,
                                         7,
                                         8,
                                         15,
                                         16,
                                         63,
                                         64,
                                         65,
                                         255,
                                         256,
                                         1000,
                                         4095,
                                         4096,
                                         16384,
                                         65535,
                                         65536,
                                         1 << 20,
                                         INT32_MAX,
                                         UINT32_MAX,
                                         int64_t{1} << 40,
                                         999'999'999'999,
                                         int64_t{1} << 52,
                                         int64_t{1} << 61,
                                         INT64_MAX / 2,
                                         INT64_MAX};
    const auto raw = static_cast<uint64_t>(old);
    switch (Below(8)) {
      case 0:
        return static_cast<T>(raw + 1);
      case 1:
        return static_cast<T>(raw - 1);
      case 2:
        return static_cast<T>(raw ^ (uint64_t{1} << Below(64)));
      case 3:
        return static_cast<T>(0 - static_cast<uint64_t>(kEdges[Below(std::size(kEdges))]));
      case 4:
        return static_cast<T>(random_());
      case 5:
        return integers_.empty() ? old : static_cast<T>(integers_[Below(integers_.size())]);
      default:
        return static_cast<T>(static_cast<uint64_t>(kEdges[Below(std::size(kEdges))]) + (OneIn(4) ? 1 : 0));
    }
  }

  double Double() {
    static constexpr double kEdges[] = {0,
                                        -0.0,
                                        1,
                                        1.5,
                                        1e-300,
                                        1e300,
                                        std::numeric_limits<double>::infinity(),
                                        std::numeric_limits<double>::quiet_NaN()};
    return kEdges[Below(std::size(kEdges))];
  }

  std::string String(std::string value, bool is_text) {
    const uint64_t choice = Below(8);
    if (choice == 0 && !strings_.empty()) return strings_[Below(strings_.size())];
    if (choice == 1) return std::string(Below(2) == 0 ? 0 : 1 + Below(kMostStringBytes), 'x');
    if (choice == 2 && !strings_.empty()) return value + strings_[Below(strings_.size())];
    const size_t room = std::min(value.size() + 16, kMostStringBytes);
    std::string changed = value.substr(0, room);
    changed.resize(room);
    auto* bytes = reinterpret_cast<uint8_t*>(changed.data());
    if (LLVMFuzzerMutate != nullptr) {
      changed.resize(LLVMFuzzerMutate(bytes, std::min(value.size(), room), room));
    } else {
      changed.resize(std::max<size_t>(1, value.size()));
      changed[Below(changed.size())] = static_cast<char>(random_());
    }
    // A request whose text is not UTF-8 is refused before any of our code: that is worth few tries.
    if (is_text && !OneIn(16)) {
      for (char& c : changed) c = static_cast<char>(c & 0x7f);
    }
    return changed;
  }

  std::mt19937_64 random_;
  std::vector<int64_t> integers_;
  std::vector<std::string> strings_;
};

class Silent : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int, google::protobuf::io::ColumnNumber, const std::string&) override {}
};

size_t Print(const Message& message, uint8_t* out, size_t max_size, size_t otherwise) {
  std::string text;
  google::protobuf::TextFormat::PrintToString(message, &text);
  if (text.size() > max_size) return otherwise;
  std::memcpy(out, text.data(), text.size());
  return text.size();
}

}  // namespace

bool ParseCase(absl::string_view text, Message& into) {
  Silent silent;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&silent);
  if (parser.ParseFromString(std::string(text), &into)) return true;
  into.Clear();
  return false;
}

void MutateMessage(Message& message, uint32_t seed) { Mutation(seed).Edit(message); }

void CrossMessages(const Message& from, Message& into, uint32_t seed) { Mutation(seed).Cross(from, into); }

size_t MutateText(Message& scratch, uint8_t* data, size_t size, size_t max_size, uint32_t seed) {
  ParseCase({reinterpret_cast<const char*>(data), size}, scratch);
  MutateMessage(scratch, seed);
  return Print(scratch, data, max_size, size);
}

size_t CrossText(Message& a, Message& b, absl::string_view text_a, absl::string_view text_b, uint8_t* out,
                 size_t max_size, uint32_t seed) {
  ParseCase(text_a, a);
  ParseCase(text_b, b);
  CrossMessages(a, b, seed);
  return Print(b, out, max_size, 0);
}

}  // namespace keepstep::fuzz
