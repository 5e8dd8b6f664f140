"""Bars are where their times are, never vanish, and never leave their row."""

import unittest

from timeline import bar_of, duration, size


class DrawsBars(unittest.TestCase):
    def test_a_bar_covers_its_part_of_the_row(self):
        self.assertEqual(bar_of(0, 4, 8, unicode=True), "████    ")
        self.assertEqual(bar_of(4, 8, 8, unicode=True), "    ████")
        self.assertEqual(bar_of(2, 4.5, 8, unicode=True), "  ██▌   ")
        self.assertEqual(bar_of(2, 4, 8, unicode=False), "  ##    ")

    def test_even_the_shortest_bar_is_seen(self):
        for start in (0, 3.3, 7.99, 8):
            for unicode in (True, False):
                with self.subTest(start=start, unicode=unicode):
                    self.assertNotEqual(bar_of(start, start, 8, unicode).strip(), "")

    def test_no_bar_leaves_its_row(self):
        for unicode in (True, False):
            for start in range(9):
                for end in range(start, 12):
                    self.assertEqual(len(bar_of(start, end, 8, unicode)), 8)


class WritesNumbersForPeople(unittest.TestCase):
    def test_durations(self):
        self.assertEqual([duration(s) for s in (0.0004, 0.0123, 0.5, 1.234)], ["0.4 ms", "12 ms", "500 ms", "1.23 s"])

    def test_sizes(self):
        self.assertEqual([size(n) for n in (12, 4096, 26_400_000, 3.2e9)], ["12 B", "4.1 kB", "26.4 MB", "3.20 GB"])
