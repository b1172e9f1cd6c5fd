// SPDX-License-Identifier: Apache-2.0
//
// Loads a backend's shared library as a program in C would, and uses it wrongly
// in every way that needs no device. `make test-cuda-build` runs it under
// valgrind: on a machine without a GPU the library must refuse politely, leave
// nothing behind and let the process end cleanly.
//
//   loader LIBRARY

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "findep/backend.h"

#define CHECK(condition)                                                       \
  do {                                                                         \
    if (!(condition)) {                                                        \
      fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      exit(1);                                                                 \
    }                                                                          \
  } while (0)

static void refuses_another_version(findep_backend_open_fn open) {
  findep_error error = {0};
  CHECK(open(FINDEP_ABI_VERSION + 1, &error) == NULL);
  CHECK(error.status == FINDEP_VERSION_MISMATCH);
  CHECK(strstr(error.message, "ABI version") != NULL);
  CHECK(open(FINDEP_ABI_VERSION + 1, NULL) == NULL);
}

static void refuses_null(const findep_backend* table) {
  findep_error error = {0};
  CHECK(table->device_count(NULL, &error) == FINDEP_INVALID_ARGUMENT);
  CHECK(table->device_count(NULL, NULL) == FINDEP_INVALID_ARGUMENT);
  CHECK(table->device_open(0, NULL, &error) == FINDEP_INVALID_ARGUMENT);
  CHECK(table->device_close(NULL, &error) == FINDEP_INVALID_ARGUMENT);
  CHECK(table->device_info(NULL, NULL, &error) == FINDEP_INVALID_ARGUMENT);
  CHECK(table->buffer_alloc(NULL, 8, NULL, &error) == FINDEP_INVALID_ARGUMENT);
  CHECK(table->stream_create(NULL, 0, NULL, &error) == FINDEP_INVALID_ARGUMENT);
  CHECK(table->event_create(NULL, NULL, &error) == FINDEP_INVALID_ARGUMENT);
  CHECK(table->matmul(NULL, NULL) == FINDEP_INVALID_ARGUMENT);
  CHECK(table->submit(NULL, NULL, 0, NULL) == FINDEP_INVALID_ARGUMENT);
  CHECK(table->stream_free(NULL) == FINDEP_OK);
  table->buffer_free(NULL);
  table->event_cancel(NULL);
  table->event_free(NULL);
}

// Opens the first device and one that is not there; reports what was said.
static void opens(const findep_backend* table) {
  int32_t count = -1;
  findep_error error = {0};
  CHECK(table->device_count(&count, &error) == FINDEP_OK);
  CHECK(count >= 0);
  findep_device* device = NULL;
  CHECK(table->device_open(count, &device, &error) == FINDEP_NO_DEVICE);
  CHECK(device == NULL && strstr(error.message, "no CUDA device") != NULL);
  CHECK(table->device_open(-1, &device, NULL) == FINDEP_NO_DEVICE);
  if (count == 0) {
    printf("%s has no device: %s\n", table->name, error.message);
    return;
  }
  CHECK(table->device_open(0, &device, &error) == FINDEP_OK);
  findep_device_info info;
  CHECK(table->device_info(device, &info, &error) == FINDEP_OK);
  CHECK(table->device_close(device, &error) == FINDEP_OK);
  printf("%s has %d devices, the first %s\n", table->name, count, info.name);
}

int main(int argc, char** argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: %s LIBRARY\n", argv[0]);
    return 2;
  }
  void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  findep_backend_open_fn open = NULL;
  *(void**)&open = dlsym(library, "findep_backend_open");
  CHECK(open != NULL);
  refuses_another_version(open);
  const findep_backend* table = open(FINDEP_ABI_VERSION, NULL);
  CHECK(table != NULL);
  CHECK(table->abi_version == FINDEP_ABI_VERSION && table->struct_size == sizeof(findep_backend));
  refuses_null(table);
  for (int i = 0; i < 3; ++i) opens(table);
  return 0;
}
