"""Who may talk to whom: policies that open nothing, or too little for what pods have to do."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

from tests.deployment.kubernetes_objects import (
    ROLE,
    Manifest,
    Pod,
    launchers,
    name_of,
    of_kind,
    pods,
    selected,
    words_of,
)
from tests.deployment.kubernetes_references import URL

#: The bucket's keys. Where pods have roles of the cloud's instead, it is named all the same, and is not there.
_KEYS = "selfgan-s3"
_ANYWHERE, _HTTPS = "0.0.0.0/0", 443
#: A policy with this annotation names the store's own addresses.
_NARROWED = "selfgan.io/store-addresses"
#: What is never meant by "anywhere": there, nodes are handed their own credentials.
_NODES_OWN = {_ANYWHERE: {"169.254.0.0/16"}, "::/0": {"fe80::/10", "fd00:ec2::/32", "fd20:ce::/32"}}
#: Within those: NodeLocal DNSCache, and the agent of EKS Pod Identity.
_HARMLESS = {"169.254.20.10/32", "169.254.170.23/32", "fd00:ec2::23/128"}


def networks(manifests: list[Manifest]) -> Iterator[str]:
    """Nothing is open but what is opened, and every policy means somebody."""
    policies = of_kind(manifests, "NetworkPolicy")
    denying = [one for one in policies if _denies(one["spec"])]
    for space in {one["metadata"].get("namespace") for one in manifests if list(pods([one]))}:
        if space not in {one["metadata"].get("namespace") for one in denying}:
            yield f"{space}: no policy denies everything by default"
    roles = [pod.labels for pod in pods(manifests)]
    for pod in pods(manifests):
        if not any(one["spec"]["podSelector"] and selected(pod.labels, one["spec"]["podSelector"]) for one in policies):
            yield f"{pod.where}: no policy opens anything for it; is its label {ROLE} right?"
    for one in policies:
        peers = [
            peer["podSelector"]
            for rule in [*one["spec"].get("ingress", []), *one["spec"].get("egress", [])]
            for peer in [*rule.get("from", []), *rule.get("to", [])]
            if "podSelector" in peer and "namespaceSelector" not in peer
        ]
        for selector in [one["spec"]["podSelector"], *peers]:
            if not any(selected(labels, selector) for labels in roles):
                yield f"{name_of(one)}: selects no pod with {selector}"


def _denies(spec: dict[str, object]) -> bool:
    return spec == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def addresses(manifests: list[Manifest]) -> Iterator[str]:
    """Who may go anywhere may so by IPv6 too, and gets at no credentials of a node."""
    nodes_own = [ipaddress.ip_network(block) for blocks in _NODES_OWN.values() for block in blocks]
    for one in of_kind(manifests, "NetworkPolicy"):
        for rule in one["spec"].get("egress", []):
            blocks = {peer["ipBlock"]["cidr"]: peer["ipBlock"] for peer in rule.get("to", []) if "ipBlock" in peer}
            if len(_NODES_OWN.keys() & blocks.keys()) == 1:
                yield f"{name_of(one)}: anywhere by one of IPv4 and IPv6 alone"
            for cidr, block in blocks.items():
                missing = _NODES_OWN.get(cidr, set()) - set(block.get("except", []))
                if missing:
                    yield f"{name_of(one)}: {cidr} lets pods get at {', '.join(sorted(missing))}"
                if cidr not in _NODES_OWN.keys() | _HARMLESS and any(_meet(cidr, own) for own in nodes_own):
                    yield f"{name_of(one)}: {cidr} may hand out a node's own credentials"


def _meet(cidr: str, own: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    block = ipaddress.ip_network(cidr)
    return block.version == own.version and block.overlaps(own)


def reaches(manifests: list[Manifest]) -> Iterator[str]:
    """A pod gets to what it names: to the bucket, of which it has the keys, and to services, which let it in."""
    policies = of_kind(manifests, "NetworkPolicy")
    for pod in pods(manifests):
        words = _errand(pod, manifests)
        sources = [source for container in pod.containers for source in container.get("envFrom", [])]
        has_keys = any(source.get("secretRef", {}).get("name") == _KEYS for source in sources)
        if not has_keys and any("s3://" in word for word in words):
            yield f"{pod.where}: names the bucket, and has no keys of it ({_KEYS})"
        if has_keys and not _opened(policies, "egress", pod.labels, None, _HTTPS):
            yield f"{pod.where}: has keys of the bucket, and no policy lets it out to that"
        for host, port in sorted({found for word in words for found in URL.findall(word)}):
            for server, number in _behind(host, int(port), manifests):
                if not _opened(policies, "egress", pod.labels, server.labels, number):
                    yield f"{pod.where}: no policy lets it out to {host}:{port}"
                if not _opened(policies, "ingress", server.labels, pod.labels, number):
                    yield f"{pod.where}: no policy lets it in at {host}:{port}"


def _errand(pod: Pod, manifests: list[Manifest]) -> list[str]:
    """The words that a pod acts on. What a launcher says behind its -- is for the head and the workers."""
    for_ray = pod.labels.get(ROLE, "").startswith("ray-")
    found = [] if for_ray else words_of(pod, manifests)
    for launcher, words in launchers(manifests):
        cut = words.index("--") if "--" in words else 0
        if for_ray:
            found += words[cut:]
        elif launcher == pod:
            found = words[:cut]
    return found


def _behind(host: str, port: int, manifests: list[Manifest]) -> Iterator[tuple[Pod, int]]:
    """The pods behind a service's name, and their own port. KubeRay makes a service for the head of each RayCluster."""
    for service in of_kind(manifests, "Service"):
        if service["metadata"]["name"] == host:
            targets = {one["targetPort"] for one in service["spec"]["ports"] if one["port"] == port}
            for pod in pods(manifests):
                if selected(pod.labels, {"matchLabels": service["spec"]["selector"]}):
                    opened = [one for container in pod.containers for one in container.get("ports", [])]
                    yield from ((pod, one["containerPort"]) for one in opened if one["name"] in targets)
    for cluster in of_kind(manifests, "RayCluster"):
        if host == f"{cluster['metadata']['name']}-head-svc":
            yield from ((pod, port) for pod in pods([cluster]) if pod.labels.get(ROLE) == "ray-head")


def _opened(policies: list[Manifest], way: str, own: dict[str, str], other: dict[str, str] | None, port: int) -> bool:
    """Whether a policy opens a port between a pod and another, or (None) any address outside."""
    rules = [
        (rule, one["metadata"].get("annotations", {}).get(_NARROWED) is not None)
        for one in policies
        if selected(own, one["spec"]["podSelector"])
        for rule in one["spec"].get(way, [])
    ]
    return any(
        port in {one["port"] for one in rule.get("ports", [{"port": port}])}
        and any(_means(peer, other, narrowed) for peer in rule.get("to" if way == "egress" else "from", [{}]))
        for rule, narrowed in rules
    )


def _means(peer: dict[str, Any], other: dict[str, str] | None, narrowed: bool) -> bool:
    if not peer:
        return True
    if other is None:
        cidr = peer.get("ipBlock", {}).get("cidr")
        return cidr is not None if narrowed else cidr == _ANYWHERE
    return "podSelector" in peer and "namespaceSelector" not in peer and selected(other, peer["podSelector"])
