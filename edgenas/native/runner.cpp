// What runs on a board that has no Python: one static program around ncnn, the counterpart of
// edgenas/runner.py, with the same answers. `runner JOB` prints JSON lines.
//
// JOB, a line a fact, fields divided by tabs:
//   verb     probe | time | predict
//   threads  1
//   affinity big | little | 4-7 | 0,2              where it is given
//   model    PATH  ID                              a .ncnn file (edgenas/exporters/ncnn.py)
//   visit    ROUND  NUMBER OF THE MODEL, FROM 0
//   visit_ms, warm_ms, min_calls, max_calls        as in edgenas/runner.py
//   inputs, output                                 .npy, float32, C order: (n, c, h, w), (n, ...)

#include <sched.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "cpu.h"
#include "datareader.h"
#include "net.h"

namespace {

const char* const kCpus = "/sys/devices/system/cpu/cpu";

struct Refused {
  std::string reason;
};

std::string escaped(const std::string& text) {
  std::string out;
  for (unsigned char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c < 0x20) {
      char code[8];
      snprintf(code, sizeof code, "\\u%04x", c);
      out += code;
    } else {
      out += static_cast<char>(c);
    }
  }
  return '"' + out + '"';
}

void emit(const std::string& fields) {
  if (printf("{%s}\n", fields.c_str()) < 0 || fflush(stdout) != 0) _exit(141);  // the host is gone
}

