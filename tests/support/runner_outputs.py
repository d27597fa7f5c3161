"""Outputs of test runners, as in the benchmark's evaluations."""

PYTEST = """\
HEAD is now at 1f2e3d4 base
Removing src/x.egg-info/
============================= test session starts ==============================
collected 3 items

tests/test_a.py::test_one PASSED                                         [ 33%]
tests/test_a.py::test_two[a b] FAILED                                    [ 66%]
tests/test_b.py::test_three ERROR                                        [100%]

==================================== ERRORS ====================================
_________________________ ERROR at setup of test_three _________________________
E   fixture 'nothing' not found
=================================== FAILURES ===================================
________________________________ test_two[a b] _________________________________
E   assert 1 == 2
=========================== short test summary info ============================
FAILED tests/test_a.py::test_two[a b] - assert 1 == 2
ERROR tests/test_b.py::test_three
==================== 1 failed, 1 passed, 1 error in 0.12s ======================
"""
COLLECTION = """\
==================================== ERRORS ====================================
E   ImportError: cannot import name 'x' from 'y'
=========================== short test summary info ============================
ERROR tests/test_a.py - ImportError: cannot import name 'x' from 'y'
!!!!!!!!!!!!!!!!!!!! Interrupted: 1 error during collection !!!!!!!!!!!!!!!!!!!!
=============================== 1 error in 0.20s ===============================
"""
XDIST = """\
[gw0] [ 50%] PASSED tests/test_a.py::test_one
[gw1] [100%] FAILED tests/test_a.py::test_two
==================== 1 failed, 1 passed in 1.02s (0:00:01) =====================
"""
JEST = """\
FAIL src/__tests__/form.test.tsx
  form
    ✓ renders (5 ms)
    ✕ submits once (12 ms)

  ● form \u203a submits once

    expect(received).toBe(expected)

Test Suites: 1 failed, 3 passed, 4 total
Tests:       1 failed, 1 skipped, 15 passed, 17 total
"""
VITEST = """\
 * src/form.test.ts (2 tests | 1 failed) 12ms
⎯⎯⎯⎯⎯⎯⎯ Failed Tests 1 ⎯⎯⎯⎯⎯⎯⎯
 FAIL  src/form.test.ts > form > submits once
AssertionError: expected 1 to be 2
 Test Files  1 failed | 1 passed (2)
      Tests  1 failed | 8 passed (9)
"""
GO = """\
HEAD is now at 9436cc8 base
Found test functions to run: TestA|TestB
ok  \tgithub.com/go-chi/chi/v5\t0.004s
?   \tgithub.com/go-chi/chi/v5/_examples\t[no test files]
ok  \tgithub.com/go-chi/chi/v5/middleware\t0.003s [no tests to run]
"""
GO_VERBOSE = """\
=== RUN   TestA
--- PASS: TestA (0.00s)
=== RUN   TestB
=== RUN   TestB/empty
    mux_test.go:12: got 1, want 2
--- FAIL: TestB (0.00s)
    --- FAIL: TestB/empty (0.00s)
FAIL
FAIL\tgithub.com/go-chi/chi/v5\t0.003s
FAIL
"""
GO_BUILD = """\
Running Go tests...
# github.com/go-chi/chi/v5 [github.com/go-chi/chi/v5.test]
./mux_test.go:12:4: r.Use undefined
FAIL\tgithub.com/go-chi/chi/v5 [build failed]
ok  \tgithub.com/go-chi/chi/v5/middleware\t0.003s
FAIL
"""
CARGO = """\
   Compiling typst v0.11.1
running 2 tests
test eval::one ... ok
test eval::two ... FAILED

failures:

---- eval::two stdout ----
assertion failed

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 3 filtered out
running 1 test
test result: ok. 1 passed; 0 failed; 0 ignored
"""
NOT_APPLIED = """\
Applying feature patch: solo.patch
error: patch failed: src/a.py:3
error: src/a.py: patch does not apply
"""
