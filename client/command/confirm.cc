#include "client/command/confirm.h"

#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <string>

namespace keepstep::client {

bool Confirmed() {
  if (!isatty(STDIN_FILENO)) return false;
  fprintf(stderr, "Go on? [y/N] ");
  std::string answer;
  std::getline(std::cin, answer);
  return answer == "y" || answer == "Y" || answer == "yes";
}

}  // namespace keepstep::client
