# Installs the library without a compiler, then builds and runs one consumer program
# against the installed package and one against the source tree.
#   cmake -DSOURCE=dir -DWORK=dir -DCXX=compiler [-DEMULATOR=command] -P check.cmake
cmake_minimum_required(VERSION 3.24)

function(run)
  execute_process(COMMAND ${ARGN} OUTPUT_VARIABLE output ERROR_VARIABLE output RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${ARGN}\n${output}")
  endif()
endfunction()

file(REMOVE_RECURSE ${WORK})
run(${CMAKE_COMMAND} -S ${SOURCE} -B ${WORK}/library -DPTEBITS_BUILD_TESTS=OFF -DPTEBITS_BUILD_EXAMPLES=OFF
    -DCMAKE_CXX_COMPILER=${WORK}/there-is-none)
run(${CMAKE_COMMAND} --install ${WORK}/library --prefix ${WORK}/prefix)

# The installed tree: every header of the source tree, the package files, the license.
file(GLOB_RECURSE installed RELATIVE ${WORK}/prefix ${WORK}/prefix/*)
file(GLOB headers RELATIVE ${SOURCE} ${SOURCE}/include/ptebits/*.hpp)
set(expected ${headers} share/cmake/ptebits/ptebits-config.cmake share/cmake/ptebits/ptebits-config-version.cmake
             share/licenses/ptebits/LICENSE)
list(SORT installed)
list(SORT expected)
if(NOT installed STREQUAL expected)
  message(FATAL_ERROR "installed: ${installed}\nexpected:  ${expected}")
endif()

foreach(way installed subdirectory)
  run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/${way} -B ${WORK}/${way} -DCMAKE_CXX_COMPILER=${CXX}
      -DCMAKE_PREFIX_PATH=${WORK}/prefix)
  run(${CMAKE_COMMAND} --build ${WORK}/${way})
  run(${EMULATOR} ${WORK}/${way}/consumer)
endforeach()

# A subproject brings no tests, examples or warnings into its user's build.
if(EXISTS ${WORK}/subdirectory/ptebits/tests OR EXISTS ${WORK}/subdirectory/ptebits/examples)
  message(FATAL_ERROR "tests or examples of the library in its user's build")
endif()
