# Every header, included first, is refused on a target without 64-bit pointers, and the
# first error says so.
#   cmake -DCXX=compiler -DFLAGS=list -DINCLUDE=dir -DWORK=dir -P refuses_32_bit.cmake
# FLAGS select such targets, one each. No library for them is needed: std/ stands for it.
cmake_minimum_required(VERSION 3.24)

set(ENV{LC_ALL} C)
set(compile ${CXX} -std=c++20 -fsyntax-only -ffreestanding -nostdinc++ -isystem ${CMAKE_CURRENT_LIST_DIR}/std
            -I ${INCLUDE})
# Hosted headers, empty: what is refused is refused before they are used.
file(MAKE_DIRECTORY ${WORK}/hosted)
foreach(name ostream string version)
  file(WRITE ${WORK}/hosted/${name} "")
endforeach()

file(GLOB headers RELATIVE ${INCLUDE} ${INCLUDE}/ptebits/*.hpp ${INCLUDE}/ptebits/formats/*.hpp)
if(NOT headers OR NOT FLAGS)
  message(FATAL_ERROR "no headers, or no targets")
endif()
foreach(header IN LISTS headers)
  set(source ${WORK}/refused.cpp)
  file(WRITE ${source} "#include <${header}>\n")
  foreach(flag IN LISTS FLAGS)
    execute_process(
      COMMAND ${compile} ${flag} -isystem ${WORK}/hosted ${source}
      RESULT_VARIABLE status
      OUTPUT_VARIABLE output
      ERROR_VARIABLE output
    )
    string(REGEX MATCH "[^\n]*error:[^\n]*" first "${output}")
    if(status EQUAL 0 OR NOT first MATCHES "ptebits: only 64-bit targets are supported")
      message(FATAL_ERROR "${header}, ${flag}: this should be refused, for that reason first\n${output}")
    endif()
  endforeach()
  # The same without the flag is accepted, so that the target is what is refused.
  if(NOT header MATCHES "text_stream")
    execute_process(COMMAND ${compile} ${source} COMMAND_ERROR_IS_FATAL ANY)
  endif()
endforeach()
