// A board at the other end of stdin and stdout: its bits are bytes there.
#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <deque>

#include "Vboard.h"
#include "verilated.h"

int main() {
  auto *board = new Vboard;
  std::deque<uint8_t> in;
  fcntl(0, F_SETFL, O_NONBLOCK);
  int sending = 0, send_wait = 0, got_bits = -1, got_wait = 0;
  uint16_t frame = 0;
  uint8_t byte = 0;
  board->rx = 1;
  for (long now = 0;; now++) {
    if (now % 256 == 0) {
      uint8_t some[4096];
      const ssize_t n = read(0, some, sizeof some);
      if (n == 0) return 0;  // the host is gone
      for (ssize_t i = 0; i < n; i++) in.push_back(some[i]);
    }
    if (send_wait > 0) {
      send_wait--;
    } else if (sending > 0) {
      board->rx = frame & 1;
      frame >>= 1;
      sending--;
      send_wait = DIVISOR - 1;
    } else if (!in.empty()) {
      frame = (1 << 9) | (in.front() << 1);
      in.pop_front();
      sending = 10;
    }
    board->clk_in = 1;
    board->eval();
    board->clk_in = 0;
    board->eval();
    if (got_bits < 0) {
      if (!board->tx) { got_bits = 0; got_wait = DIVISOR * 3 / 2; }
    } else if (--got_wait == 0) {
      got_wait = DIVISOR;
      if (got_bits < 8) {
        byte = (byte >> 1) | (board->tx << 7);
        got_bits++;
      } else {
        if (!board->tx) return fprintf(stderr, "no stop bit\n"), 1;
        if (write(1, &byte, 1) != 1) return 1;
        got_bits = -1;
      }
    }
  }
}
