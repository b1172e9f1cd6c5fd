// SPDX-License-Identifier: Apache-2.0

#include <gtest/gtest.h>

#include <cstdio>

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const int result = RUN_ALL_TESTS();
  const testing::UnitTest& all = *testing::UnitTest::GetInstance();
  printf("%d passed, %d failed\n", all.successful_test_count(), all.failed_test_count());
  // A filter that matches nothing must not look like success.
  return result != 0 || all.successful_test_count() == 0 ? 1 : 0;
}
