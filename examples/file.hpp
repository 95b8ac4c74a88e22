// SPDX-License-Identifier: BSL-1.0
// A file that is read in place: at positions, a piece at a time, whatever its size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <ios>
#include <istream>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

namespace dump {

/// What is wrong with an input, beginning with the file's name and where in it.
struct error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class file {
public:
    /// Opens a file. Throws error.
    explicit file(std::string name) : name_(std::move(name))
    {
        std::error_code problem;
        const std::filesystem::file_status status = std::filesystem::status(name_, problem);
        if (!std::filesystem::exists(status)) throw error(name_ + ": no such file");
        if (std::filesystem::is_directory(status)) throw error(name_ + ": is a directory");
        auto in = std::make_unique<std::ifstream>();
        in->rdbuf()->pubsetbuf(nullptr, 0);  // a page table is as large as a buffer
        in->open(name_, std::ios::binary);
        if (!*in) throw error(name_ + ": cannot be read");
        in_ = std::move(in);
        find_size();
    }
    /// What a stream has, under a name for messages.
    file(std::string name, std::unique_ptr<std::istream> from) : name_(std::move(name)), in_(std::move(from))
    {
        find_size();
    }

    [[nodiscard]] const std::string& name() const noexcept { return name_; }
    /// As it was when the file was opened, in bytes; 0 if the file is a pipe.
    [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
    [[nodiscard]] bool seekable() const noexcept { return seekable_; }

    [[noreturn]] void fail(std::uint64_t offset, const std::string& reason) const
    {
        throw error(name_ + ": offset " + std::to_string(offset) + ": " + reason);
    }

    /// Reads bytes that the file has by its size. Throws error, also where the file was cut since.
    void read(std::uint64_t offset, void* to, std::size_t bytes)
    {
        if (offset > size_ || bytes > size_ - offset) fail(offset, "the file ends at " + std::to_string(size_));
        in_->clear();
        in_->seekg(static_cast<std::streamoff>(offset));
        in_->read(static_cast<char*>(to), static_cast<std::streamsize>(bytes));
        if (static_cast<std::size_t>(in_->gcount()) != bytes)
            fail(offset, "cannot be read: was the file cut meanwhile?");
    }

    /// Everything, also of a pipe. Throws error.
    [[nodiscard]] std::string text()
    {
        std::string all;
        char block[4096];
        in_->clear();
        if (seekable_) in_->seekg(0);
        while (in_->read(block, sizeof block), in_->gcount() > 0) {
            all.append(block, static_cast<std::size_t>(in_->gcount()));
        }
        if (!in_->eof()) throw error(name_ + ": cannot be read");
        return all;
    }

private:
    void find_size()
    {
        const auto end = in_->seekg(0, std::ios::end).tellg();
        seekable_ = in_->good() && end >= 0;
        if (seekable_) size_ = static_cast<std::uint64_t>(end);
        in_->clear();
    }

    std::string name_;
    std::unique_ptr<std::istream> in_;
    std::uint64_t size_ = 0;
    bool seekable_ = false;
};

}  // namespace dump
