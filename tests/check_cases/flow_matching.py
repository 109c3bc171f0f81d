"""Answers to the exercises of chapter 3: name -> (right, [(wrong, words of its own message), ...])."""

CASES = {
    "conditional_velocity": (
        lambda t, x, x1: (x1 - x) / (1 - t),
        [
            (lambda t, x, x1: (x - x1) / (1 - t), "points away"),
            (lambda t, x, x1: x1 - x, "63 %"),
            (lambda t, x, x1: (x1 - x) / t, "other way"),
            (lambda t, x, x1: (x1 - x) * (1 - t), "instead of multiplying"),
            (lambda t, x, x1: x1 - x / (1 - t), "brackets"),
            (lambda t, x, x1: (x1 - t * x) / (1 - t), "current point"),
        ],
    ),
}
