"""What Prometheus sees of a run, scraped from a real Ray node."""

import re

import ray
import requests

from service.tracking.gauges import Gauges
from tests.patience import PATIENCE, wait_until

LABELS = {"run": "night-1", "recipe": "digits"}


def test_a_runs_numbers_are_on_the_nodes_metrics_page(ray_cluster: tuple[str, str]) -> None:
    ray.init(address=ray_cluster[0], log_to_driver=False)
    try:
        port = next(node["MetricsExportPort"] for node in ray.nodes() if node["Alive"])
        gauges = Gauges(**LABELS, attempts=2)
        gauges.set(50, {"images_per_second": 410.0, "weight/real": 0.5, "loss/real": 0.7})
        expected = {"step": 50.0, "images_per_second": 410.0, "attempts": 2.0, "loss_weight": 0.5}
        wait_until(lambda: scraped(port) == expected, f"{expected} on the page")
    finally:
        ray.shutdown()


def scraped(port: int) -> dict[str, float]:
    """Our gauges of the run, by name."""
    page = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE).text
    lines = re.findall(r"^ray_selfgan_(\w+)\{(.*)\} (\S+)$", page, re.MULTILINE)
    return {
        name: float(value)
        for name, labels, value in lines
        if all(f'{key}="{text}"' in labels for key, text in LABELS.items())
        and (name != "loss_weight" or 'term="real"' in labels)
    }
