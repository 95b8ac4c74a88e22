// SPDX-License-Identifier: BSL-1.0
// Replays recorded walks and the page tables of real kernels through the library.
//     replay FILE...
// FILE is a .vec, or a .ptimg or .expect that stands beside the other of the two. Status 1
// if a case failed, 2 if a file is malformed.
#include <cstdio>
#include <filesystem>
#include <set>
#include <string>

#include "replay/aarch64.hpp"
#include "replay/iommu.hpp"
#include "replay/report.hpp"
#include "replay/riscv.hpp"
#include "replay/tables.hpp"
#include "replay/vectors.hpp"

namespace {

void replay_file(const std::string& file, replay::report& to)
{
    const std::filesystem::path path(file);
    const std::string extension = path.extension().string();
    if (extension == ".vec") {
        using of_riscv = replay::on_riscv::vector_file;
        using of_iommu = replay::on_iommu::vector_file;
        using of_aarch64 = replay::on_aarch64::vector_file;
        if (of_aarch64::is_one(file)) return of_aarch64(file, to).replay();
        if (of_iommu::is_one(file)) return of_iommu(file, to).replay();
        of_riscv::is_one(file) ? of_riscv(file, to).replay() : replay::vector_file(file, to).replay();
    } else if (extension == ".ptimg") {
        replay::table_file(file, std::filesystem::path(path).replace_extension(".expect").string(), to).replay();
    } else if (extension == ".xz") {
        throw ptimg::error(file + ": is compressed; unpack it first, as by xz -dk");
    } else {
        throw ptimg::error(file + ": is not a .vec, .ptimg or .expect");
    }
}

}  // namespace

int main(int argc, char** argv)
{
    if (argc < 2) {
        std::fprintf(stderr, "usage: replay FILE...\n");
        return 2;
    }
    replay::report total("total");
    bool bad = false;
    std::set<std::string> seen;
    for (int i = 1; i < argc; ++i) {
        std::filesystem::path path(argv[i]);
        // An image and its expectations are one.
        if (path.extension() == ".expect") path.replace_extension(".ptimg");
        const std::string file = path.string();
        if (!seen.insert(file).second) continue;
        replay::report r(file);
        try {
            replay_file(file, r);
        } catch (const ptimg::error& e) {
            std::fflush(stdout);
            std::fprintf(stderr, "%s\n", e.what());
            bad = true;
        }
        r.print();
        total.add(r);
    }
    total.print();
    return bad ? 2 : total.failed != 0 ? 1 : 0;
}
