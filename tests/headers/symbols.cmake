# What the headers define in a translation unit: nothing where they are only included, and
# where they are used only what the linker merges with that of other units.
#   cmake -DCXX=compiler -DNM=nm -DINCLUDE=dir -DWORK=dir -P symbols.cmake
cmake_minimum_required(VERSION 3.24)

file(MAKE_DIRECTORY ${WORK})
function(symbols_of source result)
  execute_process(
    COMMAND ${CXX} -std=c++20 -O0 -I ${INCLUDE} -c ${source} -o ${WORK}/unit.o
    COMMAND_ERROR_IS_FATAL ANY
  )
  execute_process(
    COMMAND ${NM} --defined-only --demangle ${WORK}/unit.o
    OUTPUT_VARIABLE symbols
    ERROR_VARIABLE none
    COMMAND_ERROR_IS_FATAL ANY
  )
  set(${result} "${symbols}" PARENT_SCOPE)
endfunction()

file(GLOB headers RELATIVE ${INCLUDE} ${INCLUDE}/ptebits/*.hpp ${INCLUDE}/ptebits/formats/*.hpp)
list(TRANSFORM headers REPLACE "(.+)" "#include <\\1>\n")
list(JOIN headers "" text)
file(WRITE ${WORK}/included.cpp "${text}")
symbols_of(${WORK}/included.cpp defined)
if(NOT defined STREQUAL "")
  message(FATAL_ERROR "headers that are only included define:\n${defined}")
endif()

# Weak (W, V) and unique (u) symbols are merged; n names a group of them. Lambdas in the
# initializer of a static member are functions of each unit to GCC 12 and Clang 16, of which
# the merged object calls one: the same code.
symbols_of(${CMAKE_CURRENT_LIST_DIR}/other_unit.cpp defined)
string(REGEX MATCHALL "[0-9a-f]+ [WVu] [^\n]*ptebits::[^\n]+" merged "${defined}")
string(REGEX MATCHALL "[0-9a-f]+ [^WVun] [^\n]*(ptebits|use)::[^\n]+" others "${defined}")
list(FILTER others EXCLUDE REGEX " t ptebits::[a-z_]*::({lambda|\\$_)")
list(LENGTH merged count)
if(count LESS 100 OR others)
  list(JOIN others "\n" others)
  message(FATAL_ERROR "${count} symbols of ptebits are merged by the linker, these are not:\n${others}")
endif()
message("${count} symbols, all merged")
