#include "daemon/config.h"

#include <fstream>
#include <iterator>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "daemon/config_values.h"
#include "gtest/gtest.h"

namespace keepstep::daemon {
namespace {

Config Base() {
  Config config;
  config.daemon.socket_directory = "/run/keepstep";
  config.daemon.state_directory = "/var/lib/keepstep";
  return config;
}

absl::StatusOr<EffectiveConfig> Read(absl::string_view text) {
  auto settings = ParseConfig(text, "keepstep.yaml");
  if (!settings.ok()) return settings.status();
  return Combine(Base(), {*settings});
}

std::string Refusal(absl::string_view text) {
  auto read = Read(text);
  EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument) << text;
  EXPECT_FALSE(absl::StrContains(read.status().message(), "\n")) << "one line: " << read.status();
  return std::string(read.status().message());
}

TEST(ConfigValues, SizesAndDurationsReadBackAsShown) {
  EXPECT_EQ(*ParseBytes("64GiB"), int64_t{64} << 30);
  EXPECT_EQ(*ParseBytes("10MB"), 10'000'000);
  EXPECT_EQ(*ParseBytes("4096"), 4096);
  EXPECT_EQ(*ParseMillis("30s"), 30'000);
  EXPECT_EQ(*ParseMillis("2h"), 7'200'000);
  for (int64_t value : {int64_t{0}, int64_t{1}, int64_t{1023}, int64_t{1536} << 20, int64_t{1} << 50}) {
    EXPECT_EQ(*ParseBytes(ShowBytes(value)), value);
    EXPECT_EQ(*ParseMillis(ShowMillis(value)), value);
  }
  for (absl::string_view bad :
       {"", "GiB", "-1", "+1", "1.5GiB", "1 GiB", "64gib", "9223372036854775807KiB", "0x10"})
    EXPECT_FALSE(ParseBytes(bad).ok()) << bad;
  for (absl::string_view bad : {"", "30", "s", "-1s", "1m", "99999999999999999999s"})
    EXPECT_FALSE(ParseMillis(bad).ok()) << bad;
}

TEST(Config, ReadsGroupsListsAndUnits) {
  auto read = Read(R"(
socket_dir: /tmp/ks
roots: [/ckpt, "/data/with space"]
pool:
  bytes: 64GiB
io: {engine: threads, uring_depth: 8}
threads:
  copy: auto
limits:
  resume: 10s
drain.limit: 5min
log:
  # level: warning
)");
  ASSERT_TRUE(read.ok()) << read.status();
  const DaemonSpec& spec = read->config.daemon;
  EXPECT_EQ(spec.socket_directory, "/tmp/ks");
  EXPECT_EQ(spec.state_directory, "/var/lib/keepstep");
  EXPECT_EQ(spec.roots, (std::vector<std::string>{"/ckpt", "/data/with space"}));
  EXPECT_EQ(spec.pool_bytes, int64_t{64} << 30);
  EXPECT_EQ(spec.io.kind, storage::IoEngineOptions::Kind::kThreads);
  EXPECT_EQ(spec.io.uring_depth, 8);
  EXPECT_EQ(spec.threads.copy, 0);
  EXPECT_EQ(spec.limits.resume_ms, 10'000);
  EXPECT_EQ(read->config.drain_ms, 300'000);
  EXPECT_EQ(read->sources.at("pool.bytes"), "keepstep.yaml:5");
  EXPECT_EQ(read->sources.count("state_dir"), 0u);
  EXPECT_TRUE(Read("").ok());
  EXPECT_TRUE(Read("# nothing yet\n").ok());
}

TEST(Config, SaysWhatIsWrongAndWhere) {
  EXPECT_EQ(Refusal("\n\npool_byte: 1GiB"),
            "unknown key 'pool_byte' at keepstep.yaml:3; did you mean 'pool.bytes'?");
  EXPECT_EQ(Refusal("pool:\n  byte: 1GiB"),
            "unknown key 'pool.byte' at keepstep.yaml:2; did you mean 'pool.bytes'?");
  EXPECT_EQ(Refusal("pool.bytes: 64gib"),
            "pool.bytes (keepstep.yaml:1): '64gib' is not a size such as 64GiB");
  EXPECT_EQ(Refusal("io:\n  uring_depth: 4096"),
            "io.uring_depth (keepstep.yaml:2): '4096' is outside 1 to 1024");
  EXPECT_EQ(Refusal("io: {engine: fast}"),
            "io.engine (keepstep.yaml:1): 'fast' is none of auto|uring|threads");
  EXPECT_EQ(Refusal("state_dir: relative"),
            "state_dir (keepstep.yaml:1): 'relative' is not an absolute path");
  EXPECT_EQ(Refusal("pool: 64GiB"), "'pool' at keepstep.yaml:1 is a group of keys, not a value");
  EXPECT_EQ(Refusal("pool.bytes: 1GiB\npool: {bytes: 2GiB}"),
            "'pool.bytes' is given again at keepstep.yaml:2");
  EXPECT_EQ(Refusal("log.level:"), "'log.level' at keepstep.yaml:1 takes a info|warning|error, but is empty");
  EXPECT_EQ(Refusal("a\n---\nb"), "keepstep.yaml holds more than one YAML document");
  EXPECT_EQ(Refusal("[1, 2]"), "keepstep.yaml is not a map of keys");
  EXPECT_EQ(Refusal("limits: {retry_first: 1min, retry_most: 1s}"),
            "limits.retry_first is above limits.retry_most");
  Refusal("pool: {bytes: 1GiB");
  Refusal("roots: [[/a]]");
  Refusal("roots: {a: b}");
  Refusal("? [a]\n: b");
  Refusal("pool.bytes: [1GiB]");
  Refusal("socket_dir: \"/a\\nb\"");
  Refusal(absl::StrCat("socket_dir: /", std::string(108, 'x')));
  Refusal(std::string("a\0b", 3));
  Refusal(std::string(kMaxConfigBytes + 1, '#'));
  Refusal(std::string(100'000, '['));
  Refusal("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nroots: *c");
}

TEST(Config, LaterSourcesWin) {
  const auto file = ParseConfig("pool.bytes: 1GiB\nlog.level: error\nio.engine: uring", "f.yaml");
  const ConfigKey *bytes = nullptr, *level = nullptr;
  for (const ConfigKey& key : ConfigKeys()) {
    if (key.name == "pool.bytes") bytes = &key;
    if (key.name == "log.level") level = &key;
  }
  const auto variable = MakeSetting(*bytes, {"2GiB"}, bytes->setting);
  const auto other = MakeSetting(*level, {"warning"}, level->setting);
  const auto flag = MakeSetting(*bytes, {"3GiB"}, bytes->flag);
  const auto all = Combine(Base(), {*file, {*variable, *other}, {*flag}});
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(all->config.daemon.pool_bytes, int64_t{3} << 30);
  EXPECT_EQ(all->sources.at("pool.bytes"), "--pool-bytes");
  EXPECT_EQ(all->sources.at("log.level"), "KEEPSTEP_LOG_LEVEL");
  EXPECT_EQ(all->sources.at("io.engine"), "f.yaml:3");
}

TEST(Config, PrintsWhatItReadsBack) {
  auto read =
      Read("roots: [/a, '/b \"c\\ d']\npool: {bytes: 1536MiB}\nlog: {format: json}\nsocket_dir: /null");
  ASSERT_TRUE(read.ok()) << read.status();
  const std::string printed = PrintConfig(*read);
  EXPECT_TRUE(absl::StrContains(printed, "# keepstep.yaml:2")) << printed;
  auto again = Read(printed);
  ASSERT_TRUE(again.ok()) << again.status() << "\n" << printed;
  EXPECT_TRUE(Differences(read->config, again->config).empty());
  EXPECT_EQ(again->sources.size(), ConfigKeys().size());
}

TEST(Config, NamesWhatDiffers) {
  const auto changes =
      Differences(Read("pool.bytes: 1GiB")->config, Read("pool.bytes: 2GiB\nlog.level: error")->config);
  ASSERT_EQ(changes.size(), 2u);
  EXPECT_EQ(changes[0].key->name, "pool.bytes");
  EXPECT_EQ(changes[0].from, "1GiB");
  EXPECT_EQ(changes[0].to, "2GiB");
  EXPECT_FALSE(changes[0].key->reloads);
  EXPECT_TRUE(changes[1].key->reloads);
}

// A key that the page does not list, or a row for a key that is gone, is a page that misleads.
TEST(Config, ThePageListsEveryKeyAsItIs) {
  std::ifstream in("docs/configuration.md");
  const std::string page((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  std::set<std::string> rows;
  for (absl::string_view line : absl::StrSplit(page, '\n')) {
    if (absl::ConsumePrefix(&line, "| `")) rows.insert(std::string(line.substr(0, line.find('`'))));
  }
  std::set<std::string> names;
  for (const ConfigKey& key : ConfigKeys()) {
    names.insert(key.name);
    const bool machine = key.name == "socket_dir" || key.name == "state_dir";
    const std::string standard = key.is_list ? "none" : machine ? "see below" : key.get(Config())[0];
    const std::string row = absl::StrCat("| `", key.name, "` | ", standard, " | ",
                                         key.reloads ? "reload" : "restart", " | ", key.help, " |\n");
    EXPECT_TRUE(absl::StrContains(page, row)) << "docs/configuration.md lacks this row:\n" << row;
  }
  EXPECT_EQ(rows, names);
}

}  // namespace
}  // namespace keepstep::daemon
