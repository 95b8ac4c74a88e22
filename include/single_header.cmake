# Writes the library as one file: what ptebits.hpp includes, each header where it is first included.
# So a header that stands under an #if must be of no use elsewhere, as those of detail/atomics.hpp.
#   cmake [-DOUTPUT=file] -P single_header.cmake
cmake_minimum_required(VERSION 3.24)

if(NOT DEFINED OUTPUT)
  set(OUTPUT ptebits.hpp)
endif()

file(READ ${CMAKE_CURRENT_LIST_DIR}/../CMakeLists.txt project)
if(NOT project MATCHES "project\\(ptebits VERSION ([0-9.]+)")
  message(FATAL_ERROR "no version in CMakeLists.txt")
endif()
set(
  head
"// SPDX-License-Identifier: BSL-1.0
// ptebits ${CMAKE_MATCH_1}: page-table entry formats, described once; the library as one file.
#pragma once
"
)
set(text "#include <ptebits/ptebits.hpp>\n")
set(done "")
while(text MATCHES "#include <(ptebits/[a-z_0-9/]+\\.hpp)>\n")
  set(line "${CMAKE_MATCH_0}")
  set(header ${CMAKE_MATCH_1})
  set(inside "")
  if(NOT header IN_LIST done)
    list(APPEND done ${header})
    file(READ ${CMAKE_CURRENT_LIST_DIR}/${header} inside)
    string(REPLACE "// SPDX-License-Identifier: BSL-1.0\n" "" inside "${inside}")
    string(REPLACE "#pragma once\n" "" inside "${inside}")
    string(PREPEND inside "\n// ${header}\n//\n")
  endif()
  string(FIND "${text}" "${line}" begin)
  string(LENGTH "${line}" length)
  math(EXPR end "${begin} + ${length}")
  string(SUBSTRING "${text}" 0 ${begin} before)
  string(SUBSTRING "${text}" ${end} -1 after)
  string(CONCAT text "${before}" "${inside}" "${after}")
endwhile()
string(REGEX REPLACE "\n\n\n+" "\n\n" text "${head}${text}")
file(WRITE ${OUTPUT} "${text}")
