#include "app/stop_signals.h"

#include <csignal>
#include <initializer_list>

namespace pg::app {

namespace {

volatile std::sig_atomic_t came = 0;

extern "C" void note_signal(int signal) {
  came = signal;
}

}  // namespace

void catch_stop_signals() {
  struct sigaction action {};
  action.sa_handler = note_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGTERM, SIGUSR1}) sigaction(signal, &action, nullptr);
}

int stop_signal() {
  return came;
}

void clear_stop_signal() {
  came = 0;
}

}  // namespace pg::app
