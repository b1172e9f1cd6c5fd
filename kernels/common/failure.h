// SPDX-License-Identifier: Apache-2.0
//
// Failure by exception inside a backend and by status outside of it.

#ifndef FINDEP_COMMON_FAILURE_H
#define FINDEP_COMMON_FAILURE_H

#include <cstdio>
#include <exception>
#include <new>
#include <string>

#include "findep/backend.h"

namespace findep {

// A failure on its way to the ABI.
struct Failure {
  findep_status status;
  std::string text;
};

[[noreturn]] void fail(findep_status status, const char* file, int line, const char* format, ...)
    __attribute__((format(printf, 4, 5)));

// The basename keeps build paths out of messages.
constexpr const char* basename_of(const char* path) {
  const char* name = path;
  for (const char* p = path; *p != 0; ++p) {
    if (*p == '/') name = p + 1;
  }
  return name;
}

#define FINDEP_FAIL(status, ...) ::findep::fail(status, ::findep::basename_of(__FILE__), __LINE__, __VA_ARGS__)
#define FINDEP_REQUIRE(condition, ...) \
  do {                                 \
    if (!(condition)) FINDEP_FAIL(FINDEP_INVALID_ARGUMENT, __VA_ARGS__); \
  } while (0)

// Runs body and turns whatever it throws into a status and a text.
template <typename Body>
findep_status guarded(std::string* text, Body body) noexcept {
  try {
    try {
      body();
      return FINDEP_OK;
    } catch (const Failure& failure) {
      *text = failure.text;
      return failure.status;
    } catch (const std::bad_alloc&) {
      *text = "out of host memory";
      return FINDEP_OUT_OF_MEMORY;
    } catch (const std::exception& e) {
      *text = std::string("internal: ") + e.what();
      return FINDEP_INTERNAL;
    }
  } catch (...) {
    // Even the text could not be made.
    return FINDEP_OUT_OF_MEMORY;
  }
}

// Runs body and leaves a failure in *error.
template <typename Body>
findep_status reporting(findep_error* error, Body body) noexcept {
  std::string text;
  const findep_status status = guarded(&text, body);
  if (error != nullptr) {
    error->status = status;
    snprintf(error->message, sizeof(error->message), "%s", text.c_str());
  }
  return status;
}

}  // namespace findep

#endif  // FINDEP_COMMON_FAILURE_H
