#!/usr/bin/env python3
"""Runs every test of this folder and ends with one line: `N passed, N failed`."""

import pathlib
import sys
import unittest
import warnings


class Result(unittest.TextTestResult):
    """Counts what passed; what could not even be loaded counts as failed."""

    passed = 0

    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed += 1

    def addSkip(self, test, reason):
        self.addFailure(test, (AssertionError, AssertionError(f"skipped: {reason}"), None))

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)


def main():
    warnings.simplefilter("ignore")
    folder = str(pathlib.Path(__file__).parent)
    loader = unittest.TestLoader()
    if len(sys.argv) > 1:
        sys.path.insert(0, folder)
        tests = loader.loadTestsFromNames(sys.argv[1:])
    else:
        tests = loader.discover(folder)
    runner = unittest.TextTestRunner(resultclass=Result, verbosity=2, warnings="ignore", stream=sys.stdout)
    result = runner.run(tests)
    failed = len({str(test).split(" (")[0] + type(test).__name__ for test, _ in result.failures + result.errors})
    failed = max(failed, len(result.unexpectedSuccesses))
    print(f"{result.passed} passed, {failed} failed")
    sys.exit(1 if failed or not result.passed else 0)


if __name__ == "__main__":
    main()
