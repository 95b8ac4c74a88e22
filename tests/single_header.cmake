# The library as one file: alone it is enough for a program that runs, and something of every
# header compiles with it, without a warning.
#   cmake -DINCLUDE=dir -DWORK=dir -DCXX=compiler [-DEMULATOR=command] -P single_header.cmake
cmake_minimum_required(VERSION 3.24)

set(here ${CMAKE_CURRENT_LIST_DIR})
file(REMOVE_RECURSE ${WORK})
execute_process(
  COMMAND ${CMAKE_COMMAND} -DOUTPUT=${WORK}/ptebits/ptebits.hpp -P ${INCLUDE}/single_header.cmake
  COMMAND_ERROR_IS_FATAL ANY
)
set(compile ${CXX} -std=c++20 -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wold-style-cast
            -Werror -I ${WORK})
execute_process(COMMAND ${compile} -fsyntax-only ${here}/headers/kernel.cpp COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${compile} ${here}/package/consumer.cpp -o ${WORK}/consumer COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${EMULATOR} ${WORK}/consumer COMMAND_ERROR_IS_FATAL ANY)