std::string whole(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return "";
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string trimmed(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ' || text.back() == '\0'))
    text.pop_back();
  return text;
}

int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

struct Job {
  std::map<std::string, std::string> facts;
  std::vector<std::pair<std::string, std::string>> models;  // path, id
  std::vector<std::pair<int, int>> visits;                  // round, model

  double number(const std::string& key) const { return atof(text(key).c_str()); }
  std::string text(const std::string& key) const {
    auto found = facts.find(key);
    return found == facts.end() ? "" : found->second;
  }
};

Job read_job(const char* path) {
  std::ifstream file(path);
  if (!file) throw Refused{std::string("cannot read ") + path};
  Job job;
  std::string line;
  while (std::getline(file, line)) {
    std::vector<std::string> parts;
    std::stringstream stream(line);
    for (std::string part; std::getline(stream, part, '\t');) parts.push_back(part);
    if (parts.size() < 2) continue;
    if (parts[0] == "model")
      job.models.emplace_back(parts[1], parts.size() > 2 ? parts[2] : "");
    else if (parts[0] == "visit" && parts.size() > 2)
      job.visits.emplace_back(atoi(parts[1].c_str()), atoi(parts[2].c_str()));
    else
      job.facts[parts[0]] = parts[1];
  }
  return job;
}

// Where a model cannot be loaded: what is said of it, and whether for want of a kernel.
struct Lame {
  bool unsupported;
  std::string reason;
};

class Model {
 public:
  explicit Model(const std::string& path) : content_(whole(path)) {
    size_t end = content_.find('\0');
    if (end == std::string::npos) throw Lame{false, "not a whole .ncnn file"};
    net_.opt.num_threads = 1;
    net_.opt.use_vulkan_compute = false;
    net_.opt.use_fp16_packed = net_.opt.use_fp16_storage = net_.opt.use_fp16_arithmetic = false;
    net_.opt.use_bf16_storage = false;
    net_.opt.blob_allocator = &blobs_;
    net_.opt.workspace_allocator = &workspace_;
    if (net_.load_param_mem(content_.c_str())) throw Lame{true, "ncnn knows no such operator"};
    const size_t weights = (end + 4) / 4 * 4;
    net_.load_model(reinterpret_cast<const unsigned char*>(content_.data()) + weights);
    const ncnn::Mat& shape = net_.blobs()[net_.input_indexes()[0]].shape;
    if (shape.dims != 3) throw Lame{false, "its input has no shape"};
    input_.create(shape.w, shape.h, shape.c);
    float value = 0;
    for (int c = 0; c < input_.c; c++) {
      float* channel = input_.channel(c);
      for (int i = 0; i < input_.w * input_.h; i++) {
        value = value * 1.7f + 0.31f;
        channel[i] = value -= static_cast<int>(value);
      }
    }
    run();
  }

  void run() {
    ncnn::Extractor extractor = net_.create_extractor();
    extractor.input(net_.input_names()[0], input_);
    if (extractor.extract(net_.output_names()[0], output_)) throw Lame{false, "ncnn failed to run"};
  }

  size_t input_size() const { return size_t(input_.w) * input_.h * input_.c; }

  // Of one image, (c, h, w).
  std::vector<float> predict(const float* image) {
    const size_t plane = size_t(input_.w) * input_.h;
    for (int c = 0; c < input_.c; c++)
      memcpy(input_.channel(c), image + c * plane, plane * sizeof(float));
    run();
    std::vector<float> out;
    const size_t size = size_t(output_.w) * output_.h;
    for (int c = 0; c < output_.c; c++) {
      const float* channel = output_.channel(c);
      out.insert(out.end(), channel, channel + size);
    }
    return out;
  }

 private:
  std::string content_;  // the net points into it
  ncnn::UnlockedPoolAllocator blobs_;
  ncnn::PoolAllocator workspace_;
  ncnn::Net net_;
  ncnn::Mat input_, output_;
};

std::vector<int64_t> timed(Model& model, double visit_ns, double least, double most) {
  std::vector<int64_t> samples;
  double spent = 0;
  model.run();
  while (samples.size() < most && (spent < visit_ns || samples.size() < least)) {
    const int64_t start = now_ns();
    model.run();
    samples.push_back(now_ns() - start);
    spent += static_cast<double>(samples.back());
  }
  return samples;
}

void time_models(const Job& job) {
  std::vector<std::unique_ptr<Model>> models;
  for (const auto& [path, id] : job.models) {
    emit("\"event\":\"loading\",\"id\":" + escaped(id));
    try {
      models.push_back(std::make_unique<Model>(path));
      timed(*models.back(), 1e6 * job.number("warm_ms"), 1, 1e18);
    } catch (const Lame& e) {
      models.push_back(nullptr);
      emit("\"id\":" + escaped(id) + ",\"status\":\"" + (e.unsupported ? "unsupported" : "failed") +
           "\",\"reason\":" + escaped(e.reason));
    }
  }
  emit("\"event\":\"loaded\"");
  int64_t total = 0;
  for (const auto& [round, number] : job.visits) {
    auto& model = models.at(number);
    if (!model) continue;
    const std::string id = escaped(job.models[number].second);
    try {
      std::string ns;
      for (int64_t t : timed(*model, 1e6 * job.number("visit_ms"), job.number("min_calls"),
                             job.number("max_calls"))) {
        ns += (ns.empty() ? "" : ",") + std::to_string(t);
        total += t;
      }
      emit("\"id\":" + id + ",\"round\":" + std::to_string(round) + ",\"ns\":[" + ns + "]");
    } catch (const Lame& e) {
      model.reset();
      emit("\"id\":" + id + ",\"status\":\"failed\",\"reason\":" + escaped(e.reason));
    }
  }
  emit("\"event\":\"end\",\"timed_ns\":" + std::to_string(total));
}

// The shape of a .npy of float32 in C order, and where its numbers begin.
std::pair<std::vector<size_t>, size_t> npy(const std::string& file) {
  if (file.size() < 12 || file.compare(0, 6, "\x93NUMPY") != 0) throw Refused{"not a .npy file"};
  const auto byte = [&](size_t i) { return static_cast<size_t>(static_cast<unsigned char>(file[i])); };
  const bool old = file[6] == 1;
  const size_t start = old ? 10 : 12;
  const size_t length = byte(8) | byte(9) << 8 | (old ? 0 : byte(10) << 16 | byte(11) << 24);
  const std::string header = file.substr(start, length);
  if (header.find("'<f4'") == std::string::npos || header.find("False") == std::string::npos)
    throw Refused{"inputs must be float32 in C order"};
  std::vector<size_t> shape;
  const char* at = header.c_str() + header.find('(') + 1;
  while (*at && *at != ')') {
    char* next;
    const size_t size = strtoul(at, &next, 10);
    if (next == at) break;
    shape.push_back(size);
    at = next;
    while (*at == ',' || *at == ' ') at++;
  }
  return {shape, start + length};
}

void write_npy(const std::string& path, size_t rows, size_t columns, const std::vector<float>& data) {
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + std::to_string(rows) +
                       ", " + std::to_string(columns) + "), }";
  while ((10 + header.size() + 1) % 64) header += ' ';
  header += '\n';
  std::ofstream file(path, std::ios::binary);
  file << "\x93NUMPY" << '\x01' << '\0' << static_cast<char>(header.size() & 255)
       << static_cast<char>(header.size() >> 8) << header;
  file.write(reinterpret_cast<const char*>(data.data()), data.size() * sizeof(float));
  file.close();
  if (!file) throw Refused{"cannot write " + path + ": is its disk full?"};
}

void predict(const Job& job) {
  const std::string file = whole(job.text("inputs"));
  const auto [shape, start] = npy(file);
  Model model(job.models.at(0).first);
  if (shape.size() != 4 || shape[1] * shape[2] * shape[3] != model.input_size())
    throw Refused{"the inputs are not what the model takes"};
  if (file.size() < start + shape[0] * model.input_size() * sizeof(float))
    throw Refused{"the file of inputs was cut short"};
  std::vector<float> images(shape[0] * model.input_size()), outputs;
  memcpy(images.data(), file.data() + start, images.size() * sizeof(float));
  for (size_t i = 0; i < shape[0]; i++) {
    const auto out = model.predict(images.data() + i * model.input_size());
    outputs.insert(outputs.end(), out.begin(), out.end());
    if (i % 64 == 63 || i + 1 == shape[0])
      emit("\"event\":\"progress\",\"done\":" + std::to_string(i + 1) +
           ",\"total\":" + std::to_string(shape[0]));
  }
  write_npy(job.text("output"), shape[0], outputs.size() / shape[0], outputs);
  emit("\"event\":\"end\"");
}

std::string field(const std::string& path, const std::string& name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos || trimmed(line.substr(0, line.find('\t'))).find(name) != 0)
      continue;
    return trimmed(line.substr(std::min(line.find_first_not_of(" \t", colon + 1), line.size())));
  }
  return "";
}

