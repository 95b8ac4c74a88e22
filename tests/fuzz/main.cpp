// SPDX-License-Identifier: BSL-1.0
// Runs a fuzz target without libFuzzer, always in the same way:
//     NAME SECONDS [FILE|DIRECTORY]...
// First the files of a corpus, then random inputs, or files a little changed.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

#include "input.hpp"

namespace {

using bytes = std::vector<std::uint8_t>;

std::vector<bytes> read_corpus(int count, char** names)
{
    std::vector<bytes> corpus;
    const auto take = [&](const std::filesystem::path& file) {
        std::ifstream in(file, std::ios::binary);
        fuzz::require(in.is_open());
        corpus.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    };
    for (int i = 0; i < count; ++i) {
        if (!std::filesystem::is_directory(names[i])) {
            take(names[i]);
            continue;
        }
        for (const auto& entry : std::filesystem::directory_iterator(names[i])) take(entry.path());
    }
    std::sort(corpus.begin(), corpus.end());  // directories have no order
    return corpus;
}

}  // namespace

int main(int argc, char** argv)
{
    const int seconds = argc > 1 ? std::atoi(argv[1]) : 0;
    if (seconds < 1) {
        std::fprintf(stderr, "usage: %s SECONDS [FILE|DIRECTORY]...\n", argv[0]);
        return 2;
    }
    const std::vector<bytes> corpus = read_corpus(argc - 2, argv + 2);
    for (const bytes& seed : corpus) LLVMFuzzerTestOneInput(seed.data(), seed.size());

    std::mt19937_64 engine(1);
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
    unsigned long long inputs = corpus.size();
    bytes data;
    while (std::chrono::steady_clock::now() < end) {
        if (corpus.empty()) {
            data.resize(engine() % 400);
            for (std::uint8_t& byte : data) byte = static_cast<std::uint8_t>(engine());
            // Flags of entries: half of the inputs have present ones throughout.
            if (engine() % 2 == 0) {
                for (std::size_t i = 60; i < data.size(); i += 4) data[i] |= 0x07;
            }
        } else {
            // A few bytes of a seed, one another, or cut off.
            data = corpus[engine() % corpus.size()];
            for (std::uint64_t changes = engine() % 4; changes > 0 && !data.empty(); --changes) {
                data[engine() % data.size()] =
                    static_cast<std::uint8_t>(engine() % 2 == 0 ? engine() : data[engine() % data.size()]);
            }
            if (engine() % 8 == 0) data.resize(engine() % (data.size() + 1));
        }
        LLVMFuzzerTestOneInput(data.data(), data.size());
        ++inputs;
    }
    std::printf("%llu inputs, no finding\n", inputs);
    return 0;
}
