"""Every overlay renders, fits the schemas of Kubernetes and of operators, and means it."""

import json
import re
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from service.observing.spool import LAST_WRITE
from service.settings import PREFIX, Settings
from tamis.policies.parsing import load_policies
from tests.k8s.rendered import K8S, OVERLAYS, Manifest, one, render

# The oldest release with the sleep action, and the newest known here.
RELEASES = ("1.30.0", "1.37.0")
CUSTOM = {"ServiceMonitor", "PrometheusRule", "ScaledObject"}
SCHEMAS = Path(__file__).parent / "schemas"
MARGIN = 5


@pytest.fixture(params=OVERLAYS)
def manifests(request) -> tuple[Manifest, ...]:
    return render(K8S / "overlays" / request.param)


def pod(manifests: tuple[Manifest, ...]) -> Manifest:
    return one(manifests, "Deployment")["spec"]["template"]["spec"]


def container(manifests: tuple[Manifest, ...]) -> Manifest:
    (found,) = pod(manifests)["containers"]
    return found


def environment(manifests: tuple[Manifest, ...]) -> dict[str, str]:
    return {e["name"]: e["value"] for e in container(manifests)["env"]}


@pytest.mark.parametrize("release", RELEASES)
def test_resources_fit_the_schemas_of_kubernetes(manifests, release):
    for manifest in manifests:
        if manifest["kind"] not in CUSTOM:
            kubernetes_validate.validate(manifest, release, strict=True)


def test_custom_resources_fit_the_schemas_of_their_operators(manifests):
    for manifest in manifests:
        if manifest["kind"] in CUSTOM:
            schema = json.loads((SCHEMAS / f"{manifest['kind']}.json").read_text())
            jsonschema.validate(manifest, schema)


@pytest.mark.parametrize("kind", sorted(CUSTOM))
def test_the_schemas_refuse_what_operators_would_not_understand(kind):
    overlay = "keda" if kind == "ScaledObject" else "monitoring"
    good = one(render(K8S / "overlays" / overlay), kind)
    schema = json.loads((SCHEMAS / f"{kind}.json").read_text())
    for bad in (good | {"spec": good["spec"] | {"unheard": 1}}, good | {"spec": []}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)


def test_settings_named_in_the_pod_exist_and_are_valid(manifests, tmp_path, monkeypatch):
    chosen = environment(manifests)
    assert {name.removeprefix(PREFIX).lower() for name in chosen} <= set(Settings.model_fields)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    ports = {port["name"]: port["containerPort"] for port in container(manifests)["ports"]}
    assert ports == {"http": settings.port, "admin": settings.admin_port}
    assert settings.host == "0.0.0.0"
    mounts = {mount["mountPath"] for mount in container(manifests)["volumeMounts"]}
    assert str(settings.policies) in mounts


def test_a_pod_has_time_to_leave(manifests, monkeypatch):
    for name, value in environment(manifests).items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    pre_stop = container(manifests)["lifecycle"]["preStop"]["sleep"]["seconds"]
    # At worst it is asked on while it lingers, as long as it may drain, and then drains; reasons
    # that are written end; and what was seen is written, as long as it may drain again.
    leaving = settings.linger_seconds + 2 * settings.drain_seconds
    leaving += settings.reasoner_seconds + settings.drain_seconds + 2 * LAST_WRITE
    grace = pod(manifests)["terminationGracePeriodSeconds"]
    assert pre_stop >= 5
    assert pre_stop + leaving + MARGIN <= grace


def test_probes_ask_different_questions(manifests):
    probes = {
        name: container(manifests)[f"{name}Probe"] for name in ("startup", "readiness", "liveness")
    }
    paths = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
    assert paths == {
        "startup": "/health/ready",
        "readiness": "/health/ready",
        "liveness": "/health/live",
    }
    assert {probe["httpGet"]["port"] for probe in probes.values()} == {"http"}
    # A pod that is busy is taken out long before it is killed, and is killed only if it hangs.
    seconds = {n: p["periodSeconds"] * p["failureThreshold"] for n, p in probes.items()}
    assert seconds["readiness"] <= 10 < 60 <= min(seconds["liveness"], seconds["startup"])


