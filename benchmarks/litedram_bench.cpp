// Accesses to the simulated DRAM behind LiteDRAM's controller, timed and checked word by word.
//
//   simulate moves FILE GAP WORDS
//   simulate program IMAGE LIMIT
//
// `moves`: FILE holds moves of six int32: write, address, words, repeats, step, alone. A move's
// commands are given as fast as they are taken; those of one that is `alone` begin GAP cycles after
// the last word before them. Every word below WORDS is written before; what is read has to be
// what was written. For each move a line: cycles from its first command to its first and its last
// word, and since the first command of all to its last word.
// `program`: the accelerator executes the program in IMAGE, which is read back; more cycles than
// LIMIT are an error. Prints JSON.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "Vboard.h"
#include "verilated.h"

namespace {

struct Move { int32_t write, address, words, repeats, step, alone; };
struct Word { uint32_t part[4]; };
struct Wanted { size_t move; uint32_t address; Word word; };

Vboard *board;
long now = 0;

void rise() { board->clk = 1; board->eval(); board->clk = 0; board->eval(); now++; }

void reset() {
  board = new Vboard;
  board->clk = 0;
  board->outside = board->rst = board->rst_machine = 1;
  board->start = board->out_cmd_valid = board->out_wdata_valid = 0;
  for (int i = 0; i < 8; i++) rise();
  board->rst = 0;
  for (int i = 0; i < 1000; i++) rise();
}

// What a word is: of its address and of how often it was written.
Word made(uint32_t address, uint32_t age) {
  Word word;
  uint64_t x = (uint64_t)address << 32 | age;
  for (auto &part : word.part) {
    x += 0x9E3779B97F4A7C15u;
    uint64_t z = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    part = z >> 16;
  }
  return word;
}

struct Times { long command = -1, first = -1, last = -1; };

// `content` of a word that is written; `check` of one that came.
template <class Content, class Check>
std::vector<Times> play(const std::vector<Move> &moves, long gap, Content content, Check check) {
  std::vector<Times> times(moves.size());
  std::deque<Wanted> reads, writes;
  size_t at = 0;
  long word = 0, repeat = 0, free = now, quiet = now;
  const int none = 1000000;
  auto begun = [&] { return word || repeat; };
  while (at < moves.size() || !reads.empty() || !writes.empty()) {
    bool offer = at < moves.size();
    if (offer && moves[at].alone && !begun())
      offer = reads.empty() && writes.empty() && now >= free;
    uint32_t address = 0;
    if (offer) {
      const Move &m = moves[at];
      address = m.address + repeat * m.step + word;
      board->out_cmd_we = m.write;
      board->out_cmd_addr = address;
      if (times[at].command < 0) times[at].command = now;
    }
    board->out_cmd_valid = offer;
    board->out_wdata_valid = !writes.empty();
    if (!writes.empty()) memcpy(&board->out_wdata, writes.front().word.part, 16);
    board->eval();
    auto passed = [&](std::deque<Wanted> &queue) {
      Times &t = times[queue.front().move];
      if (t.first < 0) t.first = now;
      t.last = quiet = now;
      free = now + gap;
      queue.pop_front();
    };
    const bool taken = offer && board->cmd_ready;
    if (board->rdata_valid) {
      if (reads.empty()) fprintf(stderr, "simulate: a word that nobody asked for\n"), exit(3);
      check(reads.front(), *reinterpret_cast<const Word *>(&board->rdata));
      passed(reads);
    }
    if (board->wdata_ready) {
      if (writes.empty()) fprintf(stderr, "simulate: a word is taken that is not there\n"), exit(3);
      passed(writes);
    }
    if (taken) {
      const Move &m = moves[at];
      (m.write ? writes : reads).push_back({at, address, content(address, m.write)});
      if (++word == m.words) {
        word = 0;
        if (++repeat == m.repeats) repeat = 0, at++;
      }
    }
    rise();
    if (now > quiet + none) fprintf(stderr, "simulate: no answer\n"), exit(3);
  }
  board->out_cmd_valid = board->out_wdata_valid = 0;
  return times;
}

int moves(const char *path, long gap, long words) {
  FILE *file = fopen(path, "rb");
  if (!file) return perror(path), 2;
  std::vector<Move> list;
  for (Move m; fread(&m, sizeof m, 1, file) == 1;) list.push_back(m);
  fclose(file);
  std::vector<uint32_t> age(words, 0);
  auto content = [&](uint32_t address, bool write) { return made(address, age.at(address) += write); };
  long read = 0, wrong = 0;
  auto check = [&](const Wanted &wanted, const Word &came) {
    read++;
    wrong += memcmp(&wanted.word, &came, 16) != 0;
  };
  play({{1, 0, (int32_t)words, 1, 0, 0}}, 0, content, check);
  for (int i = 0; i < 200; i++) rise();
  const auto times = play(list, gap, content, check);
  if (wrong) return fprintf(stderr, "simulate: %ld of %ld words are wrong\n", wrong, read), 3;
  for (const Times &t : times)
    printf("%ld %ld %ld\n", t.first - t.command, t.last - t.command, t.last - times[0].command);
  return 0;
}

int program(const char *path, long limit) {
  FILE *file = fopen(path, "r+b");
  if (!file) return perror(path), 2;
  std::vector<Word> image;
  for (Word w; fread(&w, sizeof w, 1, file) == 1;) image.push_back(w);
  const int32_t words = image.size();
  auto content = [&](uint32_t address, bool) { return image[address]; };
  auto keep = [&](const Wanted &wanted, const Word &came) { image[wanted.address] = came; };
  play({{1, 0, words, 1, 0, 0}}, 0, content, keep);
  for (int i = 0; i < 200; i++) rise();
  board->rst_machine = 0;
  board->outside = 0;
  rise();
  board->start = 1;
  rise();
  board->start = 0;
  board->eval();
  const long begin = now;
  long late = 0, read = 0, written = 0;
  while (!board->halted && now - begin < limit) {
    read += board->rdata_valid;
    written += board->wdata_ready;
    late += board->wdata_ready && !board->wdata_valid;
    rise();
  }
  if (!board->halted) return fprintf(stderr, "simulate: no end within %ld cycles\n", limit), 3;
  const long cycles = board->cycles;
  board->rst_machine = 1;
  board->outside = 1;
  for (int i = 0; i < 200; i++) rise();
  play({{0, 0, words, 1, 0, 0}}, 0, content, keep);
  rewind(file);
  if (fwrite(image.data(), sizeof(Word), words, file) != (size_t)words || fclose(file))
    return perror(path), 2;
  printf("{\"cycles\": %ld, \"read\": %ld, \"written\": %ld, \"late\": %ld}\n",
         cycles, read, written, late);
  return 0;
}

}  // namespace

int main(int argc, char **argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  reset();
  if (what == "moves" && argc == 5) return moves(argv[2], atol(argv[3]), atol(argv[4]));
  if (what == "program" && argc == 4) return program(argv[2], atol(argv[3]));
  return fprintf(stderr, "simulate: moves FILE GAP WORDS, or program IMAGE LIMIT\n"), 2;
}
