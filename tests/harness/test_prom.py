"""The metrics reader sees what engines write, and nothing else."""

import unittest

from harness.prom import Metrics

TEXT = """\
# HELP vllm:prompt_tokens_by_source_total Number of prompt tokens.
# TYPE vllm:prompt_tokens_by_source_total counter
vllm:prompt_tokens_by_source_total{engine="0",source="local_compute"} 7.0
vllm:prompt_tokens_by_source_total{engine="0",source="external_kv_transfer"} 241.0
vllm:nixl_bytes_transferred_sum{engine="0",model_name="a \\"b\\" {c}"} 1.048576e+06
vllm:nixl_bytes_transferred_bucket{engine="0",le="+Inf"} 1.0 1764000000
up 1
"""


class ReadsThePrometheusFormat(unittest.TestCase):
    def setUp(self):
        self.metrics = Metrics.parse(TEXT)

    def test_values_are_summed_over_labels_unless_labels_are_asked_for(self):
        name = "vllm:prompt_tokens_by_source_total"
        self.assertEqual(self.metrics.total(name), 248)
        self.assertEqual(self.metrics.total(name, source="local_compute"), 7)

    def test_labels_may_hold_quotes_and_braces(self):
        self.assertEqual(self.metrics.total("vllm:nixl_bytes_transferred_sum"), 1048576)

    def test_time_stamps_and_bare_names_are_read(self):
        self.assertEqual(self.metrics.total("vllm:nixl_bytes_transferred_bucket", le="+Inf"), 1)
        self.assertEqual(self.metrics.total("up"), 1)

    def test_a_missing_series_is_told_from_one_at_zero(self):
        self.assertEqual(self.metrics.total("down"), 0)
        self.assertFalse(self.metrics.has("down"))
        self.assertTrue(self.metrics.has("up"))
