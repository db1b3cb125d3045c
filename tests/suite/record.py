"""What HdrHistogram's own Python package (PyPI: hdrhistogram) reads in the files of a run, as JSON."""

import json
import sys

from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader


def empty():
    return HdrHistogram(1, 60_000_000_000, 3)  # nanoseconds, up to a minute


def told(histogram):
    buckets = [
        [bucket.value_iterated_to, bucket.count_at_value_iterated_to]
        for bucket in histogram.get_recorded_iterator()
    ]
    percentiles = {
        name: histogram.get_value_at_percentile(percentile)
        for name, percentile in [("p50", 50), ("p99", 99), ("p999", 99.9)]
    }
    return {"count": histogram.get_total_count(), "buckets": buckets, **percentiles}


def log(path):
    """The intervals of a log, and their sums, by their tags."""
    reader = HistogramLogReader(path, empty())
    intervals, sums = {}, {}
    while (interval := reader.get_next_interval_histogram()) is not None:
        tag = interval.get_tag() or ""
        span = [interval.get_start_time_stamp(), interval.get_end_time_stamp(), interval.get_total_count()]
        intervals.setdefault(tag, []).append(span)
        sums.setdefault(tag, empty()).add(interval)
    return {"intervals": intervals, "sums": {tag: told(sum) for tag, sum in sums.items()}}


hdr, result = sys.argv[1:]
with open(result) as file:
    histograms = json.load(file)["histograms"]
whole = {name: told(HdrHistogram.decode(encoded)) for name, encoded in histograms.items()}
print(json.dumps({"log": log(hdr), "whole": whole}))
