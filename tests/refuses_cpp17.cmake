# Every header, included first, is refused in C++17, and says so in a few lines.
#   cmake -DCXX=compiler -DINCLUDE=dir -DWORK=dir -P refuses_cpp17.cmake
cmake_minimum_required(VERSION 3.24)

set(ENV{LC_ALL} C)
# The error, its context, and the lines that tell by which header it was included.
set(most_lines 20)

file(MAKE_DIRECTORY ${WORK})
file(GLOB_RECURSE headers RELATIVE ${INCLUDE} ${INCLUDE}/ptebits/*.hpp)
if(NOT headers)
  message(FATAL_ERROR "no headers")
endif()
foreach(header IN LISTS headers)
  set(source ${WORK}/refused.cpp)
  file(WRITE ${source} "#include <${header}>\n")
  execute_process(
    COMMAND ${CXX} -std=c++17 -fsyntax-only -I ${INCLUDE} ${source}
    RESULT_VARIABLE status
    OUTPUT_VARIABLE output
    ERROR_VARIABLE output
  )
  string(REGEX MATCH "[^\n]*error:[^\n]*" first "${output}")
  string(REGEX MATCHALL "\n" ends "${output}")
  list(LENGTH ends lines)
  if(status EQUAL 0 OR NOT first MATCHES "ptebits needs C\\+\\+20" OR lines GREATER most_lines)
    message(FATAL_ERROR "${header}: this should be refused, for that reason first, in ${most_lines} lines\n${output}")
  endif()
endforeach()
list(LENGTH headers count)
message("${count} headers, each refused: ${CXX}")
