// The server over its real sockets, by clients that mean well and clients that do not.

#include "daemon/http_server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <future>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "daemon/http_listener.h"
#include "storage/unique_fd.h"

namespace keepstep::daemon {
namespace {

using std::chrono::milliseconds;

class HttpServerTest : public testing::Test {
 protected:
  void Start(HttpOptions options) {
    std::vector<HttpRoute> routes = {
        {"/quick", false, [](const HttpRequest&) { return HttpResponse{.body = "quick\n"}; }},
        {"/slow", true,
         [this](const HttpRequest&) {
           release_.get_future().wait();
           return HttpResponse{.body = "slow\n"};
         }},
        {"/long", true, [](const HttpRequest&) { return HttpResponse{.body = std::string(32 << 20, 'x')}; }},
        {"/who", true,
         [](const HttpRequest& request) {
           return HttpResponse{.body =
                                   request.peer_uid.has_value() ? absl::StrCat(*request.peer_uid) : "nobody"};
         }},
    };
    auto started = HttpServer::Start(options, std::move(routes));
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
  }
  void Start() { Start({.listen = "127.0.0.1:0"}); }

  storage::UniqueFd Connect() {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int port = 0;
    EXPECT_TRUE(absl::SimpleAtoi(server_->address().substr(server_->address().rfind(':') + 1), &port));
    address.sin_port = htons(static_cast<uint16_t>(port));
    storage::UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    return fd;
  }
  static void Send(int fd, const std::string& bytes) {
    (void)!send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }
  // Everything until the server closes; fails after 20 s.
  static std::string ReadAll(int fd) {
    std::string all;
    char bytes[65536];
    for (;;) {
      pollfd one{fd, POLLIN, 0};
      if (poll(&one, 1, 20'000) != 1) return all + "(timed out)";
      const ssize_t got = recv(fd, bytes, sizeof(bytes), 0);
      if (got <= 0) return all;
      all.append(bytes, static_cast<size_t>(got));
    }
  }
  std::string Ask(const std::string& bytes) {
    storage::UniqueFd fd = Connect();
    Send(fd.get(), bytes);
    return ReadAll(fd.get());
  }
  std::string Get(const std::string& path) {
    return Ask("GET " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n");
  }

  std::promise<void> release_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, AnswersOneRequestAConnection) {
  Start();
  const std::string answer = Get("/quick?x=1");
  EXPECT_TRUE(absl::StartsWith(answer, "HTTP/1.1 200 OK\r\n")) << answer;
  EXPECT_TRUE(absl::StrContains(answer, "Content-Length: 6\r\n")) << answer;
  EXPECT_TRUE(absl::EndsWith(answer, "\r\n\r\nquick\n")) << answer;
  const std::string head = Ask("HEAD /quick HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_TRUE(absl::StrContains(head, "Content-Length: 6\r\n") && absl::EndsWith(head, "\r\n\r\n")) << head;
  EXPECT_EQ(Get("/long").size() > (32 << 20), true);
  EXPECT_TRUE(absl::EndsWith(Get("/who"), "nobody")) << "TCP does not say who calls";
}

TEST_F(HttpServerTest, RefusesWhatItDoesNotServe) {
  Start();
  const std::pair<const char*, const char*> cases[] = {
      {"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n", "404"},
      {"GET /quick/../etc HTTP/1.1\r\nHost: localhost\r\n\r\n", "404"},
      {"POST /quick HTTP/1.1\r\nHost: localhost\r\n\r\n", "405"},
      {"DELETE /quick HTTP/1.1\r\nHost: localhost\r\n\r\n", "405"},
      {"GET /quick HTTP/3\r\nHost: localhost\r\n\r\n", "505"},
      {"GET /quick\r\n\r\n", "400"},
      {"GET http://a/quick HTTP/1.1\r\n\r\n", "400"},
      {"\r\n\r\n", "400"},
      {"\x16\x03\x01\x02 garbage \x01\r\n\r\n", "400"},
      {"GET /quick HTTP/1.1\r\nno colon\r\n\r\n", "400"},
      {"GET /quick HTTP/1.1\r\nHost: localhost\r\nHost: other\r\n\r\n", "400"},
      {"GET /quick HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", "413"},
      {"GET /quick HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", "413"},
      {"GET /quick HTTP/1.1\r\nHost: evil.example\r\n\r\n", "421"},
      {"GET /quick HTTP/1.1\r\n\r\n", "421"},
  };
  for (const auto& [request, status] : cases) {
    EXPECT_TRUE(absl::StartsWith(Ask(request), absl::StrCat("HTTP/1.1 ", status, " "))) << request;
  }
  EXPECT_TRUE(absl::StrContains(Get("/quick"), "200 OK"));
}

TEST_F(HttpServerTest, HugeHeadersCostTheirLimitAndNoMore) {
  Start();
  storage::UniqueFd fd = Connect();
  Send(fd.get(), "GET /quick HTTP/1.1\r\nX: ");
  for (int i = 0; i < 64; ++i) Send(fd.get(), std::string(65536, 'a'));
  const std::string answer = ReadAll(fd.get());  // 431, or a reset when more was on its way
  EXPECT_TRUE(answer.empty() || absl::StartsWith(answer, "HTTP/1.1 431 ")) << answer.substr(0, 200);
  EXPECT_TRUE(absl::StrContains(Get("/quick"), "200 OK"));
}

TEST_F(HttpServerTest, SlowConnectionsNeitherStayNorKeepOthersOut) {
  Start({.listen = "127.0.0.1:0", .max_connections = 4, .request_limit = milliseconds(300)});
  std::vector<storage::UniqueFd> slow;
  for (int i = 0; i < 12; ++i) {
    slow.push_back(Connect());
    Send(slow.back().get(), "GET /quick HTT");
  }
  EXPECT_TRUE(absl::StrContains(Get("/quick"), "200 OK"));
  for (const auto& fd : slow) EXPECT_EQ(ReadAll(fd.get()), "") << "closed without an answer";
}

TEST_F(HttpServerTest, AReaderThatStopsIsDropped) {
  Start({.listen = "127.0.0.1:0", .answer_limit = milliseconds(300)});
  storage::UniqueFd fd = Connect();
  Send(fd.get(), "GET /long HTTP/1.1\r\nHost: localhost\r\n\r\n");
  pollfd gone{fd.get(), 0, 0};  // errors and hang-ups alone
  EXPECT_EQ(poll(&gone, 1, 20'000), 1);
  EXPECT_TRUE(absl::StrContains(Get("/quick"), "200 OK"));
}

TEST_F(HttpServerTest, QuickRoutesAnswerWhileThePagesAreBusy) {
  Start();
  storage::UniqueFd one = Connect();
  Send(one.get(), "GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_TRUE(absl::StrContains(Get("/quick"), "200 OK"));
  release_.set_value();
  EXPECT_TRUE(absl::EndsWith(ReadAll(one.get()), "slow\n"));
}

TEST_F(HttpServerTest, AUnixSocketKnowsItsPeer) {
  char home[] = "/tmp/kshXXXXXX";  // short: a socket's path has 108 bytes
  ASSERT_NE(mkdtemp(home), nullptr);
  const std::string path = std::string(home) + "/http.sock";
  Start({.listen = "unix:" + path});
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  storage::UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  Send(fd.get(), "GET /who HTTP/1.1\r\nHost: whatever\r\n\r\n");
  EXPECT_TRUE(absl::EndsWith(ReadAll(fd.get()), absl::StrCat("\r\n\r\n", getuid())));
  server_ = nullptr;
  std::filesystem::remove_all(home);
}

TEST(HttpListener, OnlyLoopbackAndUnixSockets) {
  for (const char* good : {"127.0.0.1:0", "127.0.0.53:7070", "[::1]:7070", "unix:/run/keepstep/http.sock"})
    EXPECT_TRUE(CheckListen(good).ok()) << good;
  for (const char* bad :
       {"", ":7070", "0.0.0.0:7070", "10.0.0.1:80", "[::]:80", "127.0.0.1", "127.0.0.1:65536", "127.0.0.1:-1",
        "localhost:80", "unix:", "unix:relative", "http://127.0.0.1:80"})
    EXPECT_EQ(CheckListen(bad).code(), absl::StatusCode::kInvalidArgument) << bad;
}

}  // namespace
}  // namespace keepstep::daemon
