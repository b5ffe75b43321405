// Memories of both kinds under the same random traffic: prints how often they differed, and how
// often something was read.
#include <cstdio>
#include <random>

#include "Vbuffers.h"
#include "verilated.h"

int main() {
  auto *buffers = new Vbuffers;
  std::mt19937 random(0);
  long differed = 0, told = 0;
  buffers->rst = 0;
  for (long now = 0; now < 40000; now++) {
    // Few addresses, so that they meet; in all parts of a memory.
    const auto address = [&] { return (random() & 7) * 2049 + (random() & 1); };
    buffers->at = address();
    buffers->to = address();
    buffers->write = random() & 1;
    buffers->word = random();
    buffers->clk = 0;
    buffers->eval();
    differed += buffers->differs;
    told += buffers->data != 0;
    buffers->clk = 1;
    buffers->eval();
  }
  printf("%ld %ld\n", differed, told);
}