def test_a_pod_may_do_nothing_it_need_not(manifests):
    context = pod(manifests)["securityContext"] | container(manifests)["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] == context["runAsGroup"] == 65532
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(manifests)["automountServiceAccountToken"] is False
    assert one(manifests, "ServiceAccount")["automountServiceAccountToken"] is False
    # Service links would set TAMIS_PORT to tcp://….
    assert pod(manifests)["enableServiceLinks"] is False
    labels = one(manifests, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    writable = [m for m in container(manifests)["volumeMounts"] if not m.get("readOnly")]
    volumes = {volume["name"]: volume for volume in pod(manifests)["volumes"]}
    assert [m["mountPath"] for m in writable] == ["/tmp"]
    assert all("emptyDir" in volumes[m["name"]] for m in writable)


def test_nothing_goes_out_and_only_two_come_in(manifests):
    policy = one(manifests, "NetworkPolicy")["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert policy.get("egress", []) == []
    came = {rule["ports"][0]["port"]: len(rule["from"]) for rule in policy["ingress"]}
    assert came == {"http": 1, "admin": 1}
    assert all(len(rule["ports"]) == 1 for rule in policy["ingress"])


def test_selectors_find_the_pods(manifests):
    deployment = one(manifests, "Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    selectors = [
        deployment["selector"]["matchLabels"],
        one(manifests, "Service")["spec"]["selector"],
        one(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(s["labelSelector"]["matchLabels"] for s in pod(manifests)["topologySpreadConstraints"]),
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels.items()
    ports = {port["name"] for port in container(manifests)["ports"]}
    assert {port["targetPort"] for port in one(manifests, "Service")["spec"]["ports"]} == ports


def test_no_capacity_is_lost_while_pods_are_replaced(manifests):
    strategy = one(manifests, "Deployment")["spec"]["strategy"]
    assert strategy["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert one(manifests, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_resources_are_whole_cores_that_the_pod_really_gets(manifests):
    resources = container(manifests)["resources"]
    assert resources["requests"] == resources["limits"]
    assert re.fullmatch(r"\d+", resources["limits"]["cpu"])


def test_the_gpu_overlay_asks_for_what_it_configures():
    manifests = render(K8S / "overlays" / "gpu")
    assert container(manifests)["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert environment(manifests)["TAMIS_PROVIDER"] == "cuda"
    assert container(manifests)["image"].endswith("-gpu")
    # The image holds one classifier, so that whoever waits for another waits for good.
    image = (K8S.parent / "Dockerfile").read_text().partition("FROM final AS gpu\n")[2]
    held = set(re.findall(r"COPY \S+ /opt/tamis/(\S+)", image.partition("\nFROM ")[0]))
    assert "bundle" in held
    assert not held & {"accurate", "multilingual"}
    assert environment(manifests)["TAMIS_TIER"] == "fast"


@pytest.mark.parametrize("overlay", ["monitoring", "keda"])
def test_an_autoscaler_alone_owns_the_number_of_pods(overlay):
    manifests = render(K8S / "overlays" / overlay)
    assert "replicas" not in one(manifests, "Deployment")["spec"]
    scalers = [m for m in manifests if m["kind"] in {"HorizontalPodAutoscaler", "ScaledObject"}]
    (scaler,) = scalers
    deployment = one(manifests, "Deployment")["metadata"]["name"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment


def test_both_autoscalers_aim_at_the_same():
    hpa = one(render(K8S / "overlays" / "monitoring"), "HorizontalPodAutoscaler")["spec"]
    keda = one(render(K8S / "overlays" / "keda"), "ScaledObject")["spec"]
    assert keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == hpa["behavior"]
    assert (keda["minReplicaCount"], keda["maxReplicaCount"]) == (
        hpa["minReplicas"],
        hpa["maxReplicas"],
    )
    # It would outvote CPU where Prometheus is away.
    assert "fallback" not in keda
    queue, cpu = keda["triggers"]
    assert queue["metadata"]["threshold"] == hpa["metrics"][0]["pods"]["target"]["averageValue"]
    utilization = hpa["metrics"][1]["resource"]["target"]["averageUtilization"]
    assert cpu["metadata"]["value"] == str(utilization)
    # The definition allows any texts here; these are what the scaler asks for.
    assert set(queue["metadata"]) == {"serverAddress", "query", "threshold"}
    assert hpa["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 300


def test_components_compose_with_the_other_overlay(tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    up = Path("../" * (len(own.resolve().parts) - 1))
    parts = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "elsewhere",
        "resources": [str(up / (K8S / "overlays" / "gpu").relative_to("/"))],
        "components": [
            str(up / (K8S / "components" / name).relative_to("/"))
            for name in ("monitoring", "keda", "keys")
        ],
    }
    (own / "kustomization.yaml").write_text(yaml.safe_dump(parts))
    manifests = render(own)
    for manifest in manifests:
        if manifest["kind"] not in CUSTOM:
            kubernetes_validate.validate(manifest, RELEASES[-1], strict=True)
    assert {m["metadata"].get("namespace", "elsewhere") for m in manifests} == {"elsewhere"}
    assert environment(manifests)["TAMIS_KEYS"] == "/etc/tamis/keys/keys.yaml"
    secret = {volume["name"]: volume for volume in pod(manifests)["volumes"]}["keys"]["secret"]
    # A missing Secret must hold the pod up, not open the service.
    assert not secret.get("optional", False)


def test_policies_are_mounted_so_that_they_can_change():
    manifests = render(K8S / "overlays" / "cpu")
    (volume,) = [v for v in pod(manifests)["volumes"] if v["name"] == "policies"]
    config = one(manifests, "ConfigMap")
    # The name stays when the content changes, or every change would replace the pods.
    assert volume["configMap"]["name"] == config["metadata"]["name"] == "tamis-policies"
    (mount,) = [m for m in container(manifests)["volumeMounts"] if m["name"] == "policies"]
    assert "subPath" not in mount
    assert set(load_policies(K8S / "base" / "policies")) == {"gateway"}
    assert set(config["data"]) == {path.name for path in (K8S / "base" / "policies").iterdir()}


def test_prometheus_scrapes_where_metrics_are():
    manifests = render(K8S / "overlays" / "monitoring")
    monitor = one(manifests, "ServiceMonitor")["spec"]
    service = one(manifests, "Service")
    labels = service["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert labels[monitor["jobLabel"]] == "tamis"
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["port"] == "admin"
