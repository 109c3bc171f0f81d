"""Right and typical wrong answers to every exercise, one file per chapter, read by `test_check`."""
