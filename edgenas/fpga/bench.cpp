// Runs the program in a DRAM image on the simulated accelerator.
//
//   simulate IMAGE WORDS LATENCY READ_NUM READ_DEN WRITE_NUM WRITE_DEN LIMIT
//
// IMAGE, of WORDS words, is read and, when the machine has halted, written back; counters go to
// stdout as JSON. The DRAM gives a word for each READ_DEN / READ_NUM cycles, LATENCY after its
// command, and takes one for each WRITE_DEN / WRITE_NUM. More cycles than LIMIT are an error.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <vector>

#include "Vmachine.h"
#include "verilated.h"

#ifndef LANES
#define LANES 16
#endif

namespace {

struct Rate {  // lets `num` of `den` cycles through, a word ahead at most
  long num, den, credit = 0;
  void tick() { credit = credit + num >= den + num ? den + num - 1 : credit + num; }
  bool ready() const { return credit >= den; }
  void spend() { credit -= den; }
};

void give(const uint8_t *from, uint32_t *to) { memcpy(to, from, LANES); }

}  // namespace

int main(int argc, char **argv) {
  if (argc != 9) return fprintf(stderr, "simulate: 8 arguments, not %d\n", argc - 1), 2;
  FILE *file = fopen(argv[1], "r+b");
  if (!file) return perror(argv[1]), 2;
  const long words = atol(argv[2]), latency = atol(argv[3]), limit = atol(argv[8]);
  Rate reading{atol(argv[4]), atol(argv[5])}, writing{atol(argv[6]), atol(argv[7])};
  std::vector<uint8_t> dram(words * LANES);
  if (fread(dram.data(), 1, dram.size(), file) != dram.size())
    return fprintf(stderr, "simulate: %s is shorter than %ld words\n", argv[1], words), 2;

  auto *machine = new Vmachine;
  long now = 0;
  auto rise = [&] { machine->clk = 1; machine->eval(); machine->clk = 0; machine->eval(); now++; };
  machine->clk = 0;
  machine->rst = 1;
  for (int i = 0; i < 4; i++) rise();
  machine->rst = 0;
  machine->start = 1;
  rise();
  machine->start = 0;

  struct Read { long due; uint32_t address; };
  std::deque<Read> reads;
  std::deque<uint32_t> writes;
  long read = 0, written = 0;
  auto data = [&](auto &port) { return reinterpret_cast<uint32_t *>(&port); };
  while (!machine->halted && now < limit) {
    reading.tick();
    writing.tick();
    machine->cmd_ready = reads.size() < 16 && writes.size() < 16;
    const bool answer = !reads.empty() && reads.front().due <= now && reading.ready();
    machine->rdata_valid = answer;
    if (answer) {
      give(&dram[(size_t)reads.front().address * LANES], data(machine->rdata));
      reads.pop_front();
      reading.spend();
      read++;
    }
    const bool take = !writes.empty() && writing.ready();
    machine->wdata_ready = take;
    machine->eval();
    if (take && machine->wdata_valid) {
      memcpy(&dram[(size_t)writes.front() * LANES], data(machine->wdata), LANES);
      writes.pop_front();
      writing.spend();
      written++;
    }
    if (machine->cmd_ready && machine->cmd_valid) {
      if (machine->cmd_addr >= words)
        return fprintf(stderr, "simulate: address %u of %ld words\n", machine->cmd_addr, words), 2;
      if (machine->cmd_we) writes.push_back(machine->cmd_addr);
      else reads.push_back({now + latency, machine->cmd_addr});
    }
    rise();
  }
  if (!machine->halted) return fprintf(stderr, "simulate: no end within %ld cycles\n", limit), 3;
  rewind(file);
  if (fwrite(dram.data(), 1, dram.size(), file) != dram.size() || fclose(file))
    return perror(argv[1]), 2;
  printf("{\"cycles\": %u, \"running\": %u, \"issued\": %u, \"stalled\": %u, \"read\": %ld, \"written\": %ld}\n",
         machine->cycles, machine->running, machine->issued, machine->stalled, read, written);
  return 0;
}