std::string cpu_file(int core, const char* name) {
  return trimmed(whole(kCpus + std::to_string(core) + "/cpufreq/" + name));
}

std::set<int> cores_meant(const std::string& affinity) {
  std::set<int> cores;
  if (affinity != "big" && affinity != "little") {
    std::stringstream parts(affinity);
    for (std::string part; std::getline(parts, part, ',');) {
      const int first = atoi(part.c_str());
      const size_t dash = part.find('-');
      const int last = dash == std::string::npos ? first : atoi(part.c_str() + dash + 1);
      for (int core = first; core <= last; core++) cores.insert(core);
    }
    return cores;
  }
  std::map<int, long> speed;
  for (int core = 0; core < 256; core++) {
    const std::string khz = cpu_file(core, "cpuinfo_max_freq");
    if (!khz.empty()) speed[core] = atol(khz.c_str());
  }
  long slowest = 0, fastest = 0;
  for (const auto& [core, khz] : speed) {
    slowest = slowest ? std::min(slowest, khz) : khz;
    fastest = std::max(fastest, khz);
  }
  if (slowest == fastest)
    throw Refused{"its cores are all alike: " + affinity + " means none of them; give numbers"};
  for (const auto& [core, khz] : speed)
    if ((khz == slowest) == (affinity == "little")) cores.insert(core);
  return cores;
}

