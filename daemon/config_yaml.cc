// Reads the YAML of a configuration: a tree of at most two levels whose leaves are scalars and lists of
// scalars.
//
// The parser throws; nothing leaves ParseConfig but a status. What is walked is bounded by the table of keys,
// not by the text, so aliases cannot blow a small file up.

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <set>
#include <sstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "daemon/config.h"
#include "reshard/names.h"

namespace keepstep::daemon {
namespace {

constexpr size_t kShown = 60;  // bytes of a bad key in a message

class Reader {
 public:
  explicit Reader(absl::string_view file) : file_(file) {}

  absl::Status Walk(const YAML::Node& map, const std::string& prefix);
  std::vector<Setting> Take() { return std::move(settings_); }

  std::string Place(const YAML::Mark& mark) const {
    return mark.is_null() ? file_ : absl::StrCat(file_, ":", mark.line + 1);
  }

 private:
  absl::Status Leaf(const ConfigKey& key, const YAML::Node& value, const YAML::Mark& mark);
  absl::Status Unknown(const std::string& name, const YAML::Mark& mark) const;

  const std::string file_;
  std::set<std::string> seen_;
  std::vector<Setting> settings_;
};

const ConfigKey* FindKey(absl::string_view name) {
  for (const ConfigKey& key : ConfigKeys()) {
    if (key.name == name) return &key;
  }
  return nullptr;
}

bool IsGroup(absl::string_view name) {
  for (const ConfigKey& key : ConfigKeys()) {
    if (absl::StartsWith(key.name, absl::StrCat(name, "."))) return true;
  }
  return false;
}

// Whether a text holds a second document. YAML::LoadAll must not be asked: of a text such as "," the parser
// makes one empty document after another without end.
bool HasSecondDocument(const std::string& text) {
  class Ignored : public YAML::EventHandler {
   public:
    void OnDocumentStart(const YAML::Mark&) override {}
    void OnDocumentEnd() override {}
    void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
    void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
    void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
    void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                         YAML::EmitterStyle::value) override {}
    void OnSequenceEnd() override {}
    void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                    YAML::EmitterStyle::value) override {}
    void OnMapEnd() override {}
  };
  std::istringstream in(text);
  YAML::Parser parser(in);
  Ignored ignored;
  return parser.HandleNextDocument(ignored) && parser.HandleNextDocument(ignored);
}

std::string Printable(absl::string_view name) {
  std::string out(name.substr(0, kShown));
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) >= 0x7f) c = '?';
  }
  return out;
}

// A message shows values as they are; a line's end in one of them must not end the message's line.
std::string OneLine(absl::string_view message) {
  std::string out(message);
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return out;
}

absl::Status Reader::Unknown(const std::string& name, const YAML::Mark& mark) const {
  std::vector<std::string> names;
  for (const ConfigKey& key : ConfigKeys()) names.push_back(key.name);
  const std::string close = reshard::ClosestName(name.substr(0, kShown), names);
  return absl::InvalidArgumentError(absl::StrCat("unknown key '", Printable(name), "' at ", Place(mark),
                                                 close.empty()
                                                     ? "; `keepstepd --print-config` lists all"
                                                     : absl::StrCat("; did you mean '", close, "'?")));
}

absl::Status Reader::Walk(const YAML::Node& map, const std::string& prefix) {
  for (const auto& entry : map) {
    const YAML::Mark mark = entry.first.Mark();
    if (!entry.first.IsScalar())
      return absl::InvalidArgumentError(absl::StrCat("a key at ", Place(mark), " is no word"));
    const std::string name = absl::StrCat(prefix, entry.first.Scalar());
    if (const ConfigKey* key = FindKey(name); key != nullptr) {
      if (absl::Status status = Leaf(*key, entry.second, mark); !status.ok()) return status;
      continue;
    }
    if (!prefix.empty() || !IsGroup(name)) return Unknown(name, mark);
    if (entry.second.IsNull()) continue;  // a group whose keys are all commented out
    if (!entry.second.IsMap()) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", name, "' at ", Place(mark), " is a group of keys, not a value"));
    }
    if (absl::Status status = Walk(entry.second, absl::StrCat(name, ".")); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Reader::Leaf(const ConfigKey& key, const YAML::Node& value, const YAML::Mark& mark) {
  const std::string place = Place(mark);
  if (!seen_.insert(key.name).second)
    return absl::InvalidArgumentError(absl::StrCat("'", key.name, "' is given again at ", place));
  std::vector<std::string> values;
  if (value.IsScalar()) {
    values.push_back(value.Scalar());
  } else if (value.IsSequence() && key.is_list) {
    for (const YAML::Node& item : value) {
      if (!item.IsScalar())
        return absl::InvalidArgumentError(
            absl::StrCat("'", key.name, "' at ", place, " lists something else than words"));
      values.push_back(item.Scalar());
    }
  } else {
    return absl::InvalidArgumentError(absl::StrCat("'", key.name, "' at ", place, " takes a ", key.takes,
                                                   value.IsNull() ? ", but is empty" : ""));
  }
  absl::StatusOr<Setting> setting = MakeSetting(key, std::move(values), place);
  if (!setting.ok()) return absl::InvalidArgumentError(OneLine(setting.status().message()));
  settings_.push_back(*std::move(setting));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<Setting>> ParseConfig(absl::string_view text, absl::string_view file) {
  Reader reader(file);
  if (text.size() > kMaxConfigBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, " has ", text.size(), " bytes; a configuration has at most ", kMaxConfigBytes));
  }
  if (absl::StrContains(text, absl::string_view("\0", 1)))
    return absl::InvalidArgumentError(absl::StrCat(file, " is no text"));
  try {
    const std::string whole(text);
    if (HasSecondDocument(whole))
      return absl::InvalidArgumentError(absl::StrCat(file, " holds more than one YAML document"));
    const YAML::Node document = YAML::Load(whole);
    if (document.IsNull()) return std::vector<Setting>();
    if (!document.IsMap()) return absl::InvalidArgumentError(absl::StrCat(file, " is not a map of keys"));
    if (absl::Status status = reader.Walk(document, ""); !status.ok()) return status;
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(reader.Place(error.mark), " is not YAML: ", Printable(error.msg)));
  }
  return reader.Take();
}

}  // namespace keepstep::daemon
