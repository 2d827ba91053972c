//! Which scalar fields are pointers in Go, so that their zero value differs from absence. Neither
//! source says so; this table is written by hand from the API types.

use crate::join::Definition;

/// Whether `field` of a definition is a pointer to a scalar.
pub fn is_pointer(definition: &str, field: &str) -> bool {
    POINTERS.iter().any(|(name, fields)| {
        matches(name, definition) && fields.split_ascii_whitespace().any(|name| name == field)
    })
}

/// Each entry must name a type and fields that exist.
pub fn verify(definitions: &[Definition]) -> Result<(), String> {
    for (name, fields) in POINTERS {
        for field in fields.split_ascii_whitespace() {
            let exists = definitions.iter().any(|definition| {
                matches(name, &definition.name)
                    && definition.fields.iter().any(|member| member.json == field)
            });
            if !exists {
                return Err(format!("there is no field {name}.{field}"));
            }
        }
    }
    Ok(())
}

/// A name is a type of any group, or ends in a group, version and type.
fn matches(name: &str, definition: &str) -> bool {
    definition.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
}

const POINTERS: &[(&str, &str)] = &[
    ("AppArmorProfile", "localhostProfile"),
    ("AzureDiskVolumeSource", "readOnly cachingMode fsType kind"),
    ("AzureFilePersistentVolumeSource", "secretNamespace"),
    (
        "CSIDriverSpec",
        "attachRequired nodeAllocatableUpdatePeriodSeconds podInfoOnMount requiresRepublish \
         seLinuxMount storageCapacity fsGroupPolicy",
    ),
    ("CSIVolumeSource", "readOnly fsType"),
    ("CertificateSigningRequestSpec", "expirationSeconds"),
    ("ClientIPConfig", "timeoutSeconds"),
    ("ClusterTrustBundleProjection", "name optional signerName"),
    ("ConfigMap", "immutable"),
    ("ConfigMapEnvSource", "optional"),
    ("ConfigMapKeySelector", "optional"),
    ("ConfigMapProjection", "optional"),
    ("ConfigMapVolumeSource", "defaultMode optional"),
    ("Container", "restartPolicy"),
    ("ContainerStatus", "started stopSignal"),
    (
        "CronJobSpec",
        "failedJobsHistoryLimit startingDeadlineSeconds successfulJobsHistoryLimit suspend timeZone",
    ),
    ("CustomResourceDefinitionVersion", "deprecationWarning"),
    ("CustomResourceSubresourceScale", "labelSelectorPath"),
    ("DaemonSetSpec", "revisionHistoryLimit"),
    ("DaemonSetStatus", "collisionCount"),
    (
        "DeleteOptions",
        "gracePeriodSeconds orphanDependents propagationPolicy \
         ignoreStoreReadErrorWithClusterBreakingPotential",
    ),
    ("DeploymentSpec", "progressDeadlineSeconds replicas revisionHistoryLimit"),
    ("DeploymentStatus", "collisionCount"),
    ("DownwardAPIVolumeFile", "mode"),
    ("DownwardAPIVolumeSource", "defaultMode"),
    ("Endpoint", "hostname nodeName zone"),
    ("EndpointAddress", "nodeName"),
    ("EndpointConditions", "ready serving terminating"),
    ("EphemeralContainerCommon", "restartPolicy"),
    ("ExemptPriorityLevelConfiguration", "lendablePercent nominalConcurrencyShares"),
    ("FCVolumeSource", "lun"),
    ("GRPCAction", "service"),
    ("GlusterfsPersistentVolumeSource", "endpointsNamespace"),
    ("HPAScalingRules", "selectPolicy stabilizationWindowSeconds"),
    ("HTTPIngressPath", "pathType"),
    ("HorizontalPodAutoscalerSpec", "minReplicas targetCPUUtilizationPercentage"),
    ("HorizontalPodAutoscalerStatus", "currentCPUUtilizationPercentage observedGeneration"),
    ("HostPathVolumeSource", "type"),
    ("ISCSIPersistentVolumeSource", "initiatorName"),
    ("ISCSIVolumeSource", "initiatorName"),
    ("IngressClassParametersReference", "apiGroup namespace scope"),
    ("IngressPortStatus", "error"),
    ("IngressSpec", "ingressClassName"),
    (
        "JSONSchemaProps",
        "$ref maxItems maxLength maxProperties maximum minItems minLength minProperties minimum \
         multipleOf x-kubernetes-list-type x-kubernetes-map-type \
         x-kubernetes-preserve-unknown-fields",
    ),
    (
        "JobSpec",
        "activeDeadlineSeconds backoffLimit backoffLimitPerIndex completionMode completions \
         managedBy manualSelector maxFailedIndexes parallelism podReplacementPolicy suspend \
         ttlSecondsAfterFinished",
    ),
    ("JobStatus", "failedIndexes ready terminating"),
    ("KeyToPath", "mode"),
    ("LeaseSpec", "holderIdentity leaseDurationSeconds leaseTransitions preferredHolder strategy"),
    ("Lifecycle", "stopSignal"),
    (
        "LimitedPriorityLevelConfiguration",
        "borrowingLimitPercent lendablePercent nominalConcurrencyShares",
    ),
    ("ListMeta", "remainingItemCount"),
    ("LoadBalancerIngress", "ipMode"),
    ("LocalVolumeSource", "fsType"),
    ("MatchResources", "matchPolicy"),
    ("MetricTarget", "averageUtilization"),
    ("MetricValueStatus", "averageUtilization"),
    ("MutatingWebhook", "failurePolicy matchPolicy reinvocationPolicy sideEffects timeoutSeconds"),
    ("NetworkPolicyPort", "endPort port protocol"),
    ("NodeFeatures", "supplementalGroupsPolicy"),
    ("NodeRuntimeHandlerFeatures", "recursiveReadOnlyMounts userNamespaces"),
    ("NodeSwapStatus", "capacity"),
    ("ObjectMeta", "deletionGracePeriodSeconds"),
    ("OwnerReference", "blockOwnerDeletion controller"),
    ("ParamRef", "parameterNotFoundAction"),
    ("PatchOptions", "force"),
    ("PersistentVolumeClaimSpec", "storageClassName volumeAttributesClassName volumeMode"),
    ("PersistentVolumeClaimStatus", "currentVolumeAttributesClassName"),
    ("PersistentVolumeSpec", "volumeAttributesClassName volumeMode"),
    ("PodDNSConfigOption", "value"),
    ("PodDisruptionBudgetSpec", "maxUnavailable minAvailable unhealthyPodEvictionPolicy"),
    ("PodFailurePolicyOnExitCodesRequirement", "containerName"),
    ("PodResourceClaim", "resourceClaimName resourceClaimTemplateName"),
    ("PodResourceClaimStatus", "resourceClaimName"),
    (
        "PodSecurityContext",
        "fsGroup fsGroupChangePolicy runAsGroup runAsNonRoot runAsUser seLinuxChangePolicy \
         supplementalGroupsPolicy",
    ),
    (
        "PodSpec",
        "activeDeadlineSeconds automountServiceAccountToken enableServiceLinks hostUsers \
         preemptionPolicy priority runtimeClassName setHostnameAsFQDN shareProcessNamespace \
         terminationGracePeriodSeconds",
    ),
    ("PortStatus", "error"),
    ("Preconditions", "resourceVersion uid"),
    ("PriorityClass", "preemptionPolicy"),
    ("Probe", "terminationGracePeriodSeconds"),
    ("ProjectedVolumeSource", "defaultMode"),
    ("ReplicaSetSpec", "replicas"),
    ("ReplicationControllerSpec", "replicas"),
    ("RollingUpdateDaemonSet", "maxSurge maxUnavailable"),
    ("RollingUpdateDeployment", "maxSurge maxUnavailable"),
    ("RollingUpdateStatefulSetStrategy", "maxUnavailable partition"),
    ("Rule", "scope"),
    // Not a pointer, but nothing is gained by forgetting that somebody scales to nothing.
    ("ScaleSpec", "replicas"),
    ("SeccompProfile", "localhostProfile"),
    ("Secret", "immutable"),
    ("SecretEnvSource", "optional"),
    ("SecretKeySelector", "optional"),
    ("SecretProjection", "optional"),
    ("SecretVolumeSource", "defaultMode optional"),
    (
        "SecurityContext",
        "allowPrivilegeEscalation privileged procMount readOnlyRootFilesystem runAsGroup \
         runAsNonRoot runAsUser",
    ),
    ("ServiceAccount", "automountServiceAccountToken"),
    ("ServiceAccountTokenProjection", "expirationSeconds"),
    ("ServicePort", "appProtocol"),
    ("ServiceReference", "path port"),
    (
        "ServiceSpec",
        "allocateLoadBalancerNodePorts internalTrafficPolicy ipFamilyPolicy loadBalancerClass \
         trafficDistribution",
    ),
    ("StatefulSetSpec", "replicas revisionHistoryLimit"),
    ("StatefulSetStatus", "collisionCount"),
    ("StorageClass", "allowVolumeExpansion reclaimPolicy volumeBindingMode"),
    ("SuccessPolicyRule", "succeededCount succeededIndexes"),
    ("TokenRequest", "expirationSeconds"),
    ("TokenRequestSpec", "expirationSeconds"),
    ("Toleration", "tolerationSeconds"),
    ("TopologySpreadConstraint", "minDomains nodeAffinityPolicy nodeTaintsPolicy"),
    ("TypedLocalObjectReference", "apiGroup"),
    ("TypedObjectReference", "apiGroup namespace"),
    ("ValidatingAdmissionPolicySpec", "failurePolicy"),
    ("ValidatingWebhook", "failurePolicy matchPolicy sideEffects timeoutSeconds"),
    ("Validation", "reason"),
    ("ValidationRule", "optionalOldSelf reason"),
    ("VolumeAttachmentSource", "persistentVolumeName"),
    ("VolumeError", "errorCode"),
    ("VolumeMount", "mountPropagation recursiveReadOnly"),
    ("VolumeMountStatus", "recursiveReadOnly"),
    ("VolumeNodeResources", "count"),
    ("WebhookClientConfig", "url"),
    (
        "WindowsSecurityContextOptions",
        "gmsaCredentialSpec gmsaCredentialSpecName hostProcess runAsUserName",
    ),
    ("api.core.v1.EndpointPort", "appProtocol"),
    ("api.discovery.v1.EndpointPort", "appProtocol name port protocol"),
    ("api.discovery.v1beta1.EndpointPort", "appProtocol name port protocol"),
];