std::vector<int> kept_to() {
  cpu_set_t set;
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof set, &set)) return cores;
  for (int core = 0; core < CPU_SETSIZE; core++)
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  return cores;
}

void keep_to(const std::set<int>& cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int core : cores)
    if (core < CPU_SETSIZE) CPU_SET(core, &set);
  if (sched_setaffinity(0, sizeof set, &set)) {
    std::string said;
    for (int core : cores) said += (said.empty() ? "" : ", ") + std::to_string(core);
    throw Refused{"it cannot be kept to cores [" + said + "]: " + strerror(errno)};
  }
}

std::string joined(const std::vector<int>& numbers) {
  std::string out;
  for (int n : numbers) out += (out.empty() ? "" : ",") + std::to_string(n);
  return out;
}

std::string cpu_model() {
  const std::string name = field("/proc/cpuinfo", "model name");
  if (!name.empty()) return name;
  std::string board = trimmed(whole("/proc/device-tree/model"));
  if (board.empty()) board = field("/proc/cpuinfo", "Hardware");
  std::string part = field("/proc/cpuinfo", "CPU implementer") + " " + field("/proc/cpuinfo", "CPU part");
  const std::string said = trimmed(board + (board.empty() ? "" : " ") + part);
  return said.empty() ? "unknown" : said;
}

void probe(const Job& job, size_t cores) {
  utsname system;
  uname(&system);
  std::string fingerprint =
      "\"cpu\":" + escaped(cpu_model()) + ",\"arch\":" + escaped(system.machine) +
      ",\"cores\":" + std::to_string(cores) +
      ",\"runtime\":\"ncnn\",\"runtime_version\":" + escaped(NCNN_VERSION_STRING) + ",\"threads\":1";
  if (!job.text("affinity").empty())
    fingerprint += ",\"affinity\":" + escaped(joined(kept_to()));
  std::string facts = "\"kernel\":" + escaped(system.release) + ",\"affinity\":[" + joined(kept_to()) +
                      "],\"memory\":" + escaped(field("/proc/meminfo", "MemTotal"));
  const std::string governor = cpu_file(0, "scaling_governor");
  if (!governor.empty()) facts += ",\"governor\":" + escaped(governor);
  const double load = atof(whole("/proc/loadavg").c_str());
  if (load > 0) facts += ",\"load_average\":" + std::to_string(load);
  double hottest = 0;
  for (int zone = 0; zone < 64; zone++)
    hottest = std::max(
        hottest, atof(whole("/sys/class/thermal/thermal_zone" + std::to_string(zone) + "/temp").c_str()));
  if (hottest > 0) facts += ",\"temperature_c\":" + std::to_string(hottest / 1000);
  double now = 0, most = 0;
  for (int core = 0; core < 256; core++) {
    now = std::max(now, atof(cpu_file(core, "scaling_cur_freq").c_str()));
    most = std::max(most, atof(cpu_file(core, "cpuinfo_max_freq").c_str()));
  }
  if (now > 0 && most > 0) facts += ",\"frequency_share\":" + std::to_string(now / most);
  emit("\"event\":\"end\",\"fingerprint\":{" + fingerprint + "},\"facts\":{" + facts + "}");
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) {
    fprintf(stderr, "usage: %s JOB\n", arguments[0]);
    return 2;
  }
  try {
    const Job job = read_job(arguments[1]);
    const size_t cores = kept_to().size();  // before it keeps to some of them
    if (!job.text("affinity").empty()) keep_to(cores_meant(job.text("affinity")));
    const std::string verb = job.text("verb");
    if (verb == "probe")
      probe(job, cores);
    else if (verb == "time")
      time_models(job);
    else if (verb == "predict")
      predict(job);
    else
      throw Refused{"no verb '" + verb + "'"};
  } catch (const Refused& e) {
    emit("\"event\":\"refused\",\"reason\":" + escaped(e.reason));
    return 3;
  } catch (const Lame& e) {
    emit("\"event\":\"refused\",\"reason\":" + escaped(e.reason));
    return 3;
  }
  return 0;
}
