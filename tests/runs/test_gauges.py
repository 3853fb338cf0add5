"""What Prometheus sees of a run, scraped from a real Ray node."""

import re
import time

import ray
import requests

from service.tracking.gauges import Gauges

LABELS = {"run": "night-1", "recipe": "digits"}


def test_a_runs_numbers_are_on_the_nodes_metrics_page(ray_cluster: tuple[str, str]) -> None:
    ray.init(address=ray_cluster[0], log_to_driver=False)
    try:
        port = next(node["MetricsExportPort"] for node in ray.nodes() if node["Alive"])
        gauges = Gauges(**LABELS, attempts=2)
        gauges.set(50, {"images_per_second": 410.0, "weight/real": 0.5, "loss/real": 0.7})
        expected = {"step": 50.0, "images_per_second": 410.0, "attempts": 2.0, "loss_weight": 0.5}
        deadline = time.monotonic() + 60
        while (found := scraped(port)) != expected:
            assert time.monotonic() < deadline, found
            time.sleep(0.5)
    finally:
        ray.shutdown()


def scraped(port: int) -> dict[str, float]:
    """Our gauges of the run, by name."""
    page = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
    lines = re.findall(r"^ray_selfgan_(\w+)\{(.*)\} (\S+)$", page, re.MULTILINE)
    return {
        name: float(value)
        for name, labels, value in lines
        if all(f'{key}="{text}"' in labels for key, text in LABELS.items())
        and (name != "loss_weight" or 'term="real"' in labels)
    }
